"""What the tests of the command line share: a node that answers from a list, and a clean interpreter."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from p2pinfer.cli import connection
from p2pinfer.wire.messages.client import GenerateRequest, Summary, TextPiece

Play = Callable[[], AsyncIterator[str]]


class ListeningClient:
    """A node that remembers what it was asked and answers with given pieces."""

    def __init__(self) -> None:
        self.requests: list[GenerateRequest] = []
        self.asked: list[argparse.Namespace] = []
        self.play: Play = self._two_words
        self.state: dict[str, Any] = {}
        self.ring: dict[str, Any] = {}
        self.commands: list[tuple[str, str, bool]] = []
        self.dht_commands: list[tuple[str, dict[str, Any]]] = []
        self.dht_answer: dict[str, Any] = {}
        self.interrupt_after = 0
        """Ctrl-C comes when a status is asked for so many times, before that answer."""

    async def _two_words(self) -> AsyncIterator[str]:
        for text in ("Hello", " world"):
            await trio.lowlevel.checkpoint()
            yield text

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TextPiece | Summary]:
        self.requests.append(request)
        texts = []
        async for text in self.play():
            texts.append(text)
            yield TextPiece(text=text, token=len(texts))
        summary = {
            "text": "".join(texts),
            "tokens": len(texts),
            "prompt_tokens": 3,
            "tokens_per_s": 12.34,
            "chain": [
                {"peer": "aa", "endpoint": "10.0.0.1:7946", "span": "0:15"},
                {"peer": "bb", "endpoint": "10.0.0.2:7946", "span": "15:30"},
            ],
            "recoveries": [{"stall_ms": 41.6, "lost": ["cc"]}],
        }
        yield Summary(json=json.dumps(summary))

    async def status(self) -> dict[str, Any]:
        self.interrupt_after -= 1
        if self.interrupt_after == 0:
            signal.raise_signal(signal.SIGINT)
        return self.state

    async def keyring(self, action: str, key: str = "", *, force: bool = False) -> dict[str, Any]:
        self.commands.append((action, key, force))
        await trio.lowlevel.checkpoint()
        return self.ring

    async def dht(self, action: str, **what: Any) -> dict[str, Any]:
        self.dht_commands.append((action, what))
        await trio.lowlevel.checkpoint()
        return self.dht_answer


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> ListeningClient:
    client = ListeningClient()

    @asynccontextmanager
    async def open_client(args: argparse.Namespace) -> AsyncIterator[ListeningClient]:
        client.asked.append(args)
        await trio.lowlevel.checkpoint()
        yield client

    monkeypatch.setattr(connection, "open_client", open_client)
    return client


@pytest.fixture(autouse=True)
def _keep_the_excepthook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
