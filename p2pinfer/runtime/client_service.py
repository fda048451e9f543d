"""Answers the requests of clients: the command line, and whoever else dials with a membership."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any, Protocol

from p2pinfer.effects import Message
from p2pinfer.errors import LocalProtocolError, StorageError
from p2pinfer.files import replace_file
from p2pinfer.ids import Contact, Endpoint
from p2pinfer.runtime.answer import Answer, ReadingPrompt
from p2pinfer.runtime.calls import Handler
from p2pinfer.runtime.home import Home
from p2pinfer.wire.messages.client import (
    GenerateRequest,
    PromptProgress,
    StatusReply,
    StatusRequest,
    Summary,
    TextPiece,
)

__all__ = ["Served", "client_handlers", "renew_node_file", "write_node_file"]

_log = logging.getLogger(__name__)


class Served(Protocol):
    """What the requests need of a peer."""

    def answer(self, asked: GenerateRequest, client: str = "") -> Answer:
        """Answer what a client at this address asks."""
        ...

    def status(self) -> dict[str, Any]:
        """Describe the peer."""
        ...


def client_handlers(peer: Served) -> Mapping[type[Message], Handler]:
    """Return who answers which request."""

    async def on_generate(contact: Contact, request: Message) -> AsyncGenerator[Message, None]:
        if not isinstance(request, GenerateRequest):
            raise LocalProtocolError(f"{type(request).__name__} is no GenerateRequest")
        answer = peer.answer(request, contact.endpoint.host)
        try:
            async for event in answer.events():
                if isinstance(event, ReadingPrompt):
                    yield PromptProgress(done=event.done, total=event.total)
                else:
                    yield TextPiece(text=event.text, token=event.token)
            yield Summary(json=json.dumps(answer.summary))
        finally:
            await answer.aclose()

    async def on_status(contact: Contact, request: Message) -> AsyncGenerator[Message, None]:
        yield StatusReply(json=json.dumps(peer.status()))

    return {GenerateRequest: on_generate, StatusRequest: on_status}


def write_node_file(path: Path, endpoint: Endpoint, home: Home) -> None:
    """Leave the file by which the command line on this machine finds the running node.

    Raises:
        StorageError: The disk refused.
    """
    node = {
        "pid": os.getpid(),
        "endpoint": str(endpoint),
        "peer_id": str(home.identity.peer_id),
        "swarm": str(home.swarm.id),
    }
    replace_file(path, json.dumps(node, indent=1).encode() + b"\n")


def renew_node_file(path: Path, endpoint: Endpoint, home: Home) -> None:
    """Write the file anew while the node runs, if it is there; a disk that refuses is only logged."""
    if not path.exists():
        return
    try:
        write_node_file(path, endpoint, home)
    except StorageError as error:
        _log.warning("the command line does not find this node any more: %s", error)
