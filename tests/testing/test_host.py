"""A simulated process performs effects in order, waits for its disk, and dies, stalls and drifts as told."""

from __future__ import annotations

from typing import Any

import pytest

from p2pinfer.effects import Compute, Deliver, Effect, Persist
from p2pinfer.errors import InternalError, LocalProtocolError
from p2pinfer.ids import SessionId
from p2pinfer.testing import Host, Latency, Stage, World
from p2pinfer.testing.host import INBOX_COUNT_MAX
from tests.toy_core import ToyCore, add_toys, contact

SYNC_S = 0.01


def host_alone(seed: int = 1, **settings: Any) -> tuple[World, Host]:
    world = World(seed, latency=Latency(0.001))
    host, *_ = add_toys(world, 2, gossips=False, **settings)
    host.disk.latency = Latency(SYNC_S)
    return world, host


def write(host: Host, *items: tuple[str, bytes | None]) -> None:
    host.call(lambda core, now: core.write(*items))


# --- persistence ---


def test_what_stands_after_a_persist_waits_for_the_sync() -> None:
    world, host = host_alone()
    host.call(lambda core, now: [Deliver("before"), Persist("k", b"v"), Deliver("after")])
    world.run_for(SYNC_S * 0.99)
    assert (host.delivered, host.disk.contents) == (["before"], {})
    world.run_for(SYNC_S * 0.02)
    assert (host.delivered, host.disk.contents) == (["before", "after"], {"k": b"v"})


def test_what_stands_after_a_persist_never_happens_if_the_host_crashes_before_it() -> None:
    world, host = host_alone()
    write(host, ("k", b"v"))
    world.run_for(SYNC_S / 2)
    host.restart()
    world.run_for(1)
    assert host.delivered == []


def test_later_inputs_wait_behind_the_write_and_keep_their_order() -> None:
    world, host = host_alone()
    other = world.hosts["h2"]
    write(host, ("k", b"v"))
    call = host.call(lambda core, now: [Deliver("call")])
    other.call(lambda core, now: core.shoot(contact(1), [1, 2]))
    world.run_for(SYNC_S / 2)
    assert (host.delivered, call.done, host.core.heard) == ([], False, [])
    world.run_for(SYNC_S)
    assert (host.delivered, call.done) == (["written", "call", 1, 2], True)


def test_persists_that_stand_together_share_a_sync_and_others_do_not() -> None:
    world, host = host_alone()
    write(host, ("a", b"1"), ("b", b"2"), ("a", b"3"), ("b", None))
    write(host, ("c", b"4"))
    world.run_for(1)
    assert [at for at, _ in host.log.delivered] == pytest.approx([SYNC_S, 2 * SYNC_S])
    assert host.disk.contents == {"a": b"3", "c": b"4"}


def test_a_crash_may_lose_writes_in_flight_but_only_the_last_of_them() -> None:
    kept: set[tuple[str, ...]] = set()
    for seed in range(60):
        world, host = host_alone(seed)
        write(host, ("old", b"0"))
        world.run_for(1)
        write(host, ("a", b"1"), ("b", b"2"), ("old", b"9"))
        world.run_for(SYNC_S / 2)
        host.crash()
        contents = host.disk.contents
        assert contents["old"] in (b"0", b"9"), "replacing is one step"
        kept.add(tuple(sorted(contents)))
    assert kept == {("old",), ("a", "old"), ("a", "b", "old")}


def test_a_torn_crash_leaves_a_true_prefix_or_the_old_value() -> None:
    seen: set[bytes | None] = set()
    for seed in range(200):
        world, host = host_alone(seed)
        write(host, ("k", b"old"))
        world.run_for(1)
        write(host, ("k", b"fresh"))
        host.crash(torn=True)
        seen.add(host.disk.contents.get("k"))
    assert seen == {b"old", b"", b"f", b"fr", b"fre", b"fres"}


