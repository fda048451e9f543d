"""What every engine must do, whatever computes it: one suite for all implementations.

An engine is seen only through `engine.api.Engine`. `make(span)` loads a fresh engine of the same model; the
suite makes whole engines and chains of spans, feeds them prompts drawn from a seed, and compares tokens and
hidden states. Two kinds of sameness are asked for:

- The same step shapes give the same bits: alone or in a batch, after a dropped draft, in a reopened session,
  in a second engine, in a chain of spans or one span. With `exact=False` it owes the tolerance instead.
- Other step shapes (another chunking of the prompt) give hidden states within `tolerance`, and the same
  tokens.

A finding is a `ConformanceFailure` that names the check and what differed; it is an AssertionError, so that a
test fails with it as it is.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from random import Random

import numpy as np
from numpy.typing import NDArray

from p2pinfer.engine.api import Engine, EngineInput, SampleRequest
from p2pinfer.errors import LocalProtocolError
from p2pinfer.ids import SessionId, Span
from p2pinfer.testing.engine_probe import (
    DRAWN,
    GREEDY,
    ConformanceFailure,
    EngineSubject,
    Generation,
    chunkings,
    numbers_of,
    require,
    require_close,
    require_same,
    run_one,
    session_id,
)
from p2pinfer.wire.messages.inference import Tensor

__all__ = [
    "CHECKS",
    "ConformanceFailure",
    "EngineSubject",
    "check_engine",
    "check_chain_equals_whole",
    "check_any_chunking",
    "check_draft_and_drop",
    "check_sessions_do_not_disturb",
    "check_runs",
    "check_errors_are_isolated",
    "check_caches",
    "check_extending",
    "check_cache_size_is_honest",
    "check_two_engines_agree",
]

SLACK_SIZE_BYTES = 1 << 16
"""Python's own objects around a session's numbers: generous for a session, small against any cache."""


def check_engine(subject: EngineSubject) -> None:
    """Run every check.

    Raises:
        ConformanceFailure: The first check that fails.
    """
    for check in CHECKS:
        check(subject)


def check_chain_equals_whole(subject: EngineSubject) -> None:
    """Three spans in a chain give the tokens of one span, greedy and drawn, and so do parts of one span."""
    prompt = subject.prompt()
    with subject.engines(subject.whole, *subject.spans()) as (whole, *chain):
        for sampling in (GREEDY, DRAWN):
            one = Generation([whole], session_id(1), sampling).run(prompt, subject.token_count)
            three = Generation(chain, session_id(1), sampling).run(prompt, subject.token_count)
            require(one == three, f"a chain of spans gives other tokens: {one} and {three}")
        first, second, _ = subject.spans()
        whole.open_cache(session_id(2), len(prompt))
        part = run_one(whole, EngineInput(session_id(2), 0, tokens=prompt, layers=first))
        chain[0].open_cache(session_id(2), len(prompt))
        alone = run_one(chain[0], EngineInput(session_id(2), 0, tokens=prompt))
        require_same(subject, part.hidden, alone.hidden, f"running {first} as a part of {subject.whole}")
        with subject.engines(Span(0, second.end)) as (joined,):
            joined.open_cache(session_id(2), len(prompt))
            uncut = run_one(joined, EngineInput(session_id(2), 0, tokens=prompt))
        chain[1].open_cache(session_id(2), len(prompt))
        cut = run_one(chain[1], EngineInput(session_id(2), 0, hidden=alone.hidden))
        require_same(
            subject, cut.hidden, uncut.hidden, f"cutting {Span(0, second.end)} into {first} and {second}"
        )


def check_any_chunking(subject: EngineSubject) -> None:
    """However a prompt is cut, the hidden states are close and the tokens the same."""
    prompt = subject.prompt()
    most = Span(0, subject.layer_count - 1)
    with subject.engines(subject.whole, most) as (whole, below):
        expected: list[int] | None = None
        reference: NDArray[np.float32] | None = None
        for chunks in chunkings(subject):
            tokens = Generation([whole], session_id(1)).run(prompt, subject.token_count, chunks)
            expected = expected or tokens
            require(tokens == expected, f"chunks {chunks} give tokens {tokens}, one chunk {expected}")
            below.open_cache(session_id(1), len(prompt))
            base, rows = 0, []
            for size in chunks:
                step = EngineInput(session_id(1), base, tokens=prompt[base : base + size])
                rows.append(numbers_of(run_one(below, step).hidden))
                base += size
            below.drop_cache(session_id(1))
            hidden = np.concatenate(rows)
            reference = hidden if reference is None else reference
            require_close(subject, reference, hidden, f"cutting the prompt into {chunks}")


def check_draft_and_drop(subject: EngineSubject) -> None:
    """Positions that were tried and cut off leave no trace."""
    prompt = subject.prompt()
    with subject.engines(subject.whole) as engines:
        plain = Generation(engines, session_id(1)).run(prompt, subject.token_count)
        drafting = Generation(engines, session_id(2))
        drafting.open(len(prompt) + subject.token_count + 3)
        known = [*prompt, drafting.prefill(prompt, [len(prompt)])]
        while len(known) < len(prompt) + subject.token_count:
            wrong = [(known[-1] + 1) % subject.vocabulary_size, *prompt[:2]]
            drafting.step(len(known) - 1, wrong, known)
            known.append(drafting.step(len(known) - 1, known[-1:], known))
        drafted = known[len(prompt) :]
        require(drafted == plain, f"dropped drafts change the tokens from {plain} to {drafted}")
        again = drafting.step(0, prompt, prompt)
        require(again == plain[0], f"cut back to 0, the prompt gives {again} and not {plain[0]}")


def check_sessions_do_not_disturb(subject: EngineSubject) -> None:
    """Interleaved sessions, in one batch and in any order, give the bits that each gives alone."""
    sessions = [session_id(number) for number in range(1, 5)]
    first = subject.spans()[0]
    prompts = {session: subject.prompt(index)[: 5 + 4 * index] for index, session in enumerate(sessions)}
    with subject.engines(first, first) as (alone, together):
        for engine in (alone, together):
            for session in sessions:
                engine.open_cache(session, subject.prompt_count + 2)
        rng = Random(subject.seed)
        for turn in range(3):
            steps = []
            for session in sessions:
                prompt = prompts[session]
                base = 0 if turn == 0 else len(prompt) + turn - 1
                steps.append(
                    EngineInput(session, base, tokens=prompt if turn == 0 else prompt[turn : turn + 1])
                )
            expected = {step.session: run_one(alone, step).hidden for step in steps}
            rng.shuffle(steps)
            outputs = together.run(steps)
            require(len(outputs) == len(steps), f"{len(steps)} steps gave {len(outputs)} outputs")
            for step, output in zip(steps, outputs, strict=True):
                require(output.error is None, f"a sound step of a batch was refused: {output.error}")
                require_same(subject, output.hidden, expected[step.session], "the rest of a batch")


def check_runs(subject: EngineSubject) -> None:
    """Single positions of one session, computed in one batch, give the bits that they give one by one."""
    prompt = subject.prompt()
    first = subject.spans()[0]
    with subject.engines(first, first) as (single, together):
        for engine in (single, together):
            engine.open_cache(session_id(1), len(prompt))
            run_one(engine, EngineInput(session_id(1), 0, tokens=prompt[:3]))
        steps = [EngineInput(session_id(1), n, tokens=prompt[n : n + 1]) for n in range(3, len(prompt))]
        outputs = together.run(steps)
        require(len(outputs) == len(steps), f"{len(steps)} steps gave {len(outputs)} outputs")
        for step, output in zip(steps, outputs, strict=True):
            require(output.error is None, f"a sound step of a run was refused: {output.error}")
            require_same(subject, output.hidden, run_one(single, step).hidden, "a run")


def _bad_first_steps(subject: EngineSubject, session: SessionId) -> dict[str, EngineInput]:
    """Steps for layer 0 that must be refused; the session keeps 4 positions of 8."""
    above = Span(0, subject.layer_count + 1)
    return {
        "an unknown session": EngineInput(session_id(99), 0, tokens=(1,)),
        "a base beyond the cache": EngineInput(session, 5, tokens=(1,)),
        "a negative base": EngineInput(session, -1, tokens=(1,)),
        "a full cache": EngineInput(session, 4, tokens=(1, 2, 3, 4, 5)),
        "a token id out of range": EngineInput(session, 4, tokens=(subject.vocabulary_size,)),
        "a negative token id": EngineInput(session, 4, tokens=(-1,)),
        "no input": EngineInput(session, 4),
        "layers that are not held": EngineInput(session, 4, tokens=(1,), layers=above),
        "a token asked below the last layer": EngineInput(
            session, 4, tokens=(1,), sample=SampleRequest(GREEDY, 5)
        ),
    }


def _bad_hidden_states(good: NDArray[np.float32]) -> dict[str, Tensor]:
    """Hidden states of one position that must be refused."""
    count, size = good.shape
    not_a_number, infinite = good.copy(), good.copy()
    not_a_number[0, size // 2] = np.nan
    infinite[-1, -1] = -np.inf
    return {
        "NaN": Tensor("f4", good.shape, not_a_number.tobytes()),
        "infinity": Tensor("f4", good.shape, infinite.tobytes()),
        "another width": Tensor("f4", (count, size + 1), bytes(4 * count * (size + 1))),
        "one dimension": Tensor("f4", (size,), good[0].tobytes()),
        "no dimension": Tensor("f4", (), b""),
        "too few bytes": Tensor("f4", good.shape, good.tobytes()[:-1]),
        "an unknown type": Tensor("i4", good.shape, good.tobytes()),
    }


def _require_isolated(
    subject: EngineSubject, engine: Engine, good: EngineInput, bad: dict[str, EngineInput]
) -> None:
    """Each bad step is refused with one line, and the sound one beside it is as it is alone."""
    expected = run_one(engine, good)
    for name, step in bad.items():
        outputs = engine.run([step, good])
        require(len(outputs) == 2, f"two steps gave {len(outputs)} outputs")
        error = outputs[0].error
        require(bool(error), f"{name} was not refused")
        require("\n" not in str(error), f"the error for {name} is longer than a line")
        require(outputs[0].token is None and outputs[0].hidden is None, f"{name} gave an output too")
        require(outputs[1].error is None, f"{name} refused the sound step beside it: {outputs[1].error}")
        require_same(subject, outputs[1].hidden, expected.hidden, f"{name} beside it")


def check_errors_are_isolated(subject: EngineSubject) -> None:
    """A bad input gives one line of error; the batch's others and the session's own cache are as before."""
    first, second, _ = subject.spans()
    victim, other = session_id(1), session_id(2)
    prompt = subject.prompt()[:4]
    with subject.engines(first, second) as (low, middle):
        for engine in (low, middle):
            engine.open_cache(victim, 8)
            engine.open_cache(other, 8)
        good = EngineInput(other, 0, tokens=prompt)
        hidden = run_one(low, EngineInput(victim, 0, tokens=prompt)).hidden
        _require_isolated(subject, low, good, _bad_first_steps(subject, victim))
        # base 4 is refused if a bad step has cut the victim's cache
        after = run_one(low, EngineInput(victim, 4, tokens=(1,))).hidden
        numbers = numbers_of(after)
        run_one(middle, EngineInput(victim, 0, hidden=hidden))
        bad = {
            name: EngineInput(victim, 4, hidden=tensor)
            for name, tensor in _bad_hidden_states(numbers).items()
        }
        bad["token ids above layer 0"] = EngineInput(victim, 4, tokens=(1,))
        _require_isolated(subject, middle, EngineInput(other, 0, hidden=hidden), bad)
        run_one(middle, EngineInput(victim, 4, hidden=after))


def check_caches(subject: EngineSubject) -> None:
    """A cache is as large as told, freed when dropped, fresh when opened again, and opened once."""
    first = subject.spans()[0]
    session, prompt = session_id(1), subject.prompt()
    with subject.engines(first) as (engine,):
        require(engine.span == first, f"an engine for {first} says {engine.span}")
        promised = engine.cache_size_bytes(len(prompt))
        require(promised > 0, "a cache of some positions has no size")
        require(engine.cache_size_bytes(2 * len(prompt)) >= promised, "a larger cache is smaller")
        engine.drop_cache(session)  # unknown: ignored
        engine.open_cache(session, len(prompt))
        try:
            engine.open_cache(session, len(prompt))
        except LocalProtocolError:
            pass
        else:
            raise ConformanceFailure("a session was opened twice")
        fresh = run_one(engine, EngineInput(session, 0, tokens=prompt)).hidden
        engine.drop_cache(session)
        gone = engine.run([EngineInput(session, 0, tokens=prompt)])[0]
        require(gone.error is not None, "a dropped session still runs")
        engine.open_cache(session, len(prompt))
        stale = engine.run([EngineInput(session, 1, tokens=prompt[:1])])[0]
        require(stale.error is not None, "a reopened session still has its old positions")
        again = run_one(engine, EngineInput(session, 0, tokens=prompt)).hidden
        require_same(subject, again, fresh, "reopening a session")


def check_extending(subject: EngineSubject) -> None:
    """A session may be let reach more positions, without a trace in its bits and in another's."""
    first, prompt = subject.spans()[0], subject.prompt()
    count = len(prompt) // 2
    with subject.engines(first, first) as (grown, ample):
        for session in (session_id(1), session_id(2)):
            grown.open_cache(session, count)
            ample.open_cache(session, len(prompt))
        for engine in (grown, ample):
            for session in (session_id(1), session_id(2)):
                run_one(engine, EngineInput(session, 0, tokens=prompt[:count]))
        rest = EngineInput(session_id(1), count, tokens=prompt[count:])
        require(grown.run([rest])[0].error is not None, "a session went beyond the positions asked for")
        grown.extend_cache(session_id(1), len(prompt))
        for step in (rest, EngineInput(session_id(2), count - 1, tokens=prompt[count - 1 : count])):
            found, expected = run_one(grown, step).hidden, run_one(ample, step).hidden
            require_same(subject, found, expected, "extending a cache")
        beyond = EngineInput(session_id(1), len(prompt), tokens=prompt[:1])
        require(grown.run([beyond])[0].error is not None, "an extended session went beyond its positions")
        for session, size in ((session_id(1), count), (session_id(9), len(prompt))):
            try:
                grown.extend_cache(session, size)
            except LocalProtocolError:
                continue
            raise ConformanceFailure("a cache was extended that is unknown, or larger already")


