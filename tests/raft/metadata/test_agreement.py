"""Agreement: the same state on every replica, whatever the log holds and however a replica came by it."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.errors import CommandRefused, DecodeError
from p2pinfer.raft.machine import digest_of
from p2pinfer.raft.metadata.commands import (
    acquire_lease,
    edit_model,
    next_version,
    put_setting,
    read_lease,
    read_transaction,
    release_lease,
    renew_lease,
    transaction,
)
from p2pinfer.wire.codec import encode
from p2pinfer.wire.messages.metadata import (
    Compare,
    ConflictRule,
    Delete,
    Get,
    MetadataCommand,
    Put,
    Relation,
    Target,
)
from tests.raft.metadata.replica import ANNA, BERT, CARL, SMALL, Replica

names = st.sampled_from(["a", "a/1", "a/2", "b", "c"])
keys = names.map(lambda name: f"app/{name}")
tokens = st.integers(0, 6)
values = st.sampled_from([b"", b"v", bytes(150), bytes(500)])
peers = st.sampled_from([ANNA, BERT, CARL])
versions = st.builds(
    lambda editor, manifest, at, known: next_version(editor, manifest, known=known, edited_ms=at),
    peers,
    st.sampled_from([b"", bytes(32), bytes([1]) * 32]),
    st.integers(0, 300),
    st.lists(
        st.builds(lambda peer: next_version(peer, b"", edited_ms=0), peers),
        max_size=2,
        unique_by=lambda v: v.editor,
    ),
)
operations = st.one_of(
    st.builds(Put, key=keys, value=values),
    st.builds(Put, key=keys, value=values, lease=tokens),
    st.builds(
        Put,
        key=st.sampled_from(["", "x", "setting/models.conflicts", "policy/membership"]),
        value=st.just(b""),
    ),
    st.builds(
        put_setting, st.just("models.conflicts"), st.sampled_from(["keep-both", "newest", "merge", "other"])
    ),
    st.builds(Delete, key=keys, is_prefix=st.booleans()),
    st.builds(Get, key=keys, is_prefix=st.booleans()),
    st.builds(edit_model, st.just(("m", "1")), versions, st.sampled_from(list(ConflictRule))),
)
compares = st.builds(
    Compare,
    key=keys | st.just("lock"),
    target=st.sampled_from(list(Target)),
    relation=st.sampled_from(list(Relation)),
    number=st.integers(0, 5),
    is_prefix=st.booleans(),
)
transactions = st.builds(
    lambda conditions, then, otherwise: transaction(compares=conditions, then=then, otherwise=otherwise),
    st.lists(compares, max_size=2),
    st.lists(operations, max_size=3),
    st.lists(operations, max_size=2),
)
puts = st.builds(lambda key, value: transaction(then=[Put(key=key, value=value)]), keys, values)
attached = st.builds(
    lambda key, token: transaction(then=[Put(key=key, value=b"v", lease=token)]), keys, st.integers(1, 3)
)
acquired = st.builds(
    acquire_lease, st.sampled_from(["lock", "other", "", "third", "fourth"]), peers, st.just(60)
)
others = st.one_of(
    st.builds(renew_lease, st.just("lock"), tokens, st.integers(5, 300)),
    st.builds(release_lease, st.just("lock"), tokens),
    st.just(b""),
    st.just(encode(MetadataCommand(format=2, command=b"of later software"))),
    st.binary(max_size=6),
)
commands = st.one_of(puts, puts, transactions, transactions, acquired, attached, others)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(commands, st.integers(-10, 20)), min_size=20, max_size=80), st.integers(0, 40))
def test_replicas_agree_although_one_was_restored_midway(log: list[tuple[bytes, int]], cut: int) -> None:
    """Equal results, states and snapshots; a refusal changes nothing but the time; bounds hold throughout."""
    one, other = Replica(SMALL), Replica(SMALL)
    time_ms = 0
    for place, (command, step) in enumerate(log):
        if place == cut:
            other = other.restored()
        time_ms = max(0, time_ms + step)
        one.pass_time(time_ms)
        before = one.digest
        result = one.apply(command, time_ms)
        assert result == other.apply(command, time_ms)
        try:
            if result:
                read_transaction(result)
        except CommandRefused:
            assert one.digest == before
        except DecodeError:
            read_lease(result)
        state = one.machine.state
        assert len(state.keys) <= SMALL.keys_count_max
        assert state.keys.size_bytes <= SMALL.keys_size_bytes_max
        assert len(state.history) <= SMALL.history_count_max
        assert len(state.leases) <= SMALL.leases_count_max
    assert one.digest == other.digest
    assert digest_of(one.machine) == digest_of(one.restored().machine)
    assert one.machine.state.keys.size_bytes == one.restored().machine.state.keys.size_bytes
    assert one.all == other.all


PROGRAM = """
import random
from tests.raft.metadata.replica import Replica, put, ANNA
from p2pinfer.raft.metadata.commands import delete
rng, replica = random.Random(7), Replica()
for step in range(300):
    names = {f"{rng.randrange(40)}-{rng.randrange(9)}" for _ in range(8)}
    token = replica.acquire(f"lock{step % 5}", ANNA, 1000).token
    replica.do(*(put(name, lease=token) for name in sorted(names)))
    replica.do(delete(f"app/{rng.randrange(40)}", is_prefix=True))
    replica.pass_time(step * 100)
print(replica.digest.hex())
"""


def test_the_state_does_not_depend_on_the_order_of_sets() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
