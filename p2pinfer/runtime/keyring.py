"""The swarm's keyring as its owner changes it, while the swarm runs: `peer.keyring`.

Rules:

1. Only the node with the owner's key makes a new version; the command line of its data directory may ask it.
2. `use` and `remove` wait until every live member has the version before, and are refused if some have not:
   a member without the new key would not hear those who seal with it, until it fetched it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Callable
from typing import Any

import trio

from p2pinfer.effects import Message
from p2pinfer.errors import CertificateError, ConfigError, LocalProtocolError, UnavailableError
from p2pinfer.ids import Contact, PeerId
from p2pinfer.runtime.composition import Parts
from p2pinfer.runtime.home import load_client, load_owner
from p2pinfer.swim import rotation
from p2pinfer.wire.messages.keyring import (
    KEY_ID_SIZE_BYTES,
    KEY_SIZE_BYTES,
    KeyringAnswer,
    KeyringCommand,
    key_id,
)
from p2pinfer.wire.messages.keyring import Keyring as Ring
from p2pinfer.wire.messages.records import Sign

__all__ = ["Keyring"]

SURVEY_S = 5.0
"""How long members are asked again and again which version they have: a fetch takes a few round trips."""
_ASK_INTERVAL_S = 0.5
_POLL_S = 0.02

_Change = Callable[[Ring, Sign], Ring]


class Keyring:
    """The keys that seal the swarm's datagrams; what is returned is what `p2pinfer keyring --json` prints."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._one_change = trio.Lock()
        parts.streams.handlers[KeyringCommand] = self._on_command

    async def list(self) -> dict[str, Any]:
        """Ask the members which version they have, and describe the keyring: `docs/cli.md` lists the keys."""
        await self._survey(SURVEY_S)
        return self._describe()

    async def install(self) -> dict[str, Any]:
        """Add a new key that all open with and nobody seals with yet; it is the last of `keys`.

        Raises:
            ConfigError: This is not the owner's node, or the ring is full.
        """
        async with self._one_change:
            await self._change(_install)
        return self._describe()

    async def use(self, key: str, *, force: bool = False) -> dict[str, Any]:
        """Have all seal with an installed key.

        Args:
            key: Its id, in hexadecimal.
            force: Do it although some members lack the key: they hear nobody until they fetched it.

        Raises:
            ConfigError: This is not the owner's node, or there is no such key.
            UnavailableError: Some members do not have the key yet.
        """
        async with self._one_change:
            await self._use(_read_id(key), force=force)
        return self._describe()

    async def remove(self, key: str, *, force: bool = False) -> dict[str, Any]:
        """Have all forget a key that is not in use: what is sealed with it is not heard any more.

        Args:
            key: Its id, in hexadecimal.
            force: Do it although some members may seal with it still.

        Raises:
            ConfigError: This is not the owner's node, there is no such key, or it is in use.
            UnavailableError: Some members do not have the present version yet.
        """
        async with self._one_change:
            await self._remove(_read_id(key), force=force)
        return self._describe()

    async def rotate(self, *, force: bool = False) -> dict[str, Any]:
        """Put a new key in place of all others: install, use and remove, each once all members are ready.

        Where it ends half-way, do it again: it goes on with the key that it had installed.

        Raises:
            ConfigError: This is not the owner's node.
            UnavailableError: Some members do not come along; what was done so far stands.
        """
        async with self._one_change:
            ring = self._ring
            if ring.notice.primary == ring.key_ids[-1]:
                await self._remove_others(force=force)  # what an earlier rotation left
                await self._change(_install)
            await self._use(self._ring.key_ids[-1], force=force)
            await self._remove_others(force=force)
            await self._survey(SURVEY_S)
        return self._describe()

    # --- the steps ----------------------------------------------------------------------------

    @property
    def _ring(self) -> Ring:
        ring = self._parts.core.keyring.keyring
        if ring is None:
            raise ConfigError(
                "this swarm has no keyring here: it is closed swarms that have one, once joined"
            )
        return ring

    async def _use(self, name: bytes, *, force: bool) -> None:
        await self._wait_for_members(force=force)
        await self._change(lambda ring, sign: rotation.use_key(ring, name, sign))

    async def _remove(self, name: bytes, *, force: bool) -> None:
        await self._wait_for_members(force=force)
        await self._change(lambda ring, sign: rotation.remove_key(ring, name, sign))

    async def _remove_others(self, *, force: bool) -> None:
        for name in self._ring.key_ids:
            if name != self._ring.notice.primary:
                await self._remove(name, force=force)

    async def _change(self, change: _Change) -> None:
        """Make the next version, as the owner, and put it into force."""
        ring = self._ring
        owner = await trio.to_thread.run_sync(load_owner, self._parts.home.directory)
        changed = change(ring, owner.sign_statement)
        await self._parts.driver.call(lambda core, now: (None, core.publish_keyring(changed, now)))

    async def _wait_for_members(self, *, force: bool) -> None:
        """Return once every live member has the present version.

        Raises:
            UnavailableError: Some do not come to have it.
        """
        if force:
            return
        core = self._parts.core
        await self._survey(SURVEY_S)
        behind = core.keyring.behind()
        if behind:
            named = ", ".join(peer.short for peer in behind[:3]) + ("..." if len(behind) > 3 else "")
            raise UnavailableError(
                f"{len(behind)} of {len(core.swim.alive()) - 1} members ({named}) do not have version "
                f"{core.keyring.version} of the keyring yet: try again in a moment, or add --force",
                retry_after_s=SURVEY_S,
            )

    async def _survey(self, timeout_s: float) -> None:
        """Ask until all have answered that they have the present version, or the time is over."""
        keyring, driver = self._parts.core.keyring, self._parts.driver
        deadline = trio.current_time() + timeout_s
        ask_at = 0.0
        while keyring.behind() and trio.current_time() < deadline:
            if trio.current_time() >= ask_at:
                ask_at = trio.current_time() + _ASK_INTERVAL_S
                await driver.call(lambda core, now: (None, core.survey_keyring(now)))
            await trio.sleep(_POLL_S)

    # --- what is told -------------------------------------------------------------------------

    def _describe(self) -> dict[str, Any]:
        core = self._parts.core
        ring = core.keyring.keyring
        own = core.swim.record.owner
        return {
            "version": core.keyring.version,
            "in_use": None if ring is None else ring.notice.primary.hex(),
            "keys": [] if ring is None else [name.hex() for name in ring.key_ids],
            "members_behind": len(core.keyring.behind()),
            "members": [
                {
                    "peer": str(record.owner),
                    "name": record.name,
                    "endpoint": str(record.endpoint),
                    "version": core.keyring.version_of(record.owner),
                }
                for record in core.swim.alive()
                if record.owner != own
            ],
        }

    async def _on_command(self, contact: Contact, request: Message) -> AsyncGenerator[Message, None]:
        if not isinstance(request, KeyringCommand):
            raise LocalProtocolError(f"{type(request).__name__} is no KeyringCommand")
        if request.action != "list":
            await self._check_is_owner(contact)
        yield KeyringAnswer(json=json.dumps(await self._run(request)))

    async def _run(self, request: KeyringCommand) -> dict[str, Any]:
        match request.action:
            case "list":
                return await self.list()
            case "install":
                return await self.install()
            case "use":
                return await self.use(request.key, force=request.force)
            case "remove":
                return await self.remove(request.key, force=request.force)
            case "rotate":
                return await self.rotate(force=request.force)
        raise ConfigError("a keyring is listed, or a key is installed, used, removed or rotated")

    async def _check_is_owner(self, contact: Contact) -> None:
        """Let the owner change the keyring, and whoever can read the owner's key on this machine."""
        home = self._parts.home
        await trio.to_thread.run_sync(load_owner, home.directory)
        client = await trio.to_thread.run_sync(load_client, home.directory)
        if contact.peer not in (PeerId.from_public_key(home.swarm.id), client.peer_id):
            raise CertificateError(
                "only the swarm's owner changes its keyring: run this on the machine where it was founded"
            )


def _install(ring: Ring, sign: Sign) -> Ring:
    key = secrets.token_bytes(KEY_SIZE_BYTES)
    while key_id(key) in ring.key_ids:  # once in a billion times
        key = secrets.token_bytes(KEY_SIZE_BYTES)
    return rotation.install_key(ring, key, sign)


def _read_id(text: str) -> bytes:
    try:
        name = bytes.fromhex(text)
    except ValueError:
        name = b""
    if len(name) != KEY_ID_SIZE_BYTES:
        raise ConfigError(f"{text!r} is no key's id: p2pinfer keyring list shows them, as in 1a2b3c4d")
    return name
