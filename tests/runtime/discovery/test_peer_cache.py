"""The members kept on disk: who is kept, how long, and what damaged or hostile files do."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from p2pinfer.ids import Contact, Endpoint, SwarmId
from p2pinfer.runtime.discovery.peer_cache import (
    AGE_S_MAX,
    FILE_SIZE_BYTES_MAX,
    MENTION_INTERVAL_S,
    PEERS_COUNT_MAX,
    PeerCache,
)
from tests.runtime.discovery.ways import NOW, Found, contact_of
from tests.runtime.swarm import SWARM, let_mock_time_pass


class Kept:
    """A cache whose members and date the test sets."""

    def __init__(self, directory: Path, swarm: SwarmId = SWARM.id) -> None:
        self.path = directory / "peers.json"
        self.live: list[Contact] = []
        self.now = NOW
        self._swarm = swarm
        self.cache = self.open()

    def open(self) -> PeerCache:
        cache = PeerCache(self.path, self._swarm, live=lambda: self.live, now=lambda: self.now)
        cache.load()
        return cache

    def save(self, *names: str) -> None:
        self.live = [contact_of(name) for name in names]
        self.cache.save()


def test_who_lives_is_there_after_a_restart(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.save("a", "b")
    assert set(kept.open().contacts) == {contact_of("a"), contact_of("b")}


def test_who_was_seen_last_comes_first_and_the_dead_are_kept_for_a_while(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.save("a")
    kept.now += 60
    kept.save("b")
    kept.save()
    assert kept.open().contacts == (contact_of("b"), contact_of("a"))
    kept.now += AGE_S_MAX - 30
    assert kept.open().contacts == (contact_of("b"),)


def test_a_member_that_moved_is_kept_at_its_new_address_alone(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.save("a")
    kept.now += 60
    kept.live = [contact_of("a", 2)]
    kept.cache.save()
    assert kept.open().contacts == (contact_of("a", 2),)


def test_only_so_many_are_kept_those_seen_last(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    for index in range(PEERS_COUNT_MAX + 10):
        kept.now += 1
        kept.save(f"peer {index}")
    contacts = kept.open().contacts
    assert contacts == tuple(contact_of(f"peer {index}") for index in range(PEERS_COUNT_MAX + 9, 9, -1))


def test_alone_from_the_first_nothing_is_written(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.save()
    assert not kept.path.exists()


@pytest.mark.parametrize("host", ["", "a b", "[x]", "x" * 256, "ä", "a\nb"])
def test_what_a_member_says_of_itself_cannot_damage_the_file(host: str, tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.live = [contact_of("a"), Contact(contact_of("liar").peer, Endpoint(host, 1))]
    kept.cache.save()
    assert kept.open().contacts == (contact_of("a"),)


def test_the_longest_entries_fit(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.live = [
        Contact(contact_of(f"peer {index}").peer, Endpoint("x" * 255, 65535))
        for index in range(PEERS_COUNT_MAX)
    ]
    kept.cache.save()
    assert len(kept.open().contacts) == PEERS_COUNT_MAX


def valid(**changes: Any) -> dict[str, Any]:
    entry = {"peer": "ab" * 32, "endpoint": "10.0.0.1:7946", "seen_s": int(NOW)}
    return {"swarm": str(SWARM.id), "peers": [{**entry, **changes}]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 100,
        b"{",
        b"[" * 60_000,
        b"null",
        b"[]",
        b'{"swarm": 1}',
        b'{"peers": []}',
        json.dumps({**valid(), "swarm": "00" * 32}).encode(),
        json.dumps({**valid(), "peers": {}}).encode(),
        json.dumps({**valid(), "peers": [1]}).encode(),
        json.dumps(valid()).encode() + b" " * FILE_SIZE_BYTES_MAX,
        *(
            json.dumps(valid(**change)).encode()
            for change in (
                {"peer": "zz"},
                {"peer": "ab"},
                {"peer": 7},
                {"endpoint": 7},
                {"endpoint": "10.0.0.1"},
                {"endpoint": "10.0.0.1:0"},
                {"endpoint": "10.0.0.1:70000"},
                {"endpoint": "a b:1"},
                {"seen_s": "1"},
                {"seen_s": 1.5},
                {"seen_s": True},
                {"seen_s": -1},
                {"seen_s": 1 << 70},
                {"seen_s": float("nan")},
            )
        ),
    ],
)
def test_a_damaged_or_hostile_file_is_ignored_with_one_warning(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "peers.json").write_bytes(content)
    with caplog.at_level(logging.DEBUG):
        kept = Kept(tmp_path)
    assert kept.cache.contacts == ()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    kept.save("a")
    assert kept.open().contacts == (contact_of("a"),), "and the next write mends it"


def test_a_time_far_ahead_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "peers.json").write_text(json.dumps(valid(seen_s=int(NOW) + 2 * 86400)))
    assert Kept(tmp_path).cache.contacts == ()


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.one_of(st.binary(max_size=300), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["swarm", "peers", "peer", "endpoint", "seen_s"]), inner),
    max_leaves=20,
).map(lambda content: json.dumps(content).encode())))  # fmt: skip
@example(json.dumps(valid()).encode())
def test_no_content_raises(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "peers.json").write_bytes(content)
    assert len(Kept(tmp_path).cache.contacts) <= PEERS_COUNT_MAX


def test_a_directory_in_its_place_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "peers.json").mkdir()
    kept = Kept(tmp_path)
    kept.save("a")
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


async def test_who_came_and_left_at_once_is_kept_soon(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kept.cache.run, Found())
            kept.cache.seen(contact_of("a"))
            kept.cache.seen(contact_of("b"))
            while not kept.path.exists():
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert set(kept.open().contacts) == {contact_of("a"), contact_of("b")}


async def test_the_members_kept_are_named_at_the_start_and_while_alone(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    kept = Kept(tmp_path)
    kept.save("a", "b")
    kept.live = []
    found = Found()
    cache = kept.open()
    with trio.move_on_after(100.0):
        await cache.run(found)
    assert set(found.calls[0][1]) == {contact_of("a"), contact_of("b")}
    assert len(found.calls) == 7, "every 15 s"


async def test_in_company_they_are_named_seldom(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """A swarm that came back in two halves finds itself by whom the halves remember."""
    kept = Kept(tmp_path)
    kept.save("a", "b")
    kept.live = [contact_of("a")]
    found = Found()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.open().run, found)
        await let_mock_time_pass(2.5 * MENTION_INTERVAL_S)
        nursery.cancel_scope.cancel()
    assert len(found.calls) == 3
