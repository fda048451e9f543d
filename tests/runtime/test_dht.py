"""The DHT as applications use it: peers of one program over real sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from p2pinfer.cli.local_swarm import wait_until
from p2pinfer.dht.news import LookupId
from p2pinfer.effects import Effect, Message
from p2pinfer.errors import (
    Cancelled,
    CertificateError,
    ConfigError,
    LocalProtocolError,
    ModelNotFound,
    Overloaded,
    RecordConflict,
)
from p2pinfer.ids import Contact
from p2pinfer.models.store import ModelStore
from p2pinfer.peer_core import PeerCore
from p2pinfer.runtime import dht as runtime_dht
from p2pinfer.runtime.client import connect
from p2pinfer.runtime.dht import Dht
from p2pinfer.runtime.dht_values import Provider, provider_of
from p2pinfer.runtime.discovery.rendezvous import Rendezvous
from p2pinfer.runtime.manifests import manifest_key
from p2pinfer.runtime.peer import Peer, open_peer
from p2pinfer.wire.messages.dht import DhtRecord
from p2pinfer.wire.messages.dht_use import ManifestReply, ManifestRequest
from tests.models.tiny import write_tiny_llama

SETTINGS: dict[str, Any] = {"listen": "127.0.0.1:0", "profile": "local", "model": ""}


@pytest.fixture(autouse=True)
def _nobody_looks_for_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a peer asks the DHT by itself would be counted with what is asked here."""

    async def run(*_: object) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Rendezvous, "run", run)


@asynccontextmanager
async def peers_of(path: Path, count: int) -> AsyncIterator[list[Peer]]:
    """Peers of one swarm, each of which the others have answered in the DHT."""
    with trio.fail_after(60):
        async with AsyncExitStack() as stack:
            peers: list[Peer] = []
            for number in range(count):
                settings = SETTINGS | {"data_dir": path / str(number), "cache_dir": path / f"cache{number}"}
                settings |= {"join": [peers[0].invite]} if peers else {}
                peers.append(await stack.enter_async_context(open_peer(**settings)))
            await wait_until(
                lambda: all(peer.dht.status()["contacts_good"] == count - 1 for peer in peers), timeout_s=20
            )
            yield peers


async def test_what_one_puts_the_others_get(tmp_path: Path) -> None:
    async with peers_of(tmp_path, 3) as (one, two, three):
        assert await one.dht.put("greeting", b"hello", ttl_s=60.0) == 3
        assert await two.dht.put(("value", b"greeting"), b"hi", subkey=b"short") == 3
        found = await three.dht.get("greeting")
        assert {(each.owner, each.value, each.subkey) for each in found} == {
            (one.id, b"hello", b""),
            (two.id, b"hi", b"short"),
        }
        (hello,) = (each for each in found if each.owner == one.id)
        assert 50.0 < hello.expires_s - three._parts.clock.now() <= 60.0
        assert hello.namespace == "value"
        assert await three.dht.get(Dht.key_of("value", "greeting")) == found
        await one.dht.put("greeting", b"hello again")
        (later,) = (each for each in await three.dht.get("greeting") if each.owner == one.id)
        assert (later.value, later.sequence > hello.sequence) == (b"hello again", True)


async def test_many_keys_are_asked_at_once_and_nothing_is_found_under_the_others(tmp_path: Path) -> None:
    async with peers_of(tmp_path, 2) as (one, two):
        for number in range(20):
            await one.dht.put(f"key {number}", b"%d" % number)
        names = [f"key {number}" for number in range(25)]
        found = await two.dht.get_many(names)
        assert list(found) == names
        values = [tuple(each.value for each in found[name]) for name in names]
        assert values == [(b"%d" % number,) for number in range(20)] + [()] * 5


async def test_a_swap_happens_only_in_place_of_what_is_expected(tmp_path: Path) -> None:
    async with peers_of(tmp_path, 2) as (one, two):
        await one.dht.put("counter", b"1", expected=0)
        (first,) = await two.dht.get("counter")
        await one.dht.put("counter", b"2", expected=first.sequence)
        (second,) = await two.dht.get("counter")
        assert second.value == b"2"
        with pytest.raises(RecordConflict, match="read it and decide anew") as refusal:
            await one.dht.put("counter", b"3", expected=first.sequence)
        assert (refusal.value.sequence, refusal.value.value) == (second.sequence, b"2")
        assert [each.value for each in await two.dht.get("counter")] == [b"2"]


async def test_providers_and_peers_are_found(tmp_path: Path) -> None:
    async with peers_of(tmp_path, 3) as (one, two, three):
        await one.dht.provide("weather")
        await two.dht.provide("weather")
        found = await three.dht.find_providers("weather")
        assert {(each.peer, each.endpoint) for each in found} == {
            (one.id, one.endpoint),
            (two.id, two.endpoint),
        }
        assert await three.dht.find_providers("news") == ()
        await two.dht.stop_providing("weather")
        contacts = await three.dht.find_peers("anything")
        assert {each.peer for each in contacts} == {one.id, two.id}


