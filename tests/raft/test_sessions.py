"""Sessions: Ongaro's thesis, section 6.3, sentence by sentence, and the bounds on what is kept."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.errors import CommandRefused, ConfigError, DecodeError, LocalProtocolError, Overloaded, Retry
from p2pinfer.raft.client_session import ClientSession, open_session, outside_sessions
from p2pinfer.raft.machine import digest_of
from p2pinfer.raft.replies import read_result, read_session
from p2pinfer.raft.sessions import SessionLimits, SessionMachine
from p2pinfer.wire.codec import encode
from p2pinfer.wire.messages.sessions import CloseSession, OpenSession, SessionCommand
from p2pinfer.wire.messages.swim import StreamPing
from tests.raft.counting import Appender

SMALL = SessionLimits(
    sessions_count_max=3,
    kept_size_bytes_max=100,
    total_size_bytes_max=400,
    idle_ms_max=1000,
    idle_ms_min=100,
)


class Replica:
    """A session machine around an appender, with the next index and the time."""

    def __init__(self, limits: SessionLimits | None = None) -> None:
        self.inside = Appender()
        self.machine = SessionMachine(self.inside, limits)
        self.index = 0

    def apply(self, command: bytes, time_ms: int = 0) -> bytes:
        self.index += 1
        return self.machine.apply(self.index, command, time_ms)

    def open(self, time_ms: int = 0) -> int:
        return read_session(self.apply(open_session(), time_ms))

    def do(
        self, session: int, sequence: int, command: bytes = b"x", acknowledged: int = 1, time_ms: int = 0
    ) -> bytes:
        message = SessionCommand(
            session=session, sequence=sequence, acknowledged=acknowledged, command=command
        )
        return read_result(self.apply(encode(message), time_ms))

    def refusal(self, session: int, sequence: int, acknowledged: int = 1, time_ms: int = 0) -> CommandRefused:
        before = list(self.inside.applied)
        with pytest.raises(CommandRefused) as refused:
            self.do(session, sequence, b"refused", acknowledged, time_ms)
        assert self.inside.applied == before
        return refused.value


def test_a_command_that_stands_twice_in_the_log_is_applied_once() -> None:
    """Thesis 6.3: a server that receives a serial number it executed responds without executing it again."""
    replica = Replica()
    session = replica.open()
    assert replica.do(session, 1) == b"1"
    assert replica.do(session, 1, b"another by mistake") == b"1"
    assert replica.inside.applied == [b"x"]
    assert replica.machine.statistics()["commands_repeated"] == 1


def test_every_session_has_its_own_numbers_and_no_number_of_a_session_is_given_twice() -> None:
    replica = Replica()
    first, second = replica.open(), replica.open()
    assert (first, second) == (1, 2)
    assert (replica.do(first, 1), replica.do(second, 1)) == (b"1", b"2")
    replica.apply(encode(CloseSession(session=second)))
    assert replica.machine.statistics()["results_size_bytes"] == 1
    assert replica.open() == 3


def test_commands_under_way_at_once_may_come_in_any_order() -> None:
    """Thesis 6.3: to allow concurrent requests, the set of responses is kept, not only the latest."""
    replica = Replica()
    session = replica.open()
    for sequence in (3, 1, 2, 1, 3):
        replica.do(session, sequence, b"%d" % sequence)
    assert replica.inside.applied == [b"3", b"1", b"2"]


def test_responses_below_the_lowest_without_an_answer_are_forgotten() -> None:
    """Thesis 6.3: with each request goes the lowest number without a response; state below is discarded."""
    replica = Replica()
    session = replica.open()
    for sequence in (1, 2, 3):
        replica.do(session, sequence)
    assert replica.machine.statistics()["results_size_bytes"] == 3
    replica.do(session, 4, acknowledged=3)
    assert replica.machine.statistics()["results_size_bytes"] == 2
    refused = replica.refusal(session, 2, acknowledged=2)
    assert (refused.code, refused.retry) == ("answered_before", Retry.NEVER)
    assert replica.do(session, 3) == b"3"


def test_a_session_that_is_gone_is_answered_by_name_and_never_applied() -> None:
    """Thesis 6.3: what if a client continues after its session expired? An error, rather than a guess."""
    replica = Replica(SMALL)
    session = replica.open(0)
    replica.do(session, 1, time_ms=999)
    assert replica.do(session, 1, time_ms=1998) == b"1"
    refused = replica.refusal(session, 1, time_ms=2998)
    assert (refused.code, refused.retry) == ("session_expired", Retry.REOPEN)
    for unknown in (session + 1, 1 << 62):
        assert replica.refusal(unknown, 1).code == "session_expired"


def test_an_empty_entry_ends_sessions_too_and_the_deadline_says_when() -> None:
    assert Replica(SMALL).machine.deadline_ms is None
    replica = Replica(SMALL)
    replica.open(5)
    assert replica.machine.deadline_ms == 1005
    assert replica.apply(b"", 1004) == b""
    assert replica.machine.statistics()["sessions"] == 1
    replica.apply(b"", 1005)
    assert replica.machine.statistics()["sessions"] == 0


def test_time_that_goes_back_is_taken_for_the_highest_so_far() -> None:
    """Thesis 6.3: the leader's clock is in the log, and servers see it go forwards only."""
    replica = Replica(SMALL)
    replica.open(2000)
    replica.apply(b"", 10)
    assert (replica.machine.time_ms, replica.inside.times_ms) == (2000, [2000, 2000])
    replica.apply(b"", 1 << 70)
    replica.open(1 << 70)
    assert replica.machine.time_ms == 1 << 53


