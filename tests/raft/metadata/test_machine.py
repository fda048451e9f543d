"""The machine: formats, time, snapshots."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest

from p2pinfer.effects import Message
from p2pinfer.errors import CommandRefused, ConfigError, DecodeError, Retry, VersionMismatch
from p2pinfer.ids import PeerId, Span
from p2pinfer.raft.frames import read_frames, write_frames
from p2pinfer.raft.metadata.commands import (
    acquire_lease,
    delete,
    edit_model,
    next_version,
    put_setting,
    put_target,
    raise_format,
    read_format,
    read_transaction,
    release_lease,
    renew_lease,
    transaction,
)
from p2pinfer.raft.metadata.keyspace import Record
from p2pinfer.raft.metadata.limits import Limits
from p2pinfer.raft.metadata.machine import Handler, MetadataMachine
from p2pinfer.raft.metadata.saving import MAGIC
from p2pinfer.wire.codec import encode
from p2pinfer.wire.messages.metadata import (
    Changed,
    Compare,
    FormatDone,
    Get,
    MetadataCommand,
    Put,
    Relation,
    Target,
)
from p2pinfer.wire.schema import Exact, Size, registered
from tests.raft.metadata.replica import ANNA, BERT, SMALL, Replica, put


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Shout(Exact):
    """A command that only the software of a later format knows."""

    TAG: ClassVar[int] = 250

    text: Annotated[str, Size(8)]


class Newer(MetadataMachine):
    """The software of a later format."""

    @property
    def format_known(self) -> int:
        return 2

    def _known_commands(self) -> Mapping[type[Message], tuple[int, Handler]]:
        return {**super()._known_commands(), Shout: (2, self._on_shout)}

    def _on_shout(self, message: Shout) -> Message:
        revision = self.state.keys.revision + 1
        self.state.write({"app/shout": Record(message.text.encode(), revision, revision, 1)})
        return Changed(count=1)


def shout(format_of: int) -> bytes:
    return encode(MetadataCommand(format=format_of, command=encode(Shout(text="hey"))))


# Formats


def test_old_and_new_software_skip_what_the_format_does_not_have_and_say_so_alike() -> None:
    old, new = Replica(), Replica(machine=Newer())
    for command, code, retry in (
        (shout(2), "later_format", Retry.LATER),
        (shout(1), "malformed", Retry.NEVER),
    ):
        before = new.digest
        result = new.apply(command)
        assert result == old.apply(command)
        assert new.digest == before == old.digest
        with pytest.raises(CommandRefused) as refused:
            read_transaction(result)
        assert (refused.value.code, refused.value.retry) == (code, retry)


def test_a_raised_format_is_taken_by_all_and_stops_software_that_does_not_know_it() -> None:
    old, new = Replica(), Replica(machine=Newer())
    for replica in (old, new):
        replica.do(put("x"))
    assert read_format(new.apply(raise_format(2))) == FormatDone(format=2)
    with pytest.raises(VersionMismatch, match="format 2, and this software knows those up to 1: update it"):
        old.apply(raise_format(2))
    new.apply(shout(2))
    assert new.all["app/shout"] == b"hey"
    for command in (shout(2), b"", transaction()):
        with pytest.raises(VersionMismatch):
            old.apply(command)
    with pytest.raises(VersionMismatch):
        old.machine.snapshot()


def test_a_snapshot_of_a_later_format_is_refused_and_changes_nothing() -> None:
    new, old = Replica(machine=Newer()), Replica()
    new.apply(raise_format(2))
    old.do(put("x"))
    before = old.digest
    with pytest.raises(VersionMismatch, match="update it"):
        old.machine.restore(b"".join(new.machine.snapshot()))
    assert old.digest == before
    another = Replica(machine=Newer())
    another.machine.restore(b"".join(new.machine.snapshot()))
    assert another.digest == new.digest


@pytest.mark.parametrize("wrong", [1, 3, 65535])
def test_the_format_is_raised_one_by_one(wrong: int) -> None:
    refused = Replica().refusal(raise_format(wrong))
    assert (refused.code, refused.number) == ("wrong_format", 2)


@pytest.mark.parametrize(
    "command",
    [
        b"\x00",
        b"garbage",
        encode(Put(key="app/x", value=b"")),
        encode(MetadataCommand(format=1, command=b"")),
        encode(MetadataCommand(format=1, command=b"garbage")),
        encode(MetadataCommand(format=1, command=encode(Put(key="app/x", value=b"")))),
        encode(MetadataCommand(format=1, command=transaction())),
        encode(MetadataCommand(format=1, command=b"\x91\xcc\x9d")),
        encode(MetadataCommand(format=1, command=b"\x95\xcc\x9d\x90\x90\x90\x90")),
        encode(MetadataCommand(format=1, command=b"\x94\xcc\x9d\x90\x90\x90")) + b"\x00",
        b"\x94" + encode(MetadataCommand(format=1, command=b"\x94\xcc\x9d\x90\x90\x90"))[1:] + b"\xc0",
    ],
)
def test_nonsense_is_refused_and_changes_nothing(command: bytes) -> None:
    assert Replica().refusal(command).code == "malformed"


def test_the_encoding_of_format_1_does_not_change() -> None:
    """Replicas of any age must read one log alike: a change here is another structure with another tag."""
    log = [
        transaction(
            compares=[Compare(key="app/x", target=Target.VALUE, relation=Relation.LESS, value=b"v")],
            then=[
                put("x", b"v", 3),
                delete("app/y", is_prefix=True),
                Get(key="app/", is_prefix=True, limit=9),
            ],
            otherwise=[
                edit_model(("a/b", "c"), next_version(ANNA, bytes(32), edited_ms=5, labels={"l": "m"})),
                put_target(BERT, "a/b:c", Span(1, 2)),
                put_setting("models.conflicts", "merge"),
            ],
        ),
        acquire_lease("a", ANNA, 5000),
        renew_lease("a", 1, 5000),
        release_lease("a", 1),
        raise_format(2),
    ]
    assert hashlib.sha256(b"".join(log)).hexdigest()[:16] == "205a125dd3762440"
    replica = Replica()
    results = [replica.apply(command, 7) for command in log[:-1]]
    assert hashlib.sha256(b"".join(results)).hexdigest()[:16] == "7adee81de9169df2"
    assert replica.digest.hex() == "a604f413963ee52dfa7593d41b622034"


# Time


def test_time_passes_with_every_entry_and_never_goes_back() -> None:
    replica = Replica()
    for command, time_ms in ((b"", 5), (b"garbage", 9), (transaction(), 7), (b"", 3)):
        replica.apply(command, time_ms)
    assert replica.view.time_ms == 9


def test_an_absurd_stamp_ends_what_is_held_and_nothing_else() -> None:
    replica = Replica()
    replica.acquire("a")
    for absurd in (-1, (1 << 63) - 1, 1 << 200):
        replica.pass_time(absurd)
    assert replica.view.lease("a") is None
    assert replica.acquire("a").expires_ms == (1 << 53) + 1000
    assert replica.restored().digest == replica.digest


# Snapshots


def test_a_snapshot_is_captured_when_it_is_asked_for() -> None:
    replica = Replica()
    replica.do(put("x", lease=replica.acquire("a").token), put("y"))
    before = replica.digest
    chunks = replica.machine.snapshot()
    replica.do(delete("app/", is_prefix=True))
    replica.pass_time(5000)
    other = Replica()
    other.machine.restore(b"".join(chunks))
    assert other.digest == before
    assert sorted(other.all) == ["app/x", "app/y"]


def test_a_snapshot_made_under_other_limits_is_refused() -> None:
    with pytest.raises(DecodeError, match="other limits"):
        Replica(SMALL).machine.restore(b"".join(Replica().machine.snapshot()))


def test_a_damaged_snapshot_changes_nothing() -> None:
    replica = Replica()
    replica.do(put("x", lease=replica.acquire("a").token), put("y"))
    data = b"".join(replica.machine.snapshot())
    other = Replica()
    other.do(put("z"))
    before = other.digest
    for place in range(0, len(data), 7):
        for damaged in (data[:place], data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]):
            with pytest.raises(DecodeError):
                other.machine.restore(damaged)
    with pytest.raises(DecodeError, match="something follows"):
        other.machine.restore(data + b"x")
    assert other.digest == before


def test_a_snapshot_that_no_log_leads_to_is_refused() -> None:
    """The digest is right: its writer had a fault of its own."""
    replica = Replica()
    replica.acquire("b", BERT)
    replica.do(put("x", lease=replica.acquire("a").token), put("y"))
    parts, _ = read_frames(MAGIC, b"".join(replica.machine.snapshot()))
    header, lease, other, x, y, *changes = parts
    wrong: dict[str, list[Message]] = {
        "no header": parts[1:],
        "no parts": [],
        "a part is missing": parts[:-1],
        "leases out of order": [header, other, lease, x, y, *changes],
        "keys out of order": [header, lease, other, y, x, *changes],
        "a key twice": [header, lease, other, x, x, *changes],
        "a lease twice": [header, lease, lease, x, y, *changes],
        "a change for a key": [header, lease, other, x, changes[0], *changes],
        "a key for a lease": [header, lease, y, x, y, *changes],
        "a key for a change": [header, lease, other, x, y, x, y],
    }
    taken = []
    for why, messages in wrong.items():
        try:
            Replica().machine.restore(b"".join(write_frames(MAGIC, messages)))
        except DecodeError:
            continue
        taken.append(why)
    assert not taken


def test_limits_are_checked_when_they_are_made() -> None:
    for field in ("keys_count_max", "history_size_bytes_max", "ttl_ms_min"):
        with pytest.raises(ConfigError, match=field):
            Limits(**{field: 0})
    with pytest.raises(ConfigError, match="ttl_ms_min is at most"):
        Limits(ttl_ms_min=2, ttl_ms_max=1)


def test_statistics_say_what_there_is() -> None:
    replica = Replica()
    replica.acquire("a", PeerId(bytes(32)))
    replica.do(put("x"))
    replica.apply(b"garbage")
    assert replica.machine.statistics() == {
        "format": 1,
        "history": 1,
        "keys": 1,
        "keys_size_bytes": 69,
        "leases": 1,
        "revision": 1,
        "revision_compacted": 0,
        "refused_malformed": 1,
    }
