"""Names: every answer counts, one that stops resolving is logged once and asked ever less often."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from itertools import pairwise

import pytest
import trio

from p2pinfer.ids import Endpoint
from p2pinfer.runtime.discovery.dns_names import (
    ANSWERS_COUNT_MAX,
    MENTION_INTERVAL_S,
    RETRY_S_MAX,
    DnsNames,
    resolve,
)
from tests.runtime.discovery.ways import Found, nameless, rng

NAME = Endpoint("peers.swarm.svc", 7946)


class Dns:
    """Answers in the order given, the last one for ever; an exception is raised."""

    def __init__(self, *answers: Sequence[str] | Exception) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[float, str]] = []

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append((trio.current_time(), host))
        await trio.lowlevel.checkpoint()
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def look(dns: Dns, duration_s: float, *names: Endpoint) -> Found:
    found = Found()
    with trio.move_on_after(duration_s):
        await DnsNames(names or (NAME,), rng=rng(), resolve=dns).run(found)
    return found


async def test_every_address_of_an_answer_is_found(autojump_clock: trio.testing.MockClock) -> None:
    found = await look(Dns(["10.0.0.1", "10.0.0.2", "fd00::1"]), 1.0)
    assert found.contacts == [nameless("10.0.0.1"), nameless("10.0.0.2"), nameless("fd00::1")]


async def test_a_name_is_asked_again_and_its_new_addresses_are_found(
    autojump_clock: trio.testing.MockClock,
) -> None:
    dns = Dns(["10.0.0.1"], ["10.0.0.1"], ["10.0.0.1", "10.0.0.2"])
    found = await look(dns, 200.0)
    assert found.contacts == [nameless("10.0.0.1"), nameless("10.0.0.1"), nameless("10.0.0.2")]
    waits = [after - before for (before, _), (after, _) in pairwise(dns.asked)]
    assert len(waits) >= 5
    assert all(22 <= wait <= 38 for wait in waits)


async def test_the_same_answer_in_another_order_is_no_news_for_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A resolver turns the addresses of a name around, and each mention may cost a state exchange."""
    hosts = ["10.0.0.1", "10.0.0.2"]
    found = await look(Dns(*([hosts, hosts[::-1]] * 100)), 2.2 * MENTION_INTERVAL_S)
    assert len(found.calls) == 3


async def test_names_do_not_wait_for_each_other(autojump_clock: trio.testing.MockClock) -> None:
    class Stuck(Dns):
        async def __call__(self, host: str) -> Sequence[str]:
            if host == "stuck":
                await trio.sleep_forever()
            return await super().__call__(host)

    found = await look(Stuck(["10.0.0.1"]), 1.0, Endpoint("stuck", 1), NAME)
    assert found.contacts == [nameless("10.0.0.1")]


@pytest.mark.parametrize(
    "error", [socket.gaierror(socket.EAI_NONAME, "not known"), UnicodeError("label too long"), OSError()]
)
async def test_a_name_that_does_not_resolve_is_logged_once_until_it_does_again(
    error: Exception, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    dns = Dns(error, error, error, ["10.0.0.1"], error, error, error)
    with caplog.at_level(logging.INFO):
        found = await look(dns, 100.0)
    assert found.contacts == [nameless("10.0.0.1")]
    lines = [record.getMessage() for record in caplog.records]
    assert ["does not resolve" in line for line in lines] == [True, False, True]
    assert "resolves again" in lines[1]
    assert NAME.host in lines[0]


async def test_the_waits_grow_to_a_bound(autojump_clock: trio.testing.MockClock) -> None:
    dns = Dns(OSError("no network"))
    await look(dns, 3600.0)
    times = [at for at, _ in dns.asked]
    waits = [after - before for before, after in pairwise(times)]
    assert 0.75 <= waits[0] <= 1.25
    assert 0.75 * RETRY_S_MAX <= waits[-1] <= 1.25 * RETRY_S_MAX
    assert 15 <= len(times) <= 25


async def test_an_answer_without_end_is_cut(autojump_clock: trio.testing.MockClock) -> None:
    found = await look(Dns([f"10.0.{index // 250}.{index % 250}" for index in range(10_000)]), 1.0)
    assert len(found.contacts) == ANSWERS_COUNT_MAX


async def test_a_resolver_that_never_answers_is_given_up(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def never(host: str) -> Sequence[str]:
        await trio.sleep_forever()

    with trio.move_on_after(60.0):
        await DnsNames([NAME], rng=rng(), resolve=never).run(Found())
    assert len([each for each in caplog.records if "no answer" in each.getMessage()]) == 1


async def test_the_system_gives_each_address_once() -> None:
    """`getaddrinfo` of a numeric host asks nobody."""
    assert await resolve("127.0.0.1") == ["127.0.0.1"]
    assert await resolve("::1") == ["::1"]
