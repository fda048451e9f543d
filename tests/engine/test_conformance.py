"""The conformance suite on the numpy engine, and broken engines that it must find."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from p2pinfer.engine.api import Engine, EngineInput, EngineOutput
from p2pinfer.engine.numpy_engine import NumpyEngine
from p2pinfer.engine.step_input import hidden_from_tensor, tensor_from_hidden
from p2pinfer.ids import SessionId, Span
from p2pinfer.testing import engine_conformance as suite
from tests.engine.tiny import tiny_config, tiny_engine


def subject(make: Callable[[Span], Engine]) -> suite.EngineSubject:
    config = tiny_config()
    return suite.EngineSubject(
        make=make, layer_count=config.layer_count, vocabulary_size=config.vocabulary_size
    )


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "separate"])
def test_the_numpy_engine_conforms(check: Callable[[suite.EngineSubject], None], tied: bool) -> None:
    check(subject(lambda span: tiny_engine(span, tied=tied)))


class Wrapped:
    """An engine that does what a sound one does; its subclasses each break one rule."""

    def __init__(self, span: Span) -> None:
        self.inner: NumpyEngine = tiny_engine(span)
        self.span = span
        self.hidden_size = self.inner.hidden_size

    def cache_size_bytes(self, positions_max: int) -> int:
        return self.inner.cache_size_bytes(positions_max)

    def open_cache(self, session: SessionId, positions_max: int) -> None:
        self.inner.open_cache(session, positions_max)

    def extend_cache(self, session: SessionId, positions_max: int) -> None:
        self.inner.extend_cache(session, positions_max)

    def run(self, batch: Sequence[EngineInput]) -> list[EngineOutput]:
        return self.inner.run(batch)

    def drop_cache(self, session: SessionId) -> None:
        self.inner.drop_cache(session)

    def close(self) -> None:
        self.inner.close()


class ForgetsToDrop(Wrapped):
    def drop_cache(self, session: SessionId) -> None:
        pass

    def open_cache(self, session: SessionId, positions_max: int) -> None:
        if not self.inner.run([EngineInput(session, 0)])[0].error:
            super().open_cache(session, positions_max)


class LeaksMemory(Wrapped):
    def __init__(self, span: Span) -> None:
        super().__init__(span)
        self.leaked: list[bytearray] = []

    def open_cache(self, session: SessionId, positions_max: int) -> None:
        super().open_cache(session, positions_max)
        self.leaked.append(bytearray(1 << 16))


class TakesMore(Wrapped):
    def cache_size_bytes(self, positions_max: int) -> int:
        return super().cache_size_bytes(positions_max) // 8


class ReordersBatch(Wrapped):
    def run(self, batch: Sequence[EngineInput]) -> list[EngineOutput]:
        ordered = sorted(batch, key=lambda step: step.session)
        return self.inner.run(ordered)


class ForgetsToCut(Wrapped):
    """Keeps drafted positions: the base is taken for the length where it is lower."""

    def __init__(self, span: Span) -> None:
        super().__init__(span)
        self.lengths: dict[SessionId, int] = {}

    def run(self, batch: Sequence[EngineInput]) -> list[EngineOutput]:
        moved = []
        for step in batch:
            base = max(step.base, self.lengths.get(step.session, 0)) if len(step.tokens) == 1 else step.base
            moved.append(dataclasses.replace(step, base=base))
            self.lengths[step.session] = base + len(step.tokens)
        return self.inner.run(moved)


class OneErrorForAll(Wrapped):
    def run(self, batch: Sequence[EngineInput]) -> list[EngineOutput]:
        outputs = self.inner.run(batch)
        errors = [output.error for output in outputs if output.error]
        return [EngineOutput(error=errors[0]) for _ in outputs] if errors else outputs


class LetsNaNPass(Wrapped):
    def run(self, batch: Sequence[EngineInput]) -> list[EngineOutput]:
        return self.inner.run([self.cleaned(step) for step in batch])

    @staticmethod
    def cleaned(step: EngineInput) -> EngineInput:
        if step.hidden is None or step.hidden.dtype != "f4" or len(step.hidden.data) % 4:
            return step
        numbers = np.nan_to_num(np.frombuffer(step.hidden.data, np.float32))
        return dataclasses.replace(step, hidden=dataclasses.replace(step.hidden, data=numbers.tobytes()))


class BatchChangesBits(Wrapped):
    def run(self, batch: Sequence[EngineInput]) -> list[EngineOutput]:
        outputs = self.inner.run(batch)
        if len(batch) > 1:
            outputs = [self.nudged(output) for output in outputs]
        return outputs

    def nudged(self, output: EngineOutput) -> EngineOutput:
        if output.hidden is None:
            return output
        hidden = hidden_from_tensor(output.hidden, self.hidden_size)
        return dataclasses.replace(output, hidden=tensor_from_hidden(np.nextafter(hidden, np.float32(9e9))))


class ForgetsToExtend(Wrapped):
    def extend_cache(self, session: SessionId, positions_max: int) -> None:
        pass


class ExtendsToAFreshCache(Wrapped):
    def extend_cache(self, session: SessionId, positions_max: int) -> None:
        self.inner.drop_cache(session)
        self.inner.open_cache(session, positions_max)


class IgnoresParts(Wrapped):
    def run(self, batch: Sequence[EngineInput]) -> list[EngineOutput]:
        return self.inner.run([dataclasses.replace(step, layers=None) for step in batch])


class ForgetsPositions(Wrapped):
    """Sees only the chunk at hand: each step starts an empty cache."""

    def run(self, batch: Sequence[EngineInput]) -> list[EngineOutput]:
        outputs = []
        for step in batch:
            if len(step.tokens) > 1:
                step = dataclasses.replace(step, base=0)
            outputs += self.inner.run([step])
        return outputs


class DiffersEachTime(Wrapped):
    made_count = 0

    def __init__(self, span: Span) -> None:
        super().__init__(span)
        DiffersEachTime.made_count += 1
        self.offset = DiffersEachTime.made_count

    def run(self, batch: Sequence[EngineInput]) -> list[EngineOutput]:
        outputs = self.inner.run(batch)
        return [
            output
            if output.token is None
            else dataclasses.replace(output, token=(output.token + self.offset) % 97)
            for output in outputs
        ]


@pytest.mark.parametrize(
    "broken",
    [
        ForgetsToDrop,
        LeaksMemory,
        TakesMore,
        ReordersBatch,
        ForgetsToCut,
        OneErrorForAll,
        LetsNaNPass,
        BatchChangesBits,
        ForgetsToExtend,
        ExtendsToAFreshCache,
        IgnoresParts,
        ForgetsPositions,
        DiffersEachTime,
    ],
)
def test_a_broken_engine_is_found(broken: Callable[[Span], Engine]) -> None:
    with pytest.raises(suite.ConformanceFailure):
        suite.check_engine(subject(broken))


def test_a_sound_engine_behind_a_wrapper_passes_everything() -> None:
    suite.check_engine(subject(Wrapped))
