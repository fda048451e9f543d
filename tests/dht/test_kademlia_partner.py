"""Our lookup in a network of stock `kademlia` servers: it finds what they find, and whom they miss."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.lookup import Lookup
from p2pinfer.ids import Contact, Endpoint, PeerId
from tests.dht.kademlia_partner import (
    ID_SIZE_BYTES,
    LOOPBACK,
    Answer,
    Partner,
    longer,
    read_answer,
    running_partner,
    shorter,
)
from tests.dht.peers import nearest_by_force

K = 8
NODES_COUNT = 40
CONFIG = DhtConfig(k=K)
Ask = Callable[[Contact], Answer | None]


def look_up(partner: Partner, key: bytes, seeds: Iterable[Contact], ask: Ask) -> Lookup:
    """Run our lookup to its end, asking one after the other."""
    assert partner.seat.peer is not None
    lookup = Lookup(key, partner.seat.peer, CONFIG)
    lookup.start(list(seeds))
    while waiting := lookup.choose_next():
        for contact in waiting:
            assert contact.peer is not None
            answer = ask(contact)
            if answer is None:
                lookup.failed(contact.peer)
            else:
                lookup.answered(contact.peer, has_progress=lookup.add(answer.contacts, contact.peer))
    assert lookup.is_done
    return lookup


def find_nodes(partner: Partner, key: bytes, seeds: Iterable[Contact]) -> list[bytes]:
    lookup = look_up(partner, key, seeds, lambda contact: partner.find(contact, key))
    return [found.peer for found in lookup.nearest if found.peer is not None]


def seeds_of(partner: Partner, key: bytes) -> list[Contact]:
    """What the stock server with our seat would start from."""
    told = partner.tell(do="seeds", target=shorter(key).hex())
    return [Contact(PeerId(longer(bytes.fromhex(peer))), Endpoint(LOOPBACK, port)) for peer, port in told]


def stock_finds(partner: Partner, key: bytes) -> list[bytes]:
    return [longer(bytes.fromhex(peer)) for peer in partner.tell(do="find", target=shorter(key).hex())]


def shared_count(found: Sequence[bytes], true: Sequence[bytes]) -> int:
    return len(set(found) & set(true))


@pytest.mark.parametrize("dead_count", [0, 12])
def test_our_lookup_finds_at_least_as_many_of_the_true_nearest_as_the_stock_crawler(dead_count: int) -> None:
    rng = random.Random(7)
    keys = [longer(rng.randbytes(ID_SIZE_BYTES)) for _ in range(8)]
    with running_partner(count=NODES_COUNT, k=K, seed=1) as partner:
        dead = rng.sample(range(1, NODES_COUNT), dead_count)
        partner.tell(do="stop", nodes=dead)
        alive = [each.peer for n, each in enumerate(partner.nodes) if n not in dead and each.peer is not None]
        seeds = {key: seeds_of(partner, key) for key in keys}
        theirs = {key: stock_finds(partner, key) for key in keys}
        partner.take_seat()
        ours = {key: find_nodes(partner, key, seeds[key]) for key in keys}
    true = {key: nearest_by_force(key, alive, K) for key in keys}
    our_count, their_count = (
        sum(shared_count(found[key], true[key]) for key in keys) for found in (ours, theirs)
    )
    assert our_count >= their_count
    assert our_count >= 0.9 * K * len(keys)
    assert all(set(ours[key]) <= set(alive) for key in keys), "who is dead is not found"


def test_what_they_store_we_find_and_what_we_store_they_find() -> None:
    name, value = "from them", b"\x00\xffbytes"
    with running_partner(count=NODES_COUNT, k=K, seed=2) as partner:
        assert partner.tell(do="set", node=3, key=name, value=value.hex())
        theirs, ours = key_of(name), key_of("from us")
        seeds = {key: seeds_of(partner, key) for key in (theirs, ours)}
        partner.take_seat()
        assert get(partner, theirs, seeds[theirs]) == [value]
        for contact in look_up(partner, ours, seeds[ours], lambda each: partner.find(each, ours)).nearest:
            answer = partner.ask(contact, "store", shorter(ours), b"ours")
            assert answer is not None
            assert msgpack.unpackb(answer[21:]) is True
        found = [partner.tell(do="get", node=index, key="from us") for index in range(0, NODES_COUNT, 5)]
        assert found == [b"ours".hex()] * len(found)
        assert get(partner, key_of("nobody's"), seeds[ours]) == []


def key_of(name: str) -> bytes:
    """Where the stock server puts it."""
    return longer(hashlib.sha1(name.encode()).digest())


def get(partner: Partner, key: bytes, seeds: Iterable[Contact]) -> list[bytes]:
    """The different values that the holders tell."""
    values: set[bytes] = set()

    def ask(contact: Contact) -> Answer | None:
        answer = partner.find(contact, key, value=True)
        if answer is not None and answer.value is not None:
            values.add(answer.value)
        return answer

    look_up(partner, key, seeds, ask)
    return sorted(values)


def lies(key: bytes) -> Iterator[bytes]:
    """Answers that break the stock crawler, and some that are no msgpack at all."""
    near = shorter(key)
    plain = [
        *([["text", LOOPBACK, 1]], [[near, LOOPBACK]], [[near, 7, "port"]], [[near, LOOPBACK, 1 << 70]]),
        *({}, {"value": ["a list"]}, 7, None, "text", [[]], [None], [[near[:5], LOOPBACK, 1]]),
    ]
    for said in plain:
        with contextlib.suppress(OverflowError):
            yield msgpack.packb(said)
    yield from (b"", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\x81\x90\x01")


@contextlib.contextmanager
def liars(ports: Sequence[int], key: bytes) -> Iterator[list[int]]:
    """Answer every question at these ports with another lie."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in ports]
    told: list[int] = []

    def lie(sock: socket.socket, said: Iterator[bytes]) -> None:
        with contextlib.suppress(OSError):  # it is closed, or nobody asks any more
            while True:
                question, address = sock.recvfrom(65536)
                sock.sendto(b"\x01" + question[1:21] + next(said), address)
                told.append(1)

    threads = []
    for sock, port in zip(sockets, ports, strict=True):
        sock.settimeout(2.0)
        sock.bind((LOOPBACK, port))
        shifted = itertools.islice(itertools.cycle(lies(key)), len(threads), None)
        threads.append(threading.Thread(target=lie, args=(sock, shifted), daemon=True))
        threads[-1].start()
    try:
        yield told
    finally:
        for sock in sockets:
            sock.close()