async def test_own_values_and_content_are_found_by_whoever_knows_the_key(tmp_path: Path) -> None:
    async with peers_of(tmp_path, 2) as (one, two):
        own = ("own", one.dht.public_key + b"profile")
        await one.dht.put(own, b"first", subkey=b"profile")
        assert [each.value for each in await two.dht.get(own)] == [b"first"]
        await one.dht.put(("content", b"some text"), b"some text")
        assert [each.value for each in await two.dht.get(("content", b"some text"))] == [b"some text"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda dht: dht.get(b"short"), "a key has 32 bytes, not 5"),
        (lambda dht: dht.get(("", "name")), "give a text without NUL"),
        (lambda dht: dht.get(("n" * 17, "name")), "at most 16 bytes"),
        (lambda dht: dht.put("name", bytes(513)), "at most 512 bytes, not 513"),
        (lambda dht: dht.put("name", b"", subkey=bytes(65)), "at most 64 bytes, not 65"),
        (lambda dht: dht.put("name", b"", ttl_s=0.0), "ttl_s lies in"),
        (lambda dht: dht.put("name", b"", ttl_s=1e9), "ttl_s lies in"),
        (lambda dht: dht.manifest(b"no digest"), "a key has 32 bytes"),
    ],
)
async def test_misuse_is_refused_by_name(call: Any, message: str, tmp_path: Path) -> None:
    async with peers_of(tmp_path, 1) as (peer,):
        with pytest.raises(LocalProtocolError, match=message):
            await call(peer.dht)
        assert peer.dht.status()["calls"] == 0


async def test_a_peer_alone_keeps_its_own(tmp_path: Path) -> None:
    async with peers_of(tmp_path, 1) as (peer,):
        assert await peer.dht.put("greeting", b"hello") == 1
        assert [each.value for each in await peer.dht.get("greeting")] == [b"hello"]
        assert await peer.dht.find_peers("greeting") == ()


async def test_a_cancelled_wait_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where the lookup runs already, nor where its command still waits for its turn."""
    async with peers_of(tmp_path, 2) as (one, two):
        monkeypatch.setattr(two._parts.datagrams, "send_nowait", lambda *_: None)  # nobody answers
        with trio.move_on_after(0.05) as scope:
            await two.dht.get("greeting")
        assert scope.cancelled_caught
        assert not two.dht._waits
        assert two.dht.status()["calls"] == 0
        with trio.CancelScope() as scope:
            scope.cancel()
            await two.dht.get("greeting")
        await trio.testing.wait_all_tasks_blocked()
        assert not two.dht._waits
        assert two.dht._turn.value == runtime_dht.RUNNING_COUNT_MAX
        monkeypatch.undo()
        assert await one.dht.get("greeting") == ()


async def test_so_many_calls_run_so_many_wait_and_the_rest_is_told_when_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_dht, "WAITING_COUNT_MAX", 100)
    async with peers_of(tmp_path, 2) as (_, two):
        running: list[int] = []
        refused: list[Overloaded] = []
        answers: list[Any] = []
        use_dht = PeerCore.use_dht

        def counted(core: PeerCore, command: Any, now: float) -> tuple[LookupId, list[Effect]]:
            running.append(len(two.dht._waits))
            return use_dht(core, command, now)

        monkeypatch.setattr(PeerCore, "use_dht", counted)

        async def ask(number: int) -> None:
            try:
                answers.append(await two.dht.get(f"name {number}"))
            except Overloaded as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            for number in range(120):
                nursery.start_soon(ask, number)
        assert (len(answers), len(refused)) == (100, 20)
        assert all(error.retry_after_s for error in refused)
        assert max(running) < runtime_dht.RUNNING_COUNT_MAX


async def test_nobody_waits_for_a_peer_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[Exception] = []

    async def ask(peer: Peer) -> None:
        try:
            await peer.dht.get("greeting")
        except Cancelled as error:
            errors.append(error)

    async with trio.open_nursery() as nursery, peers_of(tmp_path, 2) as peers:
        monkeypatch.setattr(peers[1]._parts.datagrams, "send_nowait", lambda *_: None)
        nursery.start_soon(ask, peers[1])
        await trio.testing.wait_all_tasks_blocked()
    assert len(errors) == 1


async def test_a_manifest_is_asked_of_who_has_the_file(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", layers=2, hidden=64, heads=4, kv_heads=2, seed=7)
    known = ModelStore(tmp_path / "cache0" / "models").import_file(path, "tiny:latest")
    async with peers_of(tmp_path, 3) as (one, two, _):
        key = manifest_key(known.digest)
        with trio.fail_after(10):
            while not await two.dht.find_providers(key):
                await trio.testing.wait_all_tasks_blocked(0.05)
        found = await two.dht.manifest(known.digest)
        assert found.provider == one.id
        assert (found.manifest.full_name, found.manifest.digest) == ("tiny:latest", known.digest)
        assert found.manifest.layer_count == 2
        assert str(tmp_path) not in found.manifest.to_json(), "where it lies is nobody's business"
        assert (await one.dht.manifest(known.digest)).provider is None
        with pytest.raises(ModelNotFound, match="0 said that they have it"):
            await two.dht.manifest(bytes(32))
        await two.dht.provide(manifest_key(bytes(32)))
        with pytest.raises(ModelNotFound, match="1 said that they have it"):
            await one.dht.manifest(bytes(32))


@pytest.mark.parametrize(
    "lie",
    [
        {"sha256": "00" * 32},
        {"layer_count": 0},
        {"name": "../../etc"},
        None,
    ],
)
async def test_a_liar_is_passed_over(lie: dict[str, Any] | None, tmp_path: Path) -> None:
    """One that tells of another file, what cannot be, or no manifest at all."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", layers=2, hidden=64, heads=4, kv_heads=2, seed=7)
    known = ModelStore(tmp_path / "elsewhere").import_file(path, "tiny:latest")

    async def answer(contact: Contact, request: Message) -> AsyncGenerator[Message, None]:
        yield ManifestReply(json="[]" if lie is None else json.dumps(asdict(known) | lie))

    async with peers_of(tmp_path, 3) as (one, liar, honest):
        liar._parts.streams.handlers[ManifestRequest] = answer
        await liar.dht.provide(manifest_key(known.digest))
        with pytest.raises(ModelNotFound, match="1 said that they have it"):
            await one.dht.manifest(known.digest)
        honest._parts.store.import_file(path, "tiny:latest")
        await honest.dht.provide(manifest_key(known.digest))
        found = await one.dht.manifest(known.digest)
        assert (found.provider, found.manifest.digest) == (honest.id, known.digest)


