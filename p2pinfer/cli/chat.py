"""`chat`: a conversation. Ctrl-C stops an answer, Ctrl-D ends the conversation.

Each turn has its own connection: while a person thinks, none is held, and a node that was restarted in the
meantime is simply dialled again.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import AsyncIterator

from p2pinfer.cli import connection
from p2pinfer.cli.arguments import add_node, add_sampling, sampling_of
from p2pinfer.cli.failures import describe
from p2pinfer.cli.output import write
from p2pinfer.errors import P2PInferError
from p2pinfer.wire.messages.client import ChatMessage, GenerateRequest

__all__ = ["EPILOG", "configure", "run"]

TOKENS_COUNT_MAX = 512

EPILOG = """\
Ctrl-C stops an answer, Ctrl-D ends the conversation.

examples:
  p2pinfer chat
  p2pinfer chat --system "You are a pirate." --temperature 0.8 --node 192.168.1.5:7946
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--model", default="", help="which model, where the swarm serves several")
    parser.add_argument("--system", default="", metavar="TEXT", help="what the model is told before all else")
    add_sampling(parser, token_count_max=TOKENS_COUNT_MAX)
    add_node(parser)


def run(args: argparse.Namespace) -> int:
    """Talk until the input ends."""
    import trio

    history: list[ChatMessage] = []
    if args.system:
        history.append(ChatMessage("system", args.system))
    while True:
        line = _read_line()
        if line is None:
            return 0
        if not line.strip():
            continue
        turn = ChatMessage("user", line)
        text = trio.run(_answer, args, (*history, turn))
        if text:
            # Also what was stopped half-way: it is what the person saw and may refer to.
            history += (turn, ChatMessage("assistant", text))


def _read_line() -> str | None:
    """Read what the person says; None at the end of the input."""
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401  # editing and history: importing it is how input() gets them
    while True:
        try:
            return input("> " if interactive else "")
        except EOFError:
            if interactive:
                write("\n")
            return None
        except KeyboardInterrupt:
            if not interactive:
                raise
            write("\n(Ctrl-D ends the conversation)\n")


async def _answer(args: argparse.Namespace, chat: tuple[ChatMessage, ...]) -> str:
    """Show one answer and return its text: what there is of it if it was stopped or failed."""
    import trio

    pieces: list[str] = []

    def show(text: str) -> None:
        pieces.append(text)
        write(text)

    async def stop_on_interrupt(signals: AsyncIterator[int]) -> None:
        async for _ in signals:
            nursery.cancel_scope.cancel()

    request = GenerateRequest(model=args.model, chat=chat, sampling=sampling_of(args))
    try:
        with trio.open_signal_receiver(signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stop_on_interrupt, signals)
                async with connection.open_client(args) as client:
                    await connection.stream_answer(client, request, show)
                nursery.cancel_scope.cancel()
    except* P2PInferError as failed:
        # One failed answer does not end a conversation.
        print(f"\np2pinfer: {describe(_first(failed))}", file=sys.stderr)
    else:
        write("\n")
    return "".join(pieces)


def _first(group: BaseExceptionGroup[P2PInferError]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