def test_the_session_silent_longest_makes_room_unless_it_was_heard_a_moment_ago() -> None:
    """Thesis 6.3: least recently used by the log alone, so that all servers agree."""
    replica = Replica(SMALL)
    first, second, third = (replica.open(time) for time in (0, 10, 20))
    replica.do(first, 1, time_ms=30)
    with pytest.raises(CommandRefused, match="all 3 sessions are in use") as refused:
        replica.open(60)
    assert (refused.value.retry, refused.value.retry_after_s) == (Retry.LATER, 0.05)
    fourth = replica.open(110)
    assert replica.refusal(second, 1, time_ms=110).code == "session_expired"
    for session in (first, third, fourth):
        replica.do(session, 1, time_ms=110)


def test_a_client_that_acknowledges_nothing_is_refused_but_its_lowest_command_is_taken() -> None:
    replica = Replica()
    session = replica.open()
    for sequence in range(2, 257):
        replica.do(session, sequence)
    refused = replica.refusal(session, 257)
    assert (refused.code, refused.retry) == ("too_many_unanswered", Retry.LATER)
    assert replica.do(session, 1) == b"256"
    assert replica.do(session, 257, acknowledged=2) == b"257"


def test_large_results_that_are_not_acknowledged_hold_up_all_but_the_lowest_command() -> None:
    replica = Replica(SMALL)
    session = replica.open()
    replica.do(session, 2, b"#101")
    assert replica.refusal(session, 3).code == "too_many_unanswered"
    assert replica.do(session, 2) == bytes(101)
    replica.do(session, 1)
    assert replica.do(session, 3, acknowledged=3) == b"3"


def test_sessions_silent_longest_go_when_all_results_are_too_large() -> None:
    replica = Replica(SMALL)
    first, second = replica.open(), replica.open()
    replica.do(first, 1, b"#200")
    replica.do(second, 1, b"#200")
    replica.do(first, 2, b"#0", acknowledged=2)
    assert replica.do(second, 2, b"#201", acknowledged=1 + 1) == bytes(201)
    assert replica.machine.statistics()["results_size_bytes"] == 201
    replica.do(first, 3, b"#200", acknowledged=3)
    assert replica.refusal(second, 2).code == "session_expired"
    assert replica.machine.statistics()["results_size_bytes"] == 200


def test_a_result_too_large_to_keep_is_an_empty_one_on_every_ask() -> None:
    replica = Replica()
    session = replica.open()
    assert [replica.do(session, 1, b"#1048577") for _ in range(2)] == [b"", b""]
    assert replica.inside.applied == [b"#1048577"]
    assert read_result(replica.apply(outside_sessions(b"#1048577"))) == b""


@pytest.mark.parametrize(
    "command", [b"\x00", b"garbage", encode(StreamPing(sequence=1)), encode(OpenSession()) + b"\x00"]
)
def test_nonsense_is_refused_in_words_that_do_not_depend_on_the_software(command: bytes) -> None:
    replica = Replica()
    with pytest.raises(CommandRefused, match=r"^these bytes are no command$") as refused:
        read_result(replica.apply(command, 7))
    assert refused.value.code == "malformed"
    assert (replica.inside.applied, replica.inside.times_ms, replica.inside.indices) == ([], [7], [1])


@pytest.mark.parametrize(("sequence", "acknowledged"), [(0, 0), (0, 1), (1, 2), (5, 0)])
def test_a_wrong_sequence_is_refused(sequence: int, acknowledged: int) -> None:
    replica = Replica()
    assert replica.refusal(replica.open(), sequence, acknowledged).code == "wrong_sequence"


def test_outside_of_sessions_a_command_is_applied_each_time() -> None:
    replica = Replica()
    assert [read_result(replica.apply(outside_sessions(b"x"))) for _ in range(2)] == [b"1", b"2"]


