"""Leases: who holds a name, with tokens that fence off whoever held it before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from p2pinfer.errors import CommandRefused, Retry
from p2pinfer.ids import PeerId
from p2pinfer.raft.metadata.commands import acquire_lease, read_lease, release_lease, renew_lease
from p2pinfer.raft.metadata.leases import LeaseTable
from p2pinfer.raft.metadata.limits import Limits
from tests.raft.metadata.replica import ANNA, BERT, CARL, SMALL, Replica, put


def test_one_peer_holds_a_name_and_the_others_are_told_for_how_long() -> None:
    replica = Replica()
    replica.pass_time(5000)
    lease = replica.acquire("planner", ANNA, 2000)
    assert (lease.token, lease.time_ms, lease.expires_ms) == (1, 5000, 7000)
    replica.pass_time(5500)
    refused = replica.refusal(acquire_lease("planner", BERT, 2000))
    assert (refused.code, refused.retry, refused.retry_after_s) == ("lease_held", Retry.LATER, 1.5)
    assert replica.acquire("other", BERT).token == 2
    replica.pass_time(6999)
    assert replica.refusal(acquire_lease("planner", BERT, 2000)).code == "lease_held"


def test_a_lease_ends_with_the_first_entry_that_has_its_time() -> None:
    replica = Replica()
    replica.acquire("planner", ANNA, 2000)
    replica.pass_time(1999)
    assert replica.view.lease("planner") is not None
    replica.pass_time(2000)
    assert replica.view.lease("planner") is None
    assert replica.refusal(renew_lease("planner", 1, 2000)).code == "lease_lost"
    assert replica.acquire("planner", BERT).token == 2


def test_it_ends_in_the_entry_that_would_have_renewed_it_too_late() -> None:
    replica = Replica()
    replica.acquire("planner", ANNA, 2000)
    with pytest.raises(CommandRefused, match=r"token 1 holds no lease .*: acquire planner anew"):
        read_lease(replica.apply(renew_lease("planner", 1, 2000), 2000))


def test_renewing_keeps_the_token_and_never_makes_the_lease_shorter() -> None:
    replica = Replica()
    replica.acquire("planner", ANNA, 5000)
    replica.pass_time(1000)
    shorter = read_lease(replica.apply(renew_lease("planner", 1, 2000)))
    assert (shorter.token, shorter.expires_ms) == (1, 5000)
    replica.pass_time(4000)
    assert read_lease(replica.apply(renew_lease("planner", 1, 2000))).expires_ms == 6000
    replica.pass_time(5999)
    assert replica.view.lease("planner") is not None


def test_a_holder_that_acquires_again_fences_off_its_former_self() -> None:
    """A process that was started again does not know if the one before still runs."""
    replica = Replica()
    assert [replica.acquire("planner", ANNA).token for _ in range(2)] == [1, 2]
    for command in (renew_lease("planner", 1, 2000), release_lease("planner", 1)):
        refused = replica.refusal(command)
        assert (refused.code, refused.retry) == ("lease_lost", Retry.REREAD)


def test_keys_go_with_their_lease_in_one_revision() -> None:
    replica = Replica()
    ends: dict[str, Callable[[], object]] = {
        "release": lambda: replica.apply(release_lease("a", replica.machine.state.leases.token_count)),
        "expiry": lambda: replica.apply(b"", replica.time_ms + 1000),
        "another of its holder": lambda: replica.acquire("a", ANNA),
    }
    for end in ends.values():
        lease = replica.view.lease("a")
        token = lease.token if lease else replica.acquire("a").token
        replica.do(put("x", lease=token), put("y", lease=token), put("z"))
        before = replica.view.revision
        end()
        assert list(replica.all) == ["app/z"]
        assert replica.view.revision == before + 1


def test_a_key_that_is_put_again_without_the_lease_stays() -> None:
    replica = Replica()
    one, other = replica.acquire("a").token, replica.acquire("b").token
    replica.do(put("x", lease=one), put("y", lease=one))
    replica.do(put("x"), put("y", lease=other))
    replica.apply(release_lease("a", one))
    assert list(replica.all) == ["app/x", "app/y"]
    replica.apply(release_lease("b", other))
    assert list(replica.all) == ["app/x"]


def test_leases_that_end_in_one_entry_end_in_their_order_each_in_its_revision() -> None:
    replica = Replica()
    for name, ttl_ms in (("late", 3000), ("soon", 1000), ("also", 1000)):
        replica.do(put(name, lease=replica.acquire(name, ANNA, ttl_ms).token))
    watch = replica.view.watch()
    replica.pass_time(9000)
    assert [(change.revision, change.key) for change in watch.poll()] == [  # type: ignore[union-attr]
        (4, "app/soon"),
        (5, "app/also"),
        (6, "app/late"),
    ]


def test_keys_go_with_a_lease_that_was_restored() -> None:
    replica = Replica()
    replica.do(put("x", lease=replica.acquire("a").token))
    other = replica.restored()
    other.pass_time(1000)
    assert other.all == {}


def test_the_deadline_is_that_of_the_lease_that_ends_first() -> None:
    replica = Replica()
    assert replica.machine.deadline_ms is None
    replica.acquire("a", ANNA, 3000)
    replica.acquire("b", ANNA, 1000)
    ends = [replica.machine.deadline_ms]
    replica.apply(renew_lease("b", 2, 5000))
    ends.append(replica.machine.deadline_ms)
    replica.apply(release_lease("a", 1))
    ends.append(replica.machine.deadline_ms)
    assert ends == [1000, 3000, 5000]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (acquire_lease("a", ANNA, 9), "wrong_ttl"),
        (acquire_lease("a", ANNA, 1001), "wrong_ttl"),
        (acquire_lease("", ANNA, 100), "wrong_key"),
        (acquire_lease("a b", ANNA, 100), "wrong_key"),
        (acquire_lease("ä", ANNA, 100), "wrong_key"),
        (renew_lease("held", 1, 9), "wrong_ttl"),
        (renew_lease("held", 2, 100), "lease_lost"),
        (renew_lease("other", 1, 100), "lease_lost"),
        (release_lease("held", 0), "lease_lost"),
        (release_lease("nobody", 0), "lease_lost"),
    ],
)
def test_what_cannot_be_is_refused_by_name(command: bytes, code: str) -> None:
    replica = Replica(SMALL)
    replica.acquire("held", ANNA, 100)
    assert replica.refusal(command).code == code


def test_leases_and_their_keys_are_bounded() -> None:
    replica = Replica(SMALL)
    token = replica.acquire("a", ANNA, 100).token
    for name in ("b", "c"):
        replica.acquire(name, ANNA, 100)
    assert replica.refusal(acquire_lease("d", ANNA, 100)).code == "too_many_leases"
    for number in range(4):
        replica.do(put(f"{number}", lease=token))
    assert replica.refused(put("4", lease=token)) == "too_many_attached"
    replica.do(put("0", b"again", lease=token))


def test_a_lease_that_is_renewed_for_ever_does_not_grow_the_table() -> None:
    table = LeaseTable(Limits())
    table.acquire("a", ANNA, 1000, 0)
    for now_ms in range(1000):
        table.renew("a", 1, 1000, now_ms)
    assert len(table._ends) <= 68
    assert table.deadline_ms == 1999


class Holders(RuleBasedStateMachine):
    """Peers that acquire, renew, release and fall asleep, and a store that refuses old tokens."""

    NAMES = ("a", "b")

    def __init__(self) -> None:
        super().__init__()
        self.replica = Replica(SMALL)
        self.given: list[tuple[str, PeerId, int, int]] = []
        """Every token that was given: the name, the holder, and until when."""

    @rule(name=st.sampled_from(NAMES), peer=st.sampled_from([ANNA, BERT, CARL]), ttl_ms=st.integers(10, 60))
    def acquire(self, name: str, peer: PeerId, ttl_ms: int) -> None:
        held = self.replica.view.lease(name)
        try:
            lease = self.replica.acquire(name, peer, ttl_ms)
        except CommandRefused:
            assert held is not None
            assert held.holder != peer
            assert held.expires_ms > self.replica.time_ms
            return
        assert all(lease.token > token for _, _, token, _ in self.given), "tokens rise"
        self.given.append((name, peer, lease.token, lease.expires_ms))

    @rule(place=st.integers(0, 20), ttl_ms=st.integers(10, 60))
    def renew(self, place: int, ttl_ms: int) -> None:
        if not self.given:
            return
        name, _, token, _ = self.given[place % len(self.given)]
        held = self.replica.view.lease(name)
        is_held = held is not None and held.token == token
        try:
            read_lease(self.replica.apply(renew_lease(name, token, ttl_ms)))
        except CommandRefused:
            assert not is_held
        else:
            assert is_held

    @rule(place=st.integers(0, 20))
    def release(self, place: int) -> None:
        if self.given:
            name, _, token, _ = self.given[place % len(self.given)]
            self.replica.apply(release_lease(name, token))
            held = self.replica.view.lease(name)
            assert held is None or held.token != token

    @rule(step_ms=st.integers(-20, 40))
    def pass_time(self, step_ms: int) -> None:
        before = self.replica.view.time_ms
        self.replica.pass_time(max(0, self.replica.time_ms + step_ms))
        assert self.replica.view.time_ms >= before

    @rule()
    def restore(self) -> None:
        self.replica = self.replica.restored()

    @invariant()
    def only_the_highest_token_of_a_name_can_hold_it(self) -> None:
        for name in self.NAMES:
            held = self.replica.view.lease(name)
            if held is not None:
                of_name = [token for each, _, token, _ in self.given if each == name]
                assert held.token == max(of_name)
                assert held.expires_ms > self.replica.view.time_ms
        holders = {token: peer for _, peer, token, _ in self.given}
        assert len(holders) == len(self.given), "no two holders have one token"


TestHolders = Holders.TestCase
TestHolders.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