async def test_a_call_that_was_cancelled_before_its_turn_looks_for_nothing() -> None:
    kept: list[Any] = []

    async def call(command: Any) -> None:
        kept.append(command)
        await trio.sleep_forever()

    parts: Any = SimpleNamespace(driver=SimpleNamespace(call=call))
    async with trio.open_nursery() as nursery:
        dht = Dht(parts, nursery)
        async with trio.open_nursery() as asking:
            asking.start_soon(dht.get, "greeting")
            await trio.testing.wait_all_tasks_blocked()
            asking.cancel_scope.cancel()
        with pytest.raises(Cancelled, match="nobody waits"):
            kept[0](SimpleNamespace(), 0.0)
        assert not dht._waits
        nursery.cancel_scope.cancel()


async def test_clients_read_anywhere_and_write_in_the_name_of_their_own_node_alone(tmp_path: Path) -> None:
    async with peers_of(tmp_path, 2) as (one, two):
        async with connect(tmp_path / "0") as client:
            assert (await client.dht("put", name="greeting", value=b"hello"))["stored_at"] == 2
            assert (await client.dht("provide", name="weather"))["stored_at"] == 2
            with pytest.raises(ConfigError, match="ttl_s lies in"):
                await client.dht("put", name="greeting", value=b"x", ttl_ms=10**12)
            with pytest.raises(ConfigError, match="no name is given"):
                await client.dht("get")
            with pytest.raises(ConfigError, match="knows no 'dance'"):
                await client.dht("dance", name="x")
        async with connect(tmp_path / "0", node=two.endpoint) as client:
            (value,) = (await client.dht("get", name="greeting"))["values"]
            assert (value["owner"], value["value"], value["value_hex"]) == (
                str(one.id),
                "hello",
                "68656c6c6f",
            )
            (provider,) = (await client.dht("providers", name="weather"))["providers"]
            assert provider["endpoint"] == str(one.endpoint)
            assert (await client.dht("status"))["contacts"] == 1
            for action in ("put", "rm", "provide", "stop"):
                with pytest.raises(CertificateError, match="a node of your own"):
                    await client.dht(action, name="greeting")


def test_a_provider_that_names_no_address_is_found_without_one() -> None:
    for value in (b"", b"\xff\xff", b"nowhere"):
        record = DhtRecord(
            public_key=bytes(32),
            namespace="provider",
            key=bytes(32),
            subkey=b"",
            value=value,
            sequence=1,
            expires_ms=5000,
        )
        assert provider_of(record) == Provider(record.owner, None, 5.0)
