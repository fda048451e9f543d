"""What a client's request is turned into, and what the settings of a node reach."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from p2pinfer.config import BALANCERS, NodeConfig
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.runtime.client_service import client_handlers
from p2pinfer.runtime.composition import _core_config
from p2pinfer.wire.messages.client import GenerateRequest, Summary


class SilentAnswer:
    """An answer without a token."""

    summary: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it

    async def events(self) -> AsyncIterator[Any]:
        nothing: tuple[Any, ...] = ()
        for event in nothing:
            yield event

    async def aclose(self) -> None:
        pass


class Asked:
    """A peer that notes who asks what."""

    def __init__(self) -> None:
        self.seen: list[tuple[GenerateRequest, str]] = []

    def answer(self, asked: GenerateRequest, client: str = "") -> Any:
        self.seen.append((asked, client))
        return SilentAnswer()

    def status(self) -> dict[str, Any]:
        return {}


async def test_a_clients_address_goes_with_what_it_asks() -> None:
    peer = Asked()
    contact = Contact(PeerId(bytes(32)), Endpoint("10.0.0.9", 4711))
    request = GenerateRequest(prompt="why", stop=("x",))
    replies = [reply async for reply in client_handlers(peer)[GenerateRequest](contact, request)]
    assert replies == [Summary(json="{}")]
    assert peer.seen == [(request, "10.0.0.9")]


@pytest.mark.parametrize("balancer", BALANCERS)
def test_the_balancer_of_the_settings_is_the_one_that_runs(balancer: str) -> None:
    assert _core_config(NodeConfig(balancer=balancer)).entry.standing.balancer == balancer