def test_malformed_answers_do_not_break_our_lookup() -> None:
    rng = random.Random(3)
    key = longer(rng.randbytes(ID_SIZE_BYTES))
    with running_partner(count=NODES_COUNT, k=K, seed=3) as partner:
        indexes = range(len(partner.nodes))
        lying = sorted(indexes, key=lambda n: nearest_rank(partner.nodes[n], key))[1:13:2]
        partner.tell(do="stop", nodes=lying)
        seeds = seeds_of(partner, key)
        partner.take_seat()
        silent = {partner.nodes[n].peer for n in lying}
        without = look_up(
            partner, key, seeds, lambda each: None if each.peer in silent else partner.find(each, key)
        )
        with liars([partner.nodes[n].endpoint.port for n in lying], key) as told:
            lookup = look_up(partner, key, seeds, lambda each: partner.find(each, key))
    assert told, "nobody was asked who lies"
    honest = [each for each in lookup.nearest if each.peer not in silent]
    assert len(honest) >= K // 2
    assert honest == list(without.nearest[: len(honest)]), "a lie costs its own place and no other"


def nearest_rank(contact: Contact, key: bytes) -> int:
    assert contact.peer is not None
    return int.from_bytes(contact.peer, "big") ^ int.from_bytes(key, "big")


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.binary(max_size=80))
def test_whatever_the_bytes_an_answer_is_read_or_refused(data: bytes) -> None:
    call = bytes(ID_SIZE_BYTES)
    for head in (b"\x01" + call, b""):
        answer = read_answer(head + data, call)
        assert answer is None or isinstance(answer, Answer)
