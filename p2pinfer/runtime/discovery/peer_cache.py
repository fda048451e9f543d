"""The members that were alive lately, on disk: a peer that was killed, or whose swarm moved, finds back.

    {"swarm": "...", "peers": [{"peer": "...", "endpoint": "192.168.1.5:7946", "seen_s": 1700000000}, ...]}

Rules:

1. The file is whole or not there (`files.py`), holds only so many members, the latest seen first, and none
   that was not seen for weeks.
2. What is read was written by anybody: it is taken as a whole or not at all, and at most a warning comes of
   it. A false entry costs a datagram to a stranger, whose answer would have to prove its membership.
3. The core is read on the event loop alone; only bytes go to another thread.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from p2pinfer.errors import StorageError
from p2pinfer.files import replace_file
from p2pinfer.ids import Contact, Endpoint, PeerId, SwarmId
from p2pinfer.runtime.discovery.api import Live, OnFound

__all__ = ["PeerCache"]

_log = logging.getLogger(__name__)

PEERS_COUNT_MAX = 64
AGE_S_MAX = 30 * 86400.0
"""Members not seen for longer are forgotten."""
FILE_SIZE_BYTES_MAX = 64 << 10
"""Above `PEERS_COUNT_MAX` entries with the longest host names."""
SAVE_DELAY_S = 1.0
"""How soon a change of the members is kept; changes in between are gathered."""
REFRESH_INTERVAL_S = 300.0
"""Between two writes while nothing changes, so that the times stay true."""
ALONE_INTERVAL_S = 15.0
"""Between two mentions of everybody while no other member lives; above `finder.REPEAT_S`."""
MENTION_INTERVAL_S = 300.0
"""... and while others do: the swarm may have come back in two halves."""
_HOST_SIZE_MAX = 255
_SKEW_S_MAX = 86400.0
"""How far in the future a time may lie: the machine's date may have been wrong when it was written."""


@dataclass(frozen=True, slots=True)
class _Entry:
    contact: Contact
    seen_s: int
    """Seconds since the Unix epoch."""


class PeerCache:
    """The file, and its contents as they were read and seen since.

    Args:
        path: The file.
        swarm: Whose members these are; a file of another swarm is ignored.
        live: The other members that live.
        now: Seconds since the Unix epoch.
    """

    def __init__(self, path: Path, swarm: SwarmId, *, live: Live, now: Callable[[], float]) -> None:
        self._path = path
        self._swarm = swarm
        self._live = live
        self._now = now
        self._entries: dict[PeerId, _Entry] = {}
        self._changed = trio.Event()

    @property
    def contacts(self) -> tuple[Contact, ...]:
        """The members kept, those seen last first."""
        return tuple(each.contact for each in self._entries.values())

    def load(self) -> None:
        """Read the file, once, before `run`; blocks on the disk."""
        try:
            with self._path.open("rb") as file:
                data = file.read(FILE_SIZE_BYTES_MAX + 1)
            if len(data) > FILE_SIZE_BYTES_MAX:
                raise ValueError(f"more than {FILE_SIZE_BYTES_MAX} bytes")
            entries = _read(data, self._swarm)
        except FileNotFoundError:
            return
        except OSError as error:
            _log.warning("%s is ignored: %s", self._path, error.strerror or error)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            _log.warning("%s is damaged and ignored: %s", self._path, error)
        else:
            self._entries = _chosen(entries, self._now())

    def seen(self, contact: Contact) -> None:
        """A member came: keep it soon, even if it leaves at once."""
        self._note([contact])
        self._changed.set()

    async def run(self, found: OnFound) -> None:
        """Name the members kept, and keep those that live, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._mention, found)
            nursery.start_soon(self._keep)

    def save(self) -> None:
        """Keep the members as they are now; blocks on the disk."""
        self._write(self._snapshot())

    async def _mention(self, found: OnFound) -> None:
        mention_at = 0.0
        while True:
            now = trio.current_time()
            if now >= mention_at or not self._live():
                mention_at = now + MENTION_INTERVAL_S
                found(self.contacts)
            await trio.sleep(ALONE_INTERVAL_S)

    async def _keep(self) -> None:
        while True:
            with trio.move_on_after(REFRESH_INTERVAL_S):
                await self._changed.wait()
            await trio.sleep(SAVE_DELAY_S)
            self._changed = trio.Event()
            await trio.to_thread.run_sync(self._write, self._snapshot())

    def _snapshot(self) -> bytes:
        """Add who lives now, and return the file's new content; empty where there is nobody to keep."""
        self._note(self._live())
        self._entries = _chosen(self._entries.values(), self._now())
        return _written(self._entries.values(), self._swarm) if self._entries else b""

    def _note(self, contacts: Iterable[Contact]) -> None:
        seen_s = int(self._now())
        for each in contacts:
            # What a member says of itself must not damage the file for all.
            if each.peer is not None and _is_sound(each.endpoint):
                self._entries[each.peer] = _Entry(each, seen_s)

    def _write(self, content: bytes) -> None:
        try:
            if content:
                replace_file(self._path, content)
        except StorageError as error:
            _log.warning("the members' addresses were not kept: %s", error)


def _chosen(entries: Iterable[_Entry], now: float) -> dict[PeerId, _Entry]:
    """The latest entry of each member that is not too old, those seen last first."""
    latest: dict[PeerId, _Entry] = {}
    for entry in sorted(entries, key=lambda each: -each.seen_s):
        peer = entry.contact.peer
        if peer is None or not -_SKEW_S_MAX <= now - entry.seen_s <= AGE_S_MAX:
            continue
        latest.setdefault(peer, entry)
        if len(latest) == PEERS_COUNT_MAX:
            break
    return latest


def _written(entries: Iterable[_Entry], swarm: SwarmId) -> bytes:
    peers = [
        {"peer": str(each.contact.peer), "endpoint": str(each.contact.endpoint), "seen_s": each.seen_s}
        for each in entries
    ]
    return json.dumps({"swarm": str(swarm), "peers": peers}, indent=1).encode() + b"\n"


def _read(data: bytes, swarm: SwarmId) -> list[_Entry]:
    """Read the file's content.

    Raises:
        ValueError: It is not what was written; so do KeyError, TypeError and RecursionError say.
    """
    content: Any = json.loads(data)
    if content["swarm"] != str(swarm):
        raise ValueError("it is of another swarm")
    if not isinstance(content["peers"], list):
        raise TypeError("peers is no list")
    return [_read_entry(each) for each in content["peers"]]


def _read_entry(content: Any) -> _Entry:
    text, seen_s = content["endpoint"], content["seen_s"]
    if not isinstance(text, str):
        raise TypeError("an endpoint is no text")
    endpoint = Endpoint.parse(text)
    if not _is_sound(endpoint):
        raise ValueError(f"{text!r} is no address of a peer")
    if type(seen_s) is not int or not 0 <= seen_s < 1 << 63:
        raise ValueError(f"{seen_s!r} is no time")
    return _Entry(Contact(PeerId(bytes.fromhex(content["peer"])), endpoint), seen_s)


def _is_sound(endpoint: Endpoint) -> bool:
    """Whether an address can be written, read again and used."""
    host = endpoint.host
    if not endpoint.port or len(host) > _HOST_SIZE_MAX or not host.isascii() or not host.isprintable():
        return False
    try:
        return " " not in host and Endpoint.parse(str(endpoint)) == endpoint
    except ValueError:
        return False
