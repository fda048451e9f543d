from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.effects import Priority
from p2pinfer.runtime.outbox import CONTROL_RESERVE_SIZE_BYTES, Outbox
from p2pinfer.wire.framing import CHUNK_SIZE_BYTES, HEADER_SIZE_BYTES, Assembler, FrameReader

CHUNK = CHUNK_SIZE_BYTES


def drain(outbox: Outbox, turns: int = 1 << 30) -> list[bytes]:
    """The messages that come out, in the order of their ends."""
    reader, assembler = FrameReader(), Assembler()
    messages = []
    while outbox and turns:
        turns -= 1
        written = outbox.take()
        assert 0 < len(written) <= 2 * CHUNK_SIZE_BYTES + HEADER_SIZE_BYTES * (CHUNK_SIZE_BYTES + 1)
        for frame in reader.feed(written):
            whole = assembler.add(frame)
            if whole is not None:
                messages.append(bytes(whole.data))
    return messages


def test_the_most_urgent_goes_first_and_small_ones_go_together() -> None:
    outbox = Outbox(1 << 20)
    for name, priority in (
        (b"bulk", Priority.BULK),
        (b"decode", Priority.DECODE),
        (b"now", Priority.CONTROL),
    ):
        outbox.add(name, priority)
    assert outbox.size_bytes == len(b"bulk" + b"decode" + b"now")
    assert drain(outbox, turns=1) == [b"now", b"decode", b"bulk"]
    assert not outbox
    assert outbox.size_bytes == 0


def test_a_small_message_waits_for_one_chunk_of_a_large_one_at_most() -> None:
    outbox = Outbox(1 << 30)
    outbox.add(bytes(10 * CHUNK_SIZE_BYTES), Priority.PREFILL)
    assert len(outbox.take()) == CHUNK_SIZE_BYTES + HEADER_SIZE_BYTES
    outbox.add(b"urgent", Priority.DECODE)
    assert b"urgent" in outbox.take()[: HEADER_SIZE_BYTES + 6]


def test_within_a_priority_a_later_message_does_not_overtake() -> None:
    outbox = Outbox(1 << 30)
    outbox.add(b"a" * (3 * CHUNK_SIZE_BYTES), Priority.PREFILL)
    outbox.add(b"b", Priority.PREFILL)
    assert [message[:1] for message in drain(outbox)] == [b"a", b"b"]


def test_a_full_outbox_still_has_room_for_control_messages() -> None:
    outbox = Outbox(100)
    assert outbox.has_room(Priority.BULK)
    outbox.add(bytes(1000), Priority.BULK)
    assert not outbox.has_room(Priority.BULK)
    assert not outbox.has_room(Priority.DECODE)
    assert outbox.has_room(Priority.CONTROL)
    outbox.add(bytes(CONTROL_RESERVE_SIZE_BYTES), Priority.CONTROL)
    assert not outbox.has_room(Priority.CONTROL)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(Priority)),
            st.sampled_from(
                [1, 7, 2300, CHUNK_SIZE_BYTES - 1, CHUNK_SIZE_BYTES, CHUNK_SIZE_BYTES + 1, 100_000]
            ),
            st.integers(0, 3),
        ),
        max_size=20,
    )
)
def test_everything_comes_out_once_and_in_order_within_its_priority(
    given_: list[tuple[Priority, int, int]],
) -> None:
    outbox = Outbox(1 << 30)
    reader, assembler = FrameReader(), Assembler()
    expected: dict[int, list[bytes]] = {priority: [] for priority in Priority}
    got: dict[int, list[bytes]] = {priority: [] for priority in Priority}

    def turn() -> None:
        for frame in reader.feed(outbox.take()):
            whole = assembler.add(frame)
            if whole is not None:
                got[whole.data[0]].append(bytes(whole.data))

    for number, (priority, size, turns) in enumerate(given_):
        message = bytes([priority]) + number.to_bytes(2, "big") * size
        outbox.add(message, priority)
        expected[priority].append(message)
        for _ in range(turns):
            if outbox:
                turn()
    while outbox:
        turn()
    assert got == expected
    assert outbox.size_bytes == 0
    assert len(assembler) == 0