def check_cache_size_is_honest(subject: EngineSubject) -> None:
    """Full caches take what was promised, and dropping them gives it back; seen where memory is traced."""
    span, positions_max = subject.spans()[1], 512
    with subject.engines(span) as (engine,):
        zeros = bytes(4 * engine.hidden_size * positions_max)
        hidden = Tensor("f4", (positions_max, engine.hidden_size), zeros)
        sessions = [session_id(number) for number in range(3)]
        promised = len(sessions) * engine.cache_size_bytes(positions_max)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for session in sessions:
                engine.open_cache(session, positions_max)
                run_one(engine, EngineInput(session, 0, hidden=hidden))
            taken = tracemalloc.get_traced_memory()[0] - before
            for session in sessions:
                engine.drop_cache(session)
            left = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
    require(taken <= promised + SLACK_SIZE_BYTES, f"caches took {taken} bytes of {promised} promised")
    require(left <= SLACK_SIZE_BYTES, f"dropped caches left {left} bytes behind")


def check_two_engines_agree(subject: EngineSubject) -> None:
    """A second engine of the same span gives the same bits and draws the same tokens."""
    prompt, span = subject.prompt(), subject.spans()[1]
    with subject.engines(subject.whole, subject.whole) as (one, other):
        for sampling in (GREEDY, DRAWN):
            tokens = [
                Generation([engine], session_id(1), sampling).run(prompt, subject.token_count)
                for engine in (one, other)
            ]
            require(tokens[0] == tokens[1], f"two engines give {tokens[0]} and {tokens[1]}")
    with subject.engines(Span(0, span.start), span, span) as (low, one, other):
        low.open_cache(session_id(1), len(prompt))
        hidden = run_one(low, EngineInput(session_id(1), 0, tokens=prompt)).hidden
        one.open_cache(session_id(1), len(prompt))
        other.open_cache(session_id(1), 10 * len(prompt))
        step = EngineInput(session_id(1), 0, hidden=hidden)
        require_same(
            subject,
            run_one(one, step).hidden,
            run_one(other, step).hidden,
            "another engine with a larger cache",
        )


CHECKS: tuple[Callable[[EngineSubject], None], ...] = (
    check_chain_equals_whole,
    check_any_chunking,
    check_draft_and_drop,
    check_sessions_do_not_disturb,
    check_runs,
    check_errors_are_isolated,
    check_caches,
    check_extending,
    check_cache_size_is_honest,
    check_two_engines_agree,
)
"""Every check, so that a test can run each as a case of its own."""