def test_a_disk_may_end_its_host_in_the_next_write() -> None:
    for seed in range(20):
        world, host = host_alone(seed)
        host.disk.ends_host = True
        world.run_for(1)
        write(host, ("k", b"v"))
        world.run_for(1)
        assert not host.up
        assert host.delivered == []
        host.restart()
        write(host, ("k", b"w"))
        world.run_for(1)
        assert (host.up, host.delivered) == (True, ["written"])


def test_synced_writes_survive_a_crash_and_a_replaced_disk_has_none() -> None:
    world, host = host_alone()
    host.call(lambda core, now: core.increment(now))
    world.run_for(1)
    host.restart()
    assert host.core.total == 1
    host.restart(keep_disk=False)
    assert host.core.total == 0
    assert host.life == 3


def test_a_full_disk_fails_the_write_that_does_not_fit_and_nothing_after_it_happens() -> None:
    world, host = host_alone()
    host.disk.size_bytes_max = 10
    write(host, ("a", bytes(9)))
    write(host, ("b", b""), ("a", b"1"))
    write(host, ("c", bytes(100)), ("d", b""))
    world.run_for(1)
    assert host.core.disk_errors == ["b", "c"], "b comes before the room of a is given back"
    assert host.disk.contents == {"a": bytes(9)}
    assert host.delivered == ["written"]
    assert host.notices == ["disk failed", "disk failed"]


def test_a_broken_disk_ends_a_core_that_does_not_listen_for_it() -> None:
    class Deaf(ToyCore):
        disk_failed = None  # type: ignore[assignment]

    world = World(1)
    host = world.add("h1", lambda disk, rng, now: Deaf(contact(1), (), rng, now, disk), contact(1))
    host.disk.failing = True
    write(host, ("k", b"v"))
    world.run_for(1)
    assert host.stage is Stage.DOWN
    assert host.delivered == []


# --- life ---


def test_a_factory_sees_disk_rng_and_now_and_may_return_first_effects() -> None:
    seen: list[tuple[dict[str, bytes], float, float]] = []

    def factory(disk: Any, rng: Any, now: float) -> tuple[ToyCore, list[Effect]]:
        seen.append((dict(disk), rng.random(), now))
        return ToyCore(contact(1), (), rng, now, disk), [Deliver("hello")]

    world = World(1)
    host = world.add("h1", factory, contact(1))
    assert host.delivered == ["hello"]
    host.disk.put("k", b"v")
    world.run_for(2)
    host.restart()
    assert host.delivered == ["hello", "hello"]
    assert [(disk, now) for disk, _, now in seen] == [({}, 0.0), ({"k": b"v"}, 2.0)]
    assert seen[0][1] != seen[1][1], "each life draws anew"


def test_a_host_that_is_down_hears_nothing_and_never_ticks() -> None:
    world = World(1)
    one, two = add_toys(world, 2)
    world.run_for(1)
    two.crash()
    two.crash()
    ticks_count = two.core.ticks_count
    call = two.call(lambda core, now: [Deliver("no")])
    world.run_for(2)
    assert (two.core.ticks_count, call.done, two.delivered) == (ticks_count, False, [])
    assert world.network.counts["down"] > 10
    two.restart()
    world.run_for(1)
    assert two.core.ticks_count > 3
    assert one.up
    assert two.up


def test_a_paused_host_does_nothing_and_catches_up_in_order() -> None:
    world, host = host_alone()
    other = world.hosts["h2"]
    host.pause()
    other.call(lambda core, now: core.shoot(contact(1), range(5)))
    call = host.call(lambda core, now: [Deliver("call")])
    world.run_for(10)
    assert (host.delivered, call.done) == ([], False)
    host.resume()
    host.resume()
    world.run_for(0)
    assert host.delivered == ["call", 0, 1, 2, 3, 4]


def test_what_arrives_before_the_inbox_is_empty_waits_behind_it() -> None:
    world, host = host_alone()
    other = world.hosts["h2"]
    host.pause()
    other.call(lambda core, now: core.shoot(contact(1), [0, 1]))
    world.at(1.0, host.resume)
    world.run_until(0.999)
    other.call(lambda core, now: core.shoot(contact(1), [2]))  # arrives at 1.0, just after the resume
    world.run_until(2)
    assert host.delivered == [0, 1, 2]