def test_a_snapshot_carries_the_sessions_and_their_results() -> None:
    replica = Replica(SMALL)
    first, second = replica.open(0), replica.open(1)
    replica.do(second, 1, b"one")
    replica.do(first, 3, b"three")
    replica.do(first, 2, b"two", acknowledged=2)
    other = Replica(SMALL)
    other.machine.restore(b"".join(replica.machine.snapshot()))
    assert digest_of(other.machine) == digest_of(replica.machine)
    assert other.machine.statistics() == {"sessions": 2, "sessions_opened": 2, "results_size_bytes": 3}
    for each in (replica, other):
        assert each.do(first, 3) == b"2"
        assert each.refusal(first, 1).code == "answered_before"
        assert each.open(101) == 3
        assert each.inside.applied == [b"one", b"three", b"two"]
    assert digest_of(other.machine) == digest_of(replica.machine)


def test_a_snapshot_is_captured_when_it_is_asked_for() -> None:
    replica = Replica()
    session = replica.open()
    before = digest_of(replica.machine)
    chunks = replica.machine.snapshot()
    replica.do(session, 1)
    other = Replica()
    other.machine.restore(b"".join(chunks))
    assert digest_of(other.machine) == before


def test_a_damaged_snapshot_changes_nothing() -> None:
    replica = Replica()
    replica.do(replica.open(), 1)
    data = b"".join(replica.machine.snapshot())
    other = Replica()
    other.open()
    before = digest_of(other.machine)
    for cut in range(0, len(data), 3):
        with pytest.raises(DecodeError):
            other.machine.restore(data[:cut] if cut < len(data) - 12 else data[:30])
    for place in range(len(data) - len(b"appender\n78")):
        with pytest.raises(DecodeError):
            other.machine.restore(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    assert digest_of(other.machine) == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"sessions_count_max": 0},
        {"kept_size_bytes_max": 0},
        {"kept_size_bytes_max": 33 << 20, "total_size_bytes_max": 1 << 30},
        {"total_size_bytes_max": 1},
        {"idle_ms_min": -1},
        {"idle_ms_max": 9},
    ],
)
def test_limits_are_checked_when_they_are_made(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        SessionLimits(**wrong)


def test_a_clients_side_numbers_repeats_and_acknowledges() -> None:
    replica = Replica()
    client = ClientSession(replica.open())
    numbers = [client.make(b"c%d" % each) for each in range(3)]
    assert [sequence for sequence, _ in numbers] == [1, 2, 3]
    for sequence, proposal in reversed(numbers):
        replica.apply(proposal)
        replica.apply(client.again(sequence))
    assert replica.inside.applied == [b"c2", b"c1", b"c0"]
    client.answered(2)
    assert client.acknowledged == 1
    for _ in range(2):
        client.answered(1)
    assert client.acknowledged == 3
    with pytest.raises(LocalProtocolError, match="command 1 does not wait"):
        client.again(1)
    replica.apply(client.close())
    assert replica.machine.statistics()["sessions"] == 0


def test_a_client_does_not_get_further_ahead_than_replicas_allow() -> None:
    client = ClientSession(1)
    for _ in range(256):
        client.make(b"x")
    with pytest.raises(Overloaded, match="256 commands have no answer"):
        client.make(b"x")
    client.answered(2)
    assert not client.has_room
    client.answered(1)
    client.make(b"x")


COMMANDS = st.one_of(
    st.just(encode(OpenSession())),
    st.just(b""),
    st.binary(max_size=8),
    st.integers(0, 6).map(lambda session: encode(CloseSession(session=session))),
    st.builds(
        lambda session, ahead, acknowledged, command: encode(
            SessionCommand(
                session=session, sequence=acknowledged + ahead, acknowledged=acknowledged, command=command
            )
        ),
        st.integers(0, 6),
        st.integers(-1, 4).map(lambda ahead: max(ahead, 0)),
        st.integers(0, 8),
        st.sampled_from([b"a", b"#90", b"#150"]),
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(COMMANDS, st.integers(0, 120)), min_size=10, max_size=80), st.integers(0, 25))
def test_replicas_agree_although_one_was_restored_midway(log: list[tuple[bytes, int]], cut: int) -> None:
    one, other = Replica(SMALL), Replica(SMALL)
    time_ms = 0
    for place, (command, step) in enumerate(log):
        if place == cut:
            fresh = Replica(SMALL)
            fresh.machine.restore(b"".join(other.machine.snapshot()))
            fresh.index, other = other.index, fresh
        time_ms += step
        assert one.apply(command, time_ms) == other.apply(command, time_ms)
        kept, same = one.machine.statistics(), other.machine.statistics()
        assert all(kept[name] == same[name] for name in ("sessions", "sessions_opened", "results_size_bytes"))
        assert kept["sessions"] <= SMALL.sessions_count_max
        assert kept["results_size_bytes"] <= SMALL.total_size_bytes_max
    assert digest_of(one.machine) == digest_of(other.machine)
    assert one.inside.applied == other.inside.applied
