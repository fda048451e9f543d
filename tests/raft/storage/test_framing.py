"""Records in a segment: any body comes back, and a damaged place is judged by what can have happened."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pinfer.raft.storage.framing import (
    CHECKPOINT,
    HEAD_SIZE_BYTES,
    WRITE,
    BadHead,
    Reading,
    SegmentHead,
    frame,
    read_head,
    read_records,
)

SALT = 0x1234567890ABCDEF
BODIES = (
    st.binary(max_size=40)
    | st.builds(lambda byte, size: bytes([byte]) * size, st.integers(0, 255), st.integers(0, 2000))
    | st.builds(lambda size: bytes(size) + b"\x01" + bytes(size), st.integers(0, 1500))
)


def head(*, salt: int = SALT, synced_end: int = HEAD_SIZE_BYTES) -> SegmentHead:
    return SegmentHead(
        size_bytes=1 << 16,
        sequence=3,
        salt=salt,
        node_id=7,
        cluster_id=b"c" * 16,
        previous=2,
        previous_end=4000,
        sync=4,
        synced_end=synced_end,
    )


def segment(*groups: list[bytes], checkpoint: bytes = b"state", salt: int = SALT) -> bytes:
    data = head(salt=salt).pack() + frame([(CHECKPOINT, checkpoint)], HEAD_SIZE_BYTES, salt, 4)
    for sync, bodies in enumerate(groups, start=5):
        data += frame([(WRITE, body) for body in bodies], len(data), salt, sync)
    return data


def read(data: bytes, end: int | None = None) -> Reading:
    return read_records(data, read_head(data), end)


def test_a_head_comes_back_and_no_other_bytes_are_one() -> None:
    packed = head().pack()
    assert len(packed) == HEAD_SIZE_BYTES
    assert read_head(packed + b"more") == head()
    for place in range(HEAD_SIZE_BYTES):
        damaged = bytearray(packed)
        damaged[place] ^= 0x10
        with pytest.raises(BadHead) as caught:
            read_head(bytes(damaged))
        assert caught.value.version is None, "a damaged head is not called a newer one"
    with pytest.raises(BadHead):
        read_head(packed[:-1])


@given(st.lists(st.lists(BODIES, min_size=1, max_size=4), max_size=4), BODIES)
def test_every_body_comes_back_with_its_sync(groups: list[list[bytes]], checkpoint: bytes) -> None:
    data = segment(*groups, checkpoint=checkpoint)
    for reading in (
        read(data),
        read(data + bytes(3000)),
        read(data, len(data)),
        read(data + b"\xff", len(data)),
    ):
        assert (reading.torn_bytes, reading.damage) == (0, None)
        assert [record.body for record in reading.records] == [checkpoint, *(b for g in groups for b in g)]
        assert [record.sync for record in reading.records] == [
            4,
            *(sync for sync, group in enumerate(groups, start=5) for _ in group),
        ]
        assert reading.end == len(data)


@pytest.mark.parametrize("shift", range(0, 520, 8))
def test_any_lost_sectors_of_the_last_sync_are_torn_wherever_it_lies(shift: int) -> None:
    """Heads lie within one sector, so that a lost one is zeros from its first byte to its sector's end."""
    before = segment([b"before"], checkpoint=b"s" * shift)
    bodies = [b"a" * 300, bytes(500), b"b" * 5]
    data = before + frame([(WRITE, body) for body in bodies], len(before), SALT, 6) + bytes(1000)
    sectors = range(len(before) // 512, len(data.rstrip(b"\0")) // 512 + 1)
    for lost in product((False, True), repeat=len(sectors)):
        left = bytearray(data)
        for sector, is_lost in zip(sectors, lost, strict=True):
            if is_lost:
                first = max(sector * 512, len(before))
                left[first : sector * 512 + 512] = bytes(sector * 512 + 512 - first)
        reading = read(bytes(left))
        assert reading.damage is None
        assert [record.body for record in reading.records[2:]] == bodies[: len(reading.records) - 2]


def test_a_record_of_another_place_or_file_is_none() -> None:
    data = segment([b"one"], [b"two"], [b"six"])
    _, second, third = (record.offset for record in read(data).records[1:])
    moved = data[:second] + frame([(WRITE, b"two")], third, SALT, 6) + bytes(100)
    assert len(read(moved).records) == 2, "the same file, another place"
    other = segment([b"one"], [b"two"], [b"six"], salt=SALT + 1)
    mixed = data[:second] + other[second:]
    assert len(read(mixed).records) == 2, "the same place, another file"


def test_a_torn_sync_is_never_continued_by_the_next() -> None:
    data = segment([b"one", b"two"])
    second = read(data).records[-1].offset
    data = data[:second] + frame([(WRITE, b"later")], second, SALT, 6)
    reading = read(data)
    assert reading.damage == "a record of another sync than the one due"
    assert [record.body for record in reading.records] == [b"state", b"one"]


def test_what_was_synced_before_the_file_was_named_cannot_be_torn() -> None:
    data = segment([b"first" * 100])
    cut = data[: len(data) - 100]
    assert read(cut).torn_bytes
    named = head(synced_end=len(data)).pack() + cut[HEAD_SIZE_BYTES:]
    assert read(named).damage == "a record is damaged that was durable before the file was used"


def test_a_later_sync_proves_that_a_damaged_record_had_been_durable() -> None:
    data = segment([b"x" * 1200], [b"y" * 600])
    _, first, second = read(data).records
    lost = data[:512] + bytes(512) + data[1024:]
    assert first.offset < 512 < second.offset
    assert "later ones were written after it" in str(read(lost).damage)
    assert read(lost[: second.offset]).torn_bytes
    assert "later ones" in str(read(lost, len(data)).damage), "a full segment is never torn"
