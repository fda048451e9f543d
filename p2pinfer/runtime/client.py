"""A light client: talks to a node over a stream, holds no layers and is no member of the gossip."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from p2pinfer.errors import ConfigError, PeerUnreachable, RemoteProtocolError
from p2pinfer.identity import Verifier
from p2pinfer.ids import Contact, Endpoint
from p2pinfer.membership import ADDRESS_PREFIX, SwarmAddress
from p2pinfer.runtime.clock import Clock
from p2pinfer.runtime.discovery.peer_cache import PeerCache
from p2pinfer.runtime.discovery.setup import CACHE_FILE
from p2pinfer.runtime.handshake import Credentials
from p2pinfer.runtime.home import Home, client_home, invited_client
from p2pinfer.runtime.nurseries import unwrapped
from p2pinfer.runtime.streams import Streams, StreamsEvents
from p2pinfer.wire.messages.client import (
    GenerateRequest,
    PromptProgress,
    StatusReply,
    StatusRequest,
    Summary,
    TextPiece,
)
from p2pinfer.wire.messages.dht_use import DhtAnswer, DhtCommand
from p2pinfer.wire.messages.keyring import KeyringAnswer, KeyringCommand

__all__ = ["Client", "connect"]

CONNECT_TIMEOUT_S = 10.0
PLACES_COUNT_MAX = 16
"""Places that are tried for a swarm's address."""


class Client:
    """A connection to a node."""

    def __init__(self, streams: Streams, node: Contact) -> None:
        self._streams = streams
        self.node = node

    async def generate(self, request: GenerateRequest) -> AsyncIterator[PromptProgress | TextPiece | Summary]:
        """Ask for an answer; the pieces come as they are made, then one summary.

        Before the first piece it is told how much of the prompt is computed.

        Raises:
            P2PInferError: What the node answers instead; the pieces so far are right.
        """
        async with self._streams.call(self.node, request) as responses:
            async for message in responses:
                if isinstance(message, PromptProgress | TextPiece | Summary):
                    yield message

    async def status(self) -> dict[str, Any]:
        """Ask the node how it is."""
        async with self._streams.call(self.node, StatusRequest()) as responses:
            reply = await responses.one()
        if not isinstance(reply, StatusReply):
            raise RemoteProtocolError(f"the node answered a StatusRequest with {type(reply).__name__}")
        status: dict[str, Any] = json.loads(reply.json)
        return status

    async def keyring(self, action: str, key: str = "", *, force: bool = False) -> dict[str, Any]:
        """Have the node list or change the swarm's keyring; `docs/cli.md` lists the keys of the answer.

        Raises:
            P2PInferError: What the node answers instead.
        """
        command = KeyringCommand(action=action, key=key, force=force)
        async with self._streams.call(self.node, command) as responses:
            reply = await responses.one()
        if not isinstance(reply, KeyringAnswer):
            raise RemoteProtocolError(f"the node answered a KeyringCommand with {type(reply).__name__}")
        answer: dict[str, Any] = json.loads(reply.json)
        return answer

    async def dht(self, action: str, **what: Any) -> dict[str, Any]:
        """Have the node use the DHT; `docs/cli.md` lists the keys of the answer.

        Args:
            action: What to do, as `DhtCommand` lists.
            what: The other fields of `DhtCommand`.

        Raises:
            P2PInferError: What the node answers instead.
        """
        async with self._streams.call(self.node, DhtCommand(action=action, **what)) as responses:
            reply = await responses.one()
        if not isinstance(reply, DhtAnswer):
            raise RemoteProtocolError(f"the node answered a DhtCommand with {type(reply).__name__}")
        answer: dict[str, Any] = json.loads(reply.json)
        return answer


@asynccontextmanager
async def connect(
    data_dir: Path, *, node: Endpoint | None = None, join: str | None = None
) -> AsyncIterator[Client]:
    """Dial the given node, one of the invite's, or the one that runs with this data directory.

    `join` may also be a swarm's address (`p2pinfer://...`): whoever of its members answers is asked, with the
    membership of the data directory.

    Raises:
        ConfigError: There is nobody to dial, or no membership to show; the message says what to do.
        PeerUnreachable: Nobody answers.
        RemoteProtocolError: A kind of it: who answers is of another swarm, or refuses us.
    """
    clock = Clock()
    named = SwarmAddress.parse(join) if join and join.startswith(ADDRESS_PREFIX) else None
    home = invited_client(join, clock.now()) if join and not named else client_home(data_dir)
    endpoints = (node,) if node else home.addresses if join else (_running_node(data_dir),)
    if named is not None:
        named.check(home.swarm.id)
        endpoints = _places(named, home, clock)
    credentials = Credentials(home.identity, home.swarm, home.membership, Verifier())
    streams = Streams(credentials, Endpoint("0.0.0.0", 0), clock=clock, events=StreamsEvents())
    with unwrapped():
        async with trio.open_nursery() as nursery:
            await nursery.start(streams.run)
            try:
                yield Client(streams, await _dial(streams, endpoints))
            finally:
                with trio.CancelScope(shield=True):
                    await streams.aclose()
                nursery.cancel_scope.cancel()


async def _dial(streams: Streams, endpoints: tuple[Endpoint, ...]) -> Contact:
    refusal: RemoteProtocolError | None = None
    for endpoint in endpoints:
        try:
            with trio.fail_after(CONNECT_TIMEOUT_S):
                return await streams.connect(Contact(None, endpoint))
        except RemoteProtocolError as error:
            refusal = error
        except (PeerUnreachable, trio.TooSlowError):
            continue
    if refusal is not None:
        raise refusal
    listed = ", ".join(map(str, endpoints)) or "any address known here"
    raise PeerUnreachable(f"no node answers at {listed}: is one running there? (python -m p2pinfer.node)")


def _places(named: SwarmAddress, home: Home, clock: Clock) -> tuple[Endpoint, ...]:
    """Where members may answer: where the address says, the node here, the invite's, and those remembered."""
    try:
        here = [_running_node(home.directory)]
    except ConfigError:
        here = []
    cache = PeerCache(home.directory / CACHE_FILE, home.swarm.id, live=tuple, now=clock.now)
    cache.load()
    remembered = [each.endpoint for each in cache.contacts]
    return tuple(dict.fromkeys([*named.places, *here, *home.addresses, *remembered]))[:PLACES_COUNT_MAX]


def _running_node(data_dir: Path) -> Endpoint:
    try:
        return Endpoint.parse(json.loads((data_dir / "node.json").read_text())["endpoint"])
    except FileNotFoundError:
        raise ConfigError(
            f"no node runs with {data_dir}: start one (python -m p2pinfer.node), or give --node or --join"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{data_dir / 'node.json'} cannot be read ({error}): start the node again"
        ) from error
