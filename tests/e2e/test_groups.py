"""Two processes compute one span together: the same tokens as one, also when one of them dies."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pinfer import Sampling, open_peer
from p2pinfer.cli.local_swarm import wait_until
from p2pinfer.engine.tensor_engine import GroupBroken
from p2pinfer.engine.tensor_shard import ShardCut
from p2pinfer.errors import ConfigError, PeerUnreachable, UnavailableError
from p2pinfer.ids import PeerId, Span
from p2pinfer.loading import load_numpy_engine
from p2pinfer.models.store import ModelStore
from p2pinfer.runtime.answer import Answer
from p2pinfer.runtime.peer import Peer
from p2pinfer.runtime.serving import LocalModel, served_span
from p2pinfer.runtime.shards import GroupSettings
from tests.e2e.conftest import TINY, TINY_LAYER_COUNT

pytestmark = pytest.mark.e2e

SHORT_COUNT = 50
COUNT = 300
"""Tokens of an answer in whose middle much is to happen: half a second even on a fast machine."""
WHOLE = Span(0, TINY_LAYER_COUNT)
UNEVEN = (ShardCut(range(0, 1), range(0, 17)), ShardCut(range(1, 2), range(17, 128)))
QUICK = GroupSettings(deadline_s=0.5, rejoin_interval_s=0.1)


class Member:
    """A lending peer's process."""

    def __init__(self, process: subprocess.Popen[str], peer: PeerId) -> None:
        self.process = process
        self.peer = peer


class Swarm:
    """A leader in this process, and members in their own."""

    def __init__(self, directory: Path, cache: Path, stack: AsyncExitStack) -> None:
        self.directory = directory
        self.cache = cache
        self._stack = stack
        self.leader: Peer

    async def peer(self, name: str, **settings: Any) -> Peer:
        fixed: dict[str, Any] = {
            "listen": "127.0.0.1:0",
            "profile": "local",
            "engine": "numpy",
            "cache_dir": str(self.cache),
        }
        data_dir = str(self.directory / name)
        return await self._stack.enter_async_context(open_peer(**fixed, **settings, data_dir=data_dir))

    async def member(self, name: str) -> Member:
        process = await trio.to_thread.run_sync(self._start, name)
        self._stack.callback(_end, process)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{self.leader.invite}\n")
        process.stdin.flush()
        line = await trio.to_thread.run_sync(process.stdout.readline)
        peer = PeerId(bytes.fromhex(line.strip()))
        await wait_until(lambda: peer in alive(self.leader), timeout_s=20)
        return Member(process, peer)

    def _start(self, name: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.e2e.lending_peer",
                str(self.directory / name),
                str(self.cache),
                TINY,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def alive(peer: Peer) -> set[PeerId]:
    return {
        PeerId(bytes.fromhex(each["peer"])) for each in peer.status()["peers"] if each["state"] == "alive"
    }


def holder_count(peer: Peer) -> int:
    """How many peers serve layers, this one and those that it knows to live."""
    others = [each for each in peer.status()["peers"] if each["span"] and each["state"] == "alive"]
    return len({each["peer"] for each in others} | {str(peer.id)})


@asynccontextmanager
async def open_swarm(directory: Path, cache: Path) -> AsyncIterator[Swarm]:
    with trio.fail_after(60):
        async with AsyncExitStack() as stack:
            swarm = Swarm(directory, cache, stack)
            swarm.leader = await swarm.peer("leader")
            yield swarm


def ask(peer: Peer, count: int = SHORT_COUNT) -> Answer:
    sampling = Sampling(token_count_max=count, stop_tokens=(0,))
    return peer.generate("hello", model=TINY, sampling=sampling, raw=True)


async def tokens_of(answer: Answer) -> list[int]:
    return [token.token async for token in answer]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, tiny_cache: Path) -> list[int]:
    """What a single peer with all layers says."""

    async def main() -> list[int]:
        async with open_swarm(tmp_path_factory.mktemp("single"), tiny_cache) as swarm:
            return await tokens_of(ask(await swarm.peer("single", model=TINY), COUNT))

    return trio.run(main)


