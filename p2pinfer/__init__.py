"""p2pinfer: symmetric peers that run large language models together.

import p2pinfer, trio

async def main() -> None:
    async with p2pinfer.open_peer(model="smollm2:135m") as peer:
        async for token in peer.generate("Why is the sky blue?"):
            print(token.text, end="", flush=True)

trio.run(main)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from p2pinfer.config import NodeConfig
from p2pinfer.errors import P2PInferError, RecordConflict
from p2pinfer.wire.messages.client import ChatMessage
from p2pinfer.wire.messages.events import QueryFilter
from p2pinfer.wire.messages.inference import Sampling

if TYPE_CHECKING:
    from p2pinfer.runtime.answer import Answer, GeneratedToken
    from p2pinfer.runtime.peer import Peer, open_peer

__all__ = [
    "open_peer",
    "Peer",
    "Answer",
    "GeneratedToken",
    "ChatMessage",
    "Sampling",
    "QueryFilter",
    "NodeConfig",
    "P2PInferError",
    "RecordConflict",
]

_LAZY = {
    "open_peer": "p2pinfer.runtime.peer",
    "Peer": "p2pinfer.runtime.peer",
    "Answer": "p2pinfer.runtime.answer",
    "GeneratedToken": "p2pinfer.runtime.answer",
}


def __getattr__(name: str) -> Any:
    """Import what needs trio, cryptography and numpy only when it is asked for: `--help` does not wait."""
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(module), name)
