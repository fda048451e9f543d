"""What a core refuses by name and counts, its beginnings, and that nothing said to it can hurt it."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.effects import Deliver, Save
from p2pinfer.errors import LocalProtocolError
from p2pinfer.ids import Contact, Endpoint
from p2pinfer.raft.config import RaftConfig
from p2pinfer.raft.core import RaftCore
from p2pinfer.raft.news import Committed, ConfigurationChanged
from p2pinfer.raft.types import Configuration, HardState, Initial, LogWrite, Role
from p2pinfer.wire.messages.raft import (
    TERM_MAX,
    AppendEntries,
    AppendReply,
    Forward,
    ForwardReply,
    InstallSnapshot,
    RaftMessage,
    ReadReply,
    ReadRequest,
    RequestVote,
    SnapshotReply,
    TimeoutNow,
    VoteReply,
)
from tests.raft.cluster import CLUSTER, Cluster, contact, member, saves_of, sends_of
from tests.raft.single import NOW, THREE, Single, first_entry, initial
from tests.wire.strategies import messages

KINDS: list[type[RaftMessage]] = [
    RequestVote, VoteReply, AppendEntries, AppendReply, InstallSnapshot, SnapshotReply, TimeoutNow, Forward,
    ForwardReply, ReadRequest, ReadReply,
]  # fmt: skip
VOTE = {"last_index": 9, "last_term": 9, "pre": False, "forced": True}


def fresh() -> RaftCore:
    return RaftCore(Initial(1, CLUSTER), RaftConfig(), random.Random(1), NOW)


def test_a_fresh_node_waits_and_says_nothing() -> None:
    core = fresh()
    assert core.deadline == NOW
    assert core.tick(NOW) == []
    assert core.deadline is None


def test_a_founder_writes_the_configuration_as_its_first_entry() -> None:
    core = fresh()
    core.tick(NOW)
    effects = core.bootstrap(THREE, NOW)
    assert effects == [
        Deliver(ConfigurationChanged(THREE, 1, is_committed=True)),
        Save(LogWrite(1, entries=(first_entry(),), hard_state=HardState(1, None, 1))),
    ]
    assert core.saved(1, NOW) == [Deliver(Committed((first_entry(),)))]


def test_a_lone_founder_leads_at_once() -> None:
    core = fresh()
    core.tick(NOW)
    number = saves_of(core.bootstrap(Configuration.of(member(1)), NOW))[0].number
    core.saved(number, NOW)
    core.saved(saves_of(core.tick(NOW))[0].number, NOW)
    assert core.role is Role.LEADER


def test_a_cluster_is_founded_once_and_with_a_voter() -> None:
    core = fresh()
    with pytest.raises(LocalProtocolError, match="at least one voter"):
        core.bootstrap(Configuration(), NOW)
    core.bootstrap(THREE, NOW)
    with pytest.raises(LocalProtocolError, match="log already"):
        core.bootstrap(THREE, NOW)


def test_early_and_repeated_ticks_do_nothing() -> None:
    node = Single()
    assert node.core.tick(node.now) == []
    node.lead()
    node.time_out()
    assert node.core.tick(node.now) == []
    assert node.core.tick(node.now) == []


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"cluster": bytes(16)}, "other_clusters"),
        ({"target": 2}, "misrouted"),
        ({"source": 1}, "misrouted"),
        ({"term": TERM_MAX}, "absurd_terms"),
        ({"term": 2 + (1 << 32)}, "absurd_terms"),
    ],
)
def test_what_is_not_for_this_node_or_of_this_world_is_dropped_and_counted(
    changes: dict[str, Any], name: str
) -> None:
    node = Single()
    fields = {"cluster": CLUSTER, "source": 2, "target": 1, "term": 5, **VOTE, **changes}
    assert node.hear(RequestVote(**fields)) == []
    assert node.core.statistics()[name] == 1
    assert node.core.hard_state == HardState(1, None, 1)
    assert sends_of(node.hear_of(RequestVote, term=5, **VOTE))[0].granted, "and the node goes on"


def test_a_term_as_far_as_a_node_may_have_been_away_is_taken() -> None:
    node = Single()
    assert sends_of(node.hear_of(RequestVote, term=1 + (1 << 32), **VOTE))[0].granted
    core = fresh()
    core.tick(NOW)
    message = RequestVote(cluster=CLUSTER, source=2, target=1, term=1 << 50, **VOTE)  # type: ignore[arg-type]
    assert sends_of(core.receive(contact(2), message, NOW))[0].granted, "it has none to compare with"


def test_nobody_speaks_for_another_member() -> None:
    node = Single()
    message = node.message(RequestVote, 2, term=5, **VOTE)
    assert node.core.receive(contact(3), message, node.now) == []
    assert node.core.statistics()["impostors"] == 1


def test_a_member_may_have_moved_and_is_answered_where_it_is() -> None:
    node = Single()
    moved = Contact(contact(2).peer, Endpoint("10.9.9.9", 99))
    effects = node.core.receive(moved, node.message(RequestVote, 2, term=5, **VOTE), node.now)
    assert [each.to for each in effects if hasattr(each, "to")] == [moved]


def test_a_message_of_another_family_is_counted() -> None:
    node = Single()
    message = RaftMessage(cluster=CLUSTER, source=2, target=1, term=1)
    assert node.hear(message) == []
    assert node.core.statistics()["unknown_messages"] == 1


def test_a_wiped_node_with_its_old_id_does_not_stop_the_others() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.propose(1, b"a")
    cluster.run(0.5)
    cluster.nodes[3].disk.entries.clear()
    cluster.nodes[3].disk.hard_state = HardState()
    cluster.crash(3)
    cluster.run(1)
    assert cluster.core(1).role is Role.LEADER
    assert cluster.core(1).statistics()["logs_lost"] == 1
    cluster.propose(1, b"b")
    cluster.run(0.3)
    assert cluster.nodes[1].state[-1][4:] == b"b"
    assert cluster.core(3).applied_index == 0


small = st.integers(0, 12)


@st.composite
def plausible(draw: st.DrawFn) -> RaftMessage:
    """A message of any kind with any content, mostly addressed so that it is looked at."""
    message: Any = draw(st.sampled_from(KINDS).flatmap(messages))
    fields = {
        name: getattr(message, name)
        for kind in type(message).__mro__
        for name in getattr(kind, "__slots__", ())
    }
    fields |= {"cluster": CLUSTER, "target": 1, "source": draw(st.integers(2, 4))}
    for name, value in fields.items():
        if type(value) is int and name not in ("source", "target", "crc") and draw(st.integers(0, 9)):
            fields[name] = draw(small)
    return cast("RaftMessage", type(message)(**fields))


@settings(max_examples=60, deadline=None)
@given(st.lists(plausible(), max_size=30), st.integers(0, 2), st.integers(0, 3))
def test_whatever_is_said_a_core_neither_raises_nor_goes_back(
    said: list[RaftMessage], kind: int, lag: int
) -> None:
    node = Single(initial(commit=1, configuration=Configuration.of(*map(member, range(1, 4)))))
    if kind == 1:
        node.lead()
    elif kind == 2:
        node.append()
    term, commit, waiting = 0, 0, []
    for message in said:
        effects = node.hear(message)
        waiting += [write.number for write in saves_of(effects)]
        if len(waiting) > lag:
            waiting += [write.number for write in saves_of(node.core.saved(waiting.pop(0), node.now))]
        hard = node.core.hard_state
        assert hard.term >= term
        assert hard.commit >= commit
        assert node.core.applied_index <= hard.commit <= node.core.log.last_index
        term, commit = hard.term, hard.commit
    assert node.core.deadline is not None
