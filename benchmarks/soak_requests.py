"""What the soak asks, and whether the answers are what they were when nothing was disturbed."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from p2pinfer.cli.local_swarm import LocalSwarm
from p2pinfer.errors import P2PInferError
from p2pinfer.runtime.answer import Answer
from p2pinfer.wire.messages.client import ChatMessage
from p2pinfer.wire.messages.inference import Sampling

__all__ = ["Case", "Tally", "draw_cases", "keep_asking"]

ANSWER_TIMEOUT_S = 180.0
"""An answer that takes longer is lost: these take seconds."""
CANCELLED_SHARE = 0.2
TEXT = (
    "river lantern theory of colours cheap bread winter harbour and music machine quiet stone letters why "
    "does the moon a careful engineer bridges question garden number seven explain how glass is made"
)


@dataclass(frozen=True)
class Case:
    """A conversation of one or more turns, and what is answered to each."""

    kind: str
    turns: tuple[str, ...]
    sampling: Sampling
    answers: tuple[dict[str, Any], ...] = ()
    """The summaries of the undisturbed answers."""

    def ask(self, swarm: LocalSwarm, turn: int) -> Answer:
        """Ask one turn after the turns before it, as they were answered undisturbed."""
        history: list[ChatMessage] = []
        for question, summary in zip(self.turns[:turn], self.answers[:turn], strict=True):
            history += [ChatMessage("user", question), ChatMessage("assistant", summary["text"])]
        return swarm.peer.generate(self.turns[turn], chat=history, model=swarm.model, sampling=self.sampling)

    async def undisturbed(self, swarm: LocalSwarm) -> Case:
        """Ask all turns, and keep the answers."""
        case = self
        for turn in range(len(self.turns)):
            answer = case.ask(swarm, turn)
            async for _ in answer:
                pass
            case = Case(self.kind, self.turns, self.sampling, (*case.answers, answer.summary))
        return case


def draw_cases(rng: random.Random, count: int, *, token_count_max: int) -> list[Case]:
    """Draw cases of every kind in turn: short, long, sampled, chat."""
    words = TEXT.split()

    def text(word_count: int) -> str:
        return " ".join(rng.choices(words, k=word_count))

    cases = []
    for number in range(count):
        kind = ("short", "long", "sampled", "chat")[number % 4]
        token_count = rng.randint(max(2, token_count_max // 4), token_count_max)
        sampling = Sampling(token_count_max=token_count)
        if kind in ("sampled", "chat"):
            sampling = Sampling(
                token_count_max=token_count, temperature=0.9, top_k=50, repeat_penalty=1.1, seed=number
            )
        word_count = rng.randint(60, 200) if kind == "long" else rng.randint(3, 12)
        turn_count = rng.randint(2, 3) if kind == "chat" else 1
        cases.append(Case(kind, tuple(text(word_count) for _ in range(turn_count)), sampling))
    return cases


@dataclass
class Tally:
    """What became of the answers."""

    answered: Counter[str] = field(default_factory=Counter)
    """Whole turns by kind, all right."""
    cancelled: int = 0
    lost: list[str] = field(default_factory=list)
    """Why, for each answer that did not come."""
    wrong: list[str] = field(default_factory=list)
    """Each answer that was another than the undisturbed one."""
    pauses_ms: list[float] = field(default_factory=list)
    token_count: int = 0

    def judge(self, case: Case, turn: int, answer: Answer, *, is_whole: bool) -> None:
        """Hold an answer, or as much as came of it, against the undisturbed one."""
        summary, expected = answer.summary, case.answers[turn]
        self.token_count += summary["tokens"]
        self.pauses_ms += [recovery["stall_ms"] for recovery in summary["recoveries"]]
        count = None if is_whole else len(summary["token_ids"])
        is_right = summary["token_ids"] == expected["token_ids"][:count]
        if is_whole:
            is_right = is_right and summary["text"] == expected["text"]
        if not is_right:
            self.wrong.append(f"{case.kind}, turn {turn}: {summary['text']!r} for {expected['text']!r}")
        elif is_whole:
            self.answered[case.kind] += 1
        else:
            self.cancelled += 1


async def keep_asking(
    swarm: LocalSwarm, cases: Sequence[Case], rng: random.Random, tally: Tally, *, until_s: float
) -> None:
    """Ask one turn after the other until the time has come; the last one is waited for."""
    while trio.current_time() < until_s:
        case = rng.choice(cases)
        turn = rng.randrange(len(case.turns))
        leave_after = None
        if rng.random() < CANCELLED_SHARE:
            leave_after = rng.randint(0, len(case.answers[turn]["token_ids"]) - 1)
        answer = case.ask(swarm, turn)
        try:
            with trio.fail_after(ANSWER_TIMEOUT_S):
                await _read(answer, leave_after)
        except (P2PInferError, trio.TooSlowError) as error:
            reason = f"{case.kind}, turn {turn}: {type(error).__name__}: {error}; {_course(swarm, answer)}"
            print(f"lost: {reason}", file=sys.stderr)
            tally.lost.append(reason)
        else:
            tally.judge(case, turn, answer, is_whole=leave_after is None)


def _course(swarm: LocalSwarm, answer: Answer) -> str:
    """How far an answer came, and whom the entry peer knows: to find out why it was lost."""
    known = Counter(f"{p['span']} {p['state']}" for p in swarm.peer.status()["peers"] if p["span"])
    holders = ", ".join(f"{count} x {what}" for what, count in sorted(known.items()))
    return (
        f"after {len(answer.token_ids)} tokens and {len(answer.recoveries)} recoveries; known are {holders}"
    )


async def _read(answer: Answer, leave_after: int | None) -> None:
    """Read to the end, or leave after so many tokens."""
    if leave_after == 0:
        with trio.move_on_after(
            0.1
        ):  # before the first token, while the session opens or the prompt is computed
            await anext(answer)
    else:
        async for _ in answer:
            if len(answer.token_ids) == leave_after:
                break
    await answer.aclose()