def test_a_paused_host_drops_datagrams_above_its_inbox() -> None:
    world, host = host_alone()
    host.pause()
    world.hosts["h2"].call(lambda core, now: core.shoot(contact(1), range(INBOX_COUNT_MAX + 10)))
    world.run_for(1)
    host.resume()
    world.run_for(1)
    assert host.core.heard == list(range(INBOX_COUNT_MAX))
    assert world.network.counts["inbox full"] == 10


def test_a_write_ends_during_a_pause_but_its_effects_wait() -> None:
    world, host = host_alone()
    write(host, ("k", b"v"))
    host.pause()
    world.run_for(1)
    assert (host.disk.contents, host.delivered) == ({"k": b"v"}, [])
    host.resume()
    assert host.log.delivered == [(1.0, "written")]


def test_a_pause_ends_with_a_crash_which_empties_the_inbox() -> None:
    world, host = host_alone()
    write(host, ("k", b"v"))
    call = host.call(lambda core, now: [Deliver("never")])
    host.pause()
    world.run_for(1)
    host.restart()
    world.run_for(1)
    assert host.stage is Stage.UP
    assert (host.delivered, call.done) == ([], False)


# --- commands, callbacks, engine ---


def test_a_command_may_return_a_value_and_an_error_reaches_the_caller() -> None:
    world, host = host_alone()
    call = host.call(lambda core, now: core.value_and_effects(now))
    assert (call.done, call.value, host.notices) == (True, 0, ["asked"])
    with pytest.raises(LocalProtocolError, match="a toy refuses"):
        host.call(lambda core, now: core.refuse(now))
    write(host, ("k", b"v"))
    later = host.call(lambda core, now: core.refuse(now))
    assert not later.done
    world.run_for(1)
    assert isinstance(later.error, LocalProtocolError)


def test_callbacks_may_call_and_crash_the_host() -> None:
    world, host = host_alone()

    def on_deliver(host: Host, item: object) -> None:
        if item == 1:
            host.call(lambda core, now: [Deliver(2)])
        if item == 2:
            host.crash()

    host.log.on_deliver = on_deliver
    host.call(lambda core, now: [Deliver(1), Deliver("still the first input")])
    assert host.delivered == [1, "still the first input"]
    world.run_for(0)
    assert host.delivered == [1, "still the first input", 2]
    assert not host.up


class Doubler:
    opened: int = 0

    def open_cache(self, session: SessionId, positions_max: int) -> None:
        self.opened += 1

    def extend_cache(self, session: SessionId, positions_max: int) -> None:
        pass

    def run(self, batch: tuple[Any, ...]) -> tuple[tuple[Any, ...], float]:
        return tuple(2 * item for item in batch), 0.5

    def drop_cache(self, session: SessionId) -> None:
        self.opened -= 1


def test_batches_are_computed_one_after_the_other_and_die_with_the_process() -> None:
    world = World(1)
    host = world.add(
        "h1", lambda disk, rng, now: ToyCore(contact(1), (), rng, now), contact(1), engine=Doubler
    )
    host.call(lambda core, now: core.compute((1, 2)))
    host.call(lambda core, now: [Compute((3,))])
    world.run_until(0.9)
    assert host.delivered == [(0.5, (2, 4))]
    first = host.worker
    host.restart()
    world.run_until(5)
    assert host.delivered == [(0.5, (2, 4))]
    assert host.worker is not first


def test_an_engine_that_is_missing_is_named() -> None:
    _, host = host_alone()
    with pytest.raises(InternalError, match="h1 has no engine"):
        host.call(lambda core, now: core.compute((1,)))


def test_an_unknown_effect_is_refused() -> None:
    _, host = host_alone()
    with pytest.raises(InternalError, match="str is no effect"):
        host.call(lambda core, now: ["nonsense"])  # type: ignore[list-item]
