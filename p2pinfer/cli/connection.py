"""How a command reaches a node, and takes an answer from it piece by piece."""

from __future__ import annotations

import argparse
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack
from pathlib import Path
from typing import Any, Protocol

from p2pinfer.cli.progress import progress
from p2pinfer.ids import Endpoint
from p2pinfer.wire.messages.client import GenerateRequest, PromptProgress, Summary, TextPiece

__all__ = ["Client", "Connect", "open_client", "stream_answer"]


class Client(Protocol):
    """A connection to a node, as `runtime/client.py` makes it."""

    def generate(self, request: GenerateRequest) -> AsyncIterator[PromptProgress | TextPiece | Summary]:
        """Ask for an answer: how far the prompt is, the pieces as they are made, then one summary."""
        ...

    async def status(self) -> dict[str, Any]:
        """Ask the node how it is."""
        ...

    async def keyring(self, action: str, key: str = "", *, force: bool = False) -> dict[str, Any]:
        """Have the node list or change the swarm's keyring."""
        ...

    async def dht(self, action: str, **what: Any) -> dict[str, Any]:
        """Have the node use its part of the DHT."""
        ...


class Connect(Protocol):
    """What opens a connection: `runtime.client.connect`, or a test's own."""

    def __call__(
        self, data_dir: Path, *, node: Endpoint | None, join: str | None
    ) -> AbstractAsyncContextManager[Client]:
        """Dial the given node, one of the invite's, or the one that runs on this machine."""
        ...


def open_client(args: argparse.Namespace) -> AbstractAsyncContextManager[Client]:
    """Connect as the arguments of `add_node` say."""
    # Here and not above: --help must not wait for trio and cryptography.
    from p2pinfer.runtime.client import connect

    dial: Connect = connect
    return dial(args.data_dir, node=args.node, join=args.join)


async def stream_answer(
    client: Client, request: GenerateRequest, show: Callable[[str], None]
) -> dict[str, Any]:
    """Show an answer as it comes; return its summary, the object that `generate --json` prints.

    Where the first piece is long in coming, stderr shows how far the prompt is.
    """
    summary: dict[str, Any] = {}
    with ExitStack() as waiting:
        show_progress = waiting.enter_context(progress(is_patient=True))
        async for piece in client.generate(request):
            match piece:
                case PromptProgress():
                    show_progress("reading the prompt", piece.done, piece.total, "tokens")
                case TextPiece():
                    waiting.close()
                    show(piece.text)
                case Summary():
                    summary = json.loads(piece.json)
    return summary
