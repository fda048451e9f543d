"""A crash's traces are mended, other damage is refused by name, nothing acknowledged goes unnoticed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.errors import DamagedStorage, NewerFormat, StorageError
from p2pinfer.raft.storage.framing import HEAD_SIZE_BYTES, read_head, read_records
from p2pinfer.raft.storage.segments import segment_name
from p2pinfer.raft.storage.wal import WalStore
from p2pinfer.raft.types import Entry, HardState, Initial, LogWrite
from p2pinfer.testing.crashing_files import CrashingFiles
from p2pinfer.testing.store_conformance import entries, snapshot

Batch = tuple[LogWrite, ...]
NEWEST = segment_name(1)

SMALL: tuple[Batch, ...] = (
    (LogWrite(1, hard_state=HardState(1, 7, 0)), LogWrite(2, entries=entries(1, 4))),
    (LogWrite(3, entries=entries(4, 6), hard_state=HardState(1, 7, 3)),),
    (
        LogWrite(4, truncate_from=5, entries=(Entry(5, 2, bytes(700)),)),
        LogWrite(5, hard_state=HardState(2, None, 4)),
    ),
    (LogWrite(6, entries=entries(6, 9, term=2)), LogWrite(7, entries=entries(9, 11, term=2, size_bytes=300))),
)


@dataclass
class Log:
    """A log with one segment, and what it contains after each batch."""

    data: bytes
    ends: list[int]
    states: list[Initial]
    others: dict[str, bytes] = field(default_factory=dict)


def made(batches: tuple[Batch, ...], seed: int = 3) -> Log:
    files = CrashingFiles(seed)
    store = WalStore(files, segment_size_bytes=1 << 15)
    initial = store.load()
    ends, states = [_used(files.read(NEWEST))], [initial]
    for batch in batches:
        store.write(batch)
        data = files.read(NEWEST)
        ends.append(_used(data))
        states.append(opened({name: files.read(name) for name in files.names()}))
    store.close()
    others = {name: files.read(name) for name in files.names() if name != NEWEST}
    return Log(files.read(NEWEST)[: ends[-1] + 2048], ends, states, others)


def opened(contents: dict[str, bytes]) -> Initial:
    files = CrashingFiles(5)
    for name, data in contents.items():
        files.edit(name, data)
    return WalStore(files, segment_size_bytes=4096).load()


def reopened(log: Log, data: bytes) -> Initial:
    return opened({NEWEST: data, **log.others})


def _used(data: bytes) -> int:
    return read_records(data, read_head(data)).end


@pytest.fixture(scope="module")
def log() -> Log:
    return made(SMALL)


def flips(size: int) -> Iterator[tuple[int, int]]:
    rng = random.Random(4)
    for place in range(size):
        for mask in {0xFF, 1 << rng.randrange(8), rng.randrange(1, 256)}:
            yield place, mask


def test_no_flipped_byte_costs_what_was_acknowledged(log: Log) -> None:
    refused = 0
    for place, mask in flips(log.ends[-1]):
        data = bytearray(log.data)
        data[place] ^= mask
        try:
            found = reopened(log, bytes(data))
        except DamagedStorage as error:
            words = str(error)
            refused += "memory: 0000000000000001.wal" in words and "start with an empty one" in words
        else:
            assert found == log.states[-1], f"byte {place} ^ {mask:#x}"
    assert refused > 2.5 * log.ends[-1]  # only a mark, or the zeros between two records, does not matter


def test_a_tail_that_is_missing_from_any_byte_on_is_a_crash(log: Log) -> None:
    begin, *ends = log.ends
    for cut in range(begin, ends[-1]):
        whole = [state for end, state in zip(log.ends, log.states, strict=True) if end <= cut]
        for data in (log.data[:cut], log.data[:cut] + bytes(len(log.data) - cut)):
            found = reopened(log, data)
            assert found in log.states or is_between(found, whole[-1], log.states[len(whole)]), cut
            assert found.hard_state.term >= whole[-1].hard_state.term, cut


def is_between(found: Initial, before: Initial, after: Initial) -> bool:
    """A batch of two writes of which only the first is whole."""
    return (
        found.hard_state in (before.hard_state, after.hard_state)
        and len(found.entries) >= len(before.entries) - 1
    )


def test_what_was_synced_before_the_file_had_its_name_is_never_torn(log: Log) -> None:
    for cut in range(log.ends[0] - 1):  # the last byte is a mark, which nobody needs in a whole record
        with pytest.raises(DamagedStorage):
            reopened(log, log.data[:cut] + bytes(len(log.data) - cut))


def test_lost_sectors_of_the_last_batch_are_a_crash_and_earlier_ones_are_not(log: Log) -> None:
    begin, end = log.ends[-2:]
    sectors = range(begin // 512, end // 512 + 1)
    assert len(sectors) >= 2
    for lost in range(1, 1 << len(sectors)):
        data = bytearray(log.data)
        for place, sector in enumerate(sectors):
            if lost >> place & 1:
                first = max(sector * 512, begin)
                data[first : min(sector * 512 + 512, end)] = bytes(min(sector * 512 + 512, end) - first)
        found = reopened(log, bytes(data))
        assert found.entries[:5] == log.states[-2].entries
        assert found.hard_state == log.states[-2].hard_state
    data = bytearray(log.data)
    data[512:1024] = bytes(512)
    with pytest.raises(DamagedStorage, match="later ones were written after it"):
        reopened(log, bytes(data))


def test_zeros_as_data_are_told_from_sectors_that_were_never_written() -> None:
    """The last batch is nothing but zeros: a flipped byte in it is damage, a lost sector is a crash."""
    log = made(((LogWrite(1, entries=(Entry(1, 1, bytes(3000)), Entry(2, 1, b"\xff" * 300))),),))
    for place in range(log.ends[0], log.ends[1], 7):
        data = bytearray(log.data)
        data[place] ^= 0xFF
        try:
            assert reopened(log, bytes(data)) == log.states[-1]
        except DamagedStorage:
            pass
    data = bytearray(log.data)
    data[1024:1536] = bytes(512)
    assert reopened(log, bytes(data)) == log.states[0]


def test_data_that_looks_like_records_is_no_proof_of_later_ones() -> None:
    """A torn batch whose entries hold a copy of the log is still torn: a checksum covers its place and
    file."""
    inner = made(SMALL)
    log = made((*SMALL, (LogWrite(9, entries=(Entry(11, 2, inner.data[: inner.ends[-1]]),)),)))
    begin, end = log.ends[-2:]
    data = log.data[:begin] + bytes(24) + log.data[begin + 24 : end]
    sector_end = begin - begin % 512 + 512
    data = log.data[:begin] + bytes(sector_end - begin) + log.data[sector_end:]
    assert reopened(log, data) == log.states[-2]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_is_refused_or_leaves_a_beginning(data: st.DataObject) -> None:
    sizes = st.lists(st.integers(0, 900), min_size=1, max_size=4)
    runs = data.draw(st.lists(sizes, min_size=1, max_size=5))
    batches: list[Batch] = []
    index = 1
    for run in runs:
        added = tuple(Entry(index + place, 1, bytes([place]) * size) for place, size in enumerate(run))
        batches.append((LogWrite(1, entries=added),))
        index += len(run)
    log = made(tuple(batches), seed=index)
    end = log.ends[-1]
    first = data.draw(st.integers(0, end - 1))
    size = data.draw(st.integers(1, 600))
    rubbish = data.draw(st.sampled_from([b"\x00", b"\xff", b"\xa5", b"\x01\x00\x00\x00"]))
    damaged = bytearray(log.data)
    damaged[first : first + size] = (rubbish * size)[:size]
    try:
        found = reopened(log, bytes(damaged[: len(log.data)]))
    except DamagedStorage:
        return
    assert found in log.states
    lost = len(log.states) - 1 - log.states.index(found)
    if lost:  # only to zeros, and more than the last batch only to zeros that go on into the last batch
        assert rubbish == b"\x00" or first >= log.ends[-2]
        assert lost == 1 or first + size > log.ends[-2]


def test_a_lost_segment_is_refused_where_its_entries_are_needed() -> None:
    files = CrashingFiles(1)
    store = WalStore(files, segment_size_bytes=4096)
    store.load()
    for first in range(1, 200, 10):
        store.write((LogWrite(1, entries=entries(first, first + 10, size_bytes=100)),))
    segments = sorted(name for name in files.names() if name.endswith(".wal"))
    assert len(segments) > 4
    contents = {name: files.read(name) for name in segments}
    for lost in segments[:-1]:
        with pytest.raises(DamagedStorage, match=r"entries 1 to [0-9]+ are missing"):
            opened({name: data for name, data in contents.items() if name != lost})
    with pytest.raises(DamagedStorage, match="number 2 under another's name"):
        opened({**contents, segments[-1]: contents[segments[1]]})


def test_a_segment_of_another_node_is_refused() -> None:
    logs = []
    for seed in (1, 2):
        files = CrashingFiles(seed)
        store = WalStore(files, segment_size_bytes=4096)
        store.load()
        for first in range(1, 100, 10):
            store.write((LogWrite(1, entries=entries(first, first + 10, size_bytes=100)),))
        logs.append({name: files.read(name) for name in files.names()})
    with pytest.raises(DamagedStorage, match=r"2\.wal is of another node"):
        opened({**logs[0], segment_name(2): logs[1][segment_name(2)]})


def test_a_newer_format_is_refused_by_name_and_left_as_it_is(log: Log) -> None:
    from google_crc32c import value as crc32c

    head = bytearray(log.data[: HEAD_SIZE_BYTES - 4])
    head[8] = 2
    data = bytes(head) + crc32c(bytes(head)).to_bytes(4, "little") + log.data[HEAD_SIZE_BYTES:]
    files = CrashingFiles(1)
    files.edit(NEWEST, data)
    with pytest.raises(NewerFormat, match=r"0001\.wal.*format 2.*update p2pinfer"):
        WalStore(files).load()
    assert files.read(NEWEST) == data
    assert files.names() == [NEWEST]


def test_no_byte_of_a_snapshot_is_believed_when_it_is_another() -> None:
    log = made((*SMALL, (LogWrite(9, snapshot=snapshot(8, size_bytes=150)),)))
    (name,) = log.others
    whole = log.others[name]
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        with pytest.raises(StorageError, match=name):
            opened({NEWEST: log.data, name: bytes(damaged)})
    for size in (0, 10, len(whole) - 1):
        with pytest.raises(DamagedStorage, match=name):
            opened({NEWEST: log.data, name: whole[:size]})
    with pytest.raises(DamagedStorage, match=f"{name} is missing"):
        opened({NEWEST: log.data})
    with pytest.raises(DamagedStorage, match="there are snapshots, but no log"):
        opened(log.others)