@pytest.mark.parametrize("cuts", [(), UNEVEN], ids=["even", "uneven"])
async def test_two_peers_say_together_what_one_says(
    tmp_path: Path, tiny_cache: Path, expected: list[int], cuts: tuple[ShardCut, ...]
) -> None:
    async with open_swarm(tmp_path, tiny_cache) as swarm:
        member = await swarm.member("member")
        await swarm.leader.groups.serve(TINY, WHOLE, [member.peer], cuts=cuts)
        answer = ask(swarm.leader)
        assert await tokens_of(answer) == expected[:SHORT_COUNT]
        assert len(answer.chain) == 1, "the swarm sees one hop"
        both: list[list[int]] = []

        async def one_of_two() -> None:
            both.append(await tokens_of(ask(swarm.leader)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one_of_two)
            nursery.start_soon(one_of_two)
        assert both == [expected[:SHORT_COUNT]] * 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_member_lost_in_mid_answer_costs_a_pause_and_no_token(
    tmp_path: Path, tiny_cache: Path, expected: list[int], number: signal.Signals
) -> None:
    async with open_swarm(tmp_path, tiny_cache) as swarm:
        leader, member = swarm.leader, await swarm.member("member")
        await leader.groups.serve(TINY, WHOLE, [member.peer], settings=QUICK)
        spare = await swarm.peer("spare", join=[leader.invite])
        local = find_local_model(tiny_cache)
        engine = load_numpy_engine(local.path, WHOLE)
        answer = ask(leader, COUNT)
        async for _ in answer:
            if len(answer.token_ids) == 3:  # only now, so that the session began with the group
                await spare.serve(engine, served_span(local, engine), TINY)
                await wait_until(lambda: holder_count(leader) == 2, timeout_s=20)
                member.process.send_signal(number)
        assert list(answer.token_ids) == expected
        (recovery,) = answer.summary["recoveries"]
        assert recovery["lost"] == [str(leader.id)]
        assert [hop.contact.peer for hop in answer.chain] == [spare.id]


def find_local_model(cache: Path) -> LocalModel:
    store = ModelStore(cache / "models")
    return LocalModel(store.manifest_of(TINY), store.path_of(TINY))


async def test_a_group_is_formed_anew_when_its_member_is_back(
    tmp_path: Path, tiny_cache: Path, expected: list[int]
) -> None:
    async with open_swarm(tmp_path, tiny_cache) as swarm:
        leader, member = swarm.leader, await swarm.member("member")
        await leader.groups.serve(TINY, WHOLE, [member.peer], settings=QUICK)
        member.process.kill()
        member.process.wait()
        back = await swarm.member("member")
        assert back.peer == member.peer
        said: list[int] = []
        while said != expected[:SHORT_COUNT]:
            try:
                said = await tokens_of(ask(leader))
            except UnavailableError:
                await trio.lowlevel.checkpoint()


async def test_who_does_not_lend_itself_is_not_taken(tmp_path: Path, tiny_cache: Path) -> None:
    async with open_swarm(tmp_path, tiny_cache) as swarm:
        leader, member = swarm.leader, await swarm.member("member")
        other = await swarm.peer("other", join=[leader.invite])
        await wait_until(lambda: {other.id, member.peer} <= alive(leader), timeout_s=20)
        with pytest.raises(GroupBroken, match="does not lend itself"):
            await leader.groups.serve(TINY, WHOLE, [other.id])
        with pytest.raises(PeerUnreachable, match="not alive"):
            await leader.groups.serve(TINY, WHOLE, [PeerId(bytes(32))])
        with pytest.raises(ConfigError, match="at least one"):
            await leader.groups.serve(TINY, WHOLE, [member.peer, other.id])
        with pytest.raises(ConfigError, match="as many cuts"):
            await leader.groups.serve(TINY, WHOLE, [member.peer], cuts=UNEVEN[:1])
        await wait_until(lambda: member.peer in alive(other), timeout_s=20)
        await leader.groups.serve(TINY, WHOLE, [member.peer])
        with pytest.raises(GroupBroken, match="a member of a group already"):
            await other.groups.serve(TINY, WHOLE, [member.peer])
