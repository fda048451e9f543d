"""Answers what clients ask of this peer's part of the DHT: `p2pinfer dht ...`.

Rules:

1. Any member may read. What changes something is said in this peer's name and takes of what others keep for
   it: that is for the command line of its own data directory alone.
2. The answers are plain data; `docs/cli.md` lists the keys.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import asdict
from typing import Any

import trio

from p2pinfer.effects import Message
from p2pinfer.errors import CertificateError, ConfigError, LocalProtocolError
from p2pinfer.ids import Contact
from p2pinfer.membership import ADDRESSES_COUNT_MAX, SwarmAddress
from p2pinfer.runtime.calls import Handler
from p2pinfer.runtime.dht import TTL_S, Dht
from p2pinfer.runtime.dht_values import Found, Key
from p2pinfer.runtime.discovery.rendezvous import find_members
from p2pinfer.runtime.home import Home, load_client
from p2pinfer.wire.messages.dht_use import DhtAnswer, DhtCommand

__all__ = ["dht_handler"]

_WRITES = ("put", "rm", "provide", "stop")


def dht_handler(dht: Dht, home: Home) -> Handler:
    """Return what answers a DhtCommand."""

    async def on_command(contact: Contact, request: Message) -> AsyncGenerator[Message, None]:
        if not isinstance(request, DhtCommand):
            raise LocalProtocolError(f"{type(request).__name__} is no DhtCommand")
        if request.action in _WRITES:
            client = await trio.to_thread.run_sync(load_client, home.directory)
            if contact.peer not in (client.peer_id, home.identity.peer_id):
                raise CertificateError(
                    "only the command line of a node's own data directory keeps things in its name: "
                    "run this on its machine, or start a node of your own"
                )
        try:
            answer = await (_members(dht, home) if request.action == "members" else _run(dht, request))
        except LocalProtocolError as error:
            raise ConfigError(str(error)) from error  # the client's fault, not this peer's
        yield DhtAnswer(json=json.dumps(answer))

    return on_command


async def _members(dht: Dht, home: Home) -> dict[str, Any]:
    """Where members say that they listen, and the swarm's address that names some of them."""
    members = await find_members(dht, home.swarm.id)
    places = tuple(dict.fromkeys(each.endpoint for each in members))[:ADDRESSES_COUNT_MAX]
    return {
        "swarm": str(home.swarm.id),
        "address": str(SwarmAddress(str(home.swarm.id), places)),
        "members": [{"peer": str(each.peer), "endpoint": str(each.endpoint)} for each in members],
    }


async def _run(dht: Dht, request: DhtCommand) -> dict[str, Any]:
    if request.action == "status":
        return dht.status()
    if request.action == "manifest":
        found = await dht.manifest(request.key)
        provider = None if found.provider is None else str(found.provider)
        return {"digest": request.key.hex(), "provider": provider, "manifest": asdict(found.manifest)}
    key = _key_of(request)
    shown = {"key": _digits(key)}
    match request.action:
        case "get":
            values = [_value(each) for each in await dht.get(key) if _is_wanted(each, request)]
            return {**shown, "values": values}
        case "put":
            expected = None if request.expected < 0 else request.expected
            ttl_s = request.ttl_ms / 1000 or TTL_S
            stored_at = await dht.put(
                key, request.value, ttl_s=ttl_s, subkey=request.subkey, expected=expected
            )
            return {**shown, "stored_at": stored_at, "ttl_s": ttl_s}
        case "rm":
            await dht.remove(key, subkey=request.subkey)
            return shown
        case "provide":
            return {**shown, "stored_at": await dht.provide(key)}
        case "stop":
            await dht.stop_providing(key)
            return shown
        case "providers":
            providers = await dht.find_providers(key)
            return {
                **shown,
                "providers": [
                    {
                        "peer": str(each.peer),
                        "endpoint": None if each.endpoint is None else str(each.endpoint),
                        "expires_s": each.expires_s,
                    }
                    for each in providers
                ],
            }
        case "peers":
            contacts = await dht.find_peers(key)
            peers = [{"peer": str(each.peer), "endpoint": str(each.endpoint)} for each in contacts]
            return {**shown, "peers": peers}
    raise ConfigError(f"the DHT knows no {request.action!r}: update this node, or the client")


def _key_of(request: DhtCommand) -> Key:
    """What is named: a key itself, or a name in its namespace, which differs for what is provided."""
    if request.key:
        return request.key
    if not request.name:
        raise ConfigError("no name is given: say which key is meant")
    default = "provider" if request.action in ("provide", "stop", "providers") else "value"
    return (request.namespace or default, request.name)


def _digits(key: Key) -> str:
    if isinstance(key, tuple):
        return Dht.key_of(*key).hex()
    return key.hex() if isinstance(key, bytes) else Dht.key_of("value", key).hex()


def _is_wanted(found: Found, request: DhtCommand) -> bool:
    return not request.subkey or found.subkey == request.subkey


def _value(found: Found) -> dict[str, Any]:
    return {
        "owner": str(found.owner),
        "namespace": found.namespace,
        "value": _text(found.value),
        "value_hex": found.value.hex(),
        "subkey": _text(found.subkey),
        "subkey_hex": found.subkey.hex(),
        "sequence": found.sequence,
        "expires_s": found.expires_s,
    }


def _text(data: bytes) -> str | None:
    """The bytes as text; None where they are none."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
