"""One session as a hop sees it: its place in the chain, what waits, and what it keeps for a replay."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from p2pinfer.ids import Contact, PeerId, SessionId, Span
from p2pinfer.wire.messages.inference import OpenSession, Step, Token
from p2pinfer.work import EngineInput, EngineOutput, SampleRequest

__all__ = ["HopSession", "Reservation"]

_NOTHING = None
"""Kept for a step that has no output: an early chunk of the prompt at the last hop."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a session may take of the hop's memory, and the cache in the engine that it pays for."""

    cache: SessionId
    """Its name: that of the session which opened it, which may be one that this one goes on from."""
    positions_max: int
    position_size_bytes: int
    session_size_bytes: int = 0
    """What it takes besides, however few its positions are."""

    @property
    def size_bytes(self) -> int:
        """What all positions may take."""
        return self.used_bytes(self.positions_max)

    def used_bytes(self, position_count: int) -> int:
        """What so many positions take; none take nothing."""
        if not position_count:
            return 0
        return self.session_size_bytes + position_count * self.position_size_bytes


@dataclass(slots=True)
class HopSession:
    """The state of one session at one hop.

    Invariant: `len(kept) == len(step_rows) == next_step`; every step below `next_step` is in the cache.
    Invariant: every step in `waiting` is at least `next_step`.
    Invariant: `row_count` is at most `place.positions_max`, and with it what is kept and what waits.
    """

    place: OpenSession
    """What the entry peer said last."""
    reserved: Reservation
    opened_at: float
    heard_at: float
    forward_from: int | None
    """Outputs of steps from here on are sent down the chain; None holds all back until a Resume."""
    orphaned_at: float | None = None
    computing: int = 0
    """Steps in the engine: those from `next_step` on."""
    waiting: dict[int, Step] = field(default_factory=dict)
    waiting_since: float = 0.0
    kept: list[Step | Token | None] = field(default_factory=list)
    step_rows: list[int] = field(default_factory=list)
    """Positions of each step in `kept`."""
    row_count: int = 0
    """Positions of all steps taken, computed or waiting: what is kept for a replay never exceeds them."""
    first_row_count: int = 0
    """Those among them that a session before this one computed."""
    recent: list[int] = field(default_factory=list)
    recent_until: int = 0
    """The position after the last of `recent`."""

    @property
    def id(self) -> SessionId:
        """The session's name."""
        return self.place.session

    def remaining_s(self, now: float) -> float:
        """When it would reach its last position at the pace it has had so far; 0 before there is a pace."""
        taken_s = max(now - self.opened_at, 1e-9)
        rows = self.row_count - self.first_row_count
        remaining = self.place.positions_max - self.row_count
        return remaining * taken_s / rows if rows > 0 else 0.0

    @property
    def next_step(self) -> int:
        """The first step that is not computed."""
        return len(self.kept)

    @property
    def span(self) -> Span:
        """The layers computed here for this session."""
        return self.place.chain[self.place.index].span

    @property
    def is_first(self) -> bool:
        """Whether token ids come in here."""
        return self.place.index == 0

    @property
    def is_last(self) -> bool:
        """Whether tokens are sampled here."""
        return self.place.index == len(self.place.chain) - 1

    @property
    def upstream(self) -> PeerId | None:
        """Who sends the steps: the hop before, or the entry peer."""
        return self.place.entry.peer if self.is_first else self.place.chain[self.place.index - 1].contact.peer

    @property
    def downstream(self) -> Contact:
        """Who computes the outputs next: the hop after, or, from the last hop, the first."""
        return self.place.chain[(self.place.index + 1) % len(self.place.chain)].contact

    def wants(self, step: Step) -> bool:
        """Whether the step is still to be computed, not at hand and within what the session may reach."""
        rows = step.row_count
        return (
            self.next_step + self.computing <= step.step < self.place.positions_max
            and step.step not in self.waiting
            and rows > 0
            and step.base + rows <= self.place.positions_max
            and self.row_count + rows <= self.place.positions_max
            and bool(step.tokens) == self.is_first
            and (step.hidden is None) == self.is_first
            and (step.hidden is None or len(step.hidden.data) <= rows * self.reserved.position_size_bytes)
        )

    def take(self, step: Step) -> None:
        """Let a wanted step wait for its turn."""
        self.waiting[step.step] = step
        self.row_count += step.row_count

    def move(self, place: OpenSession) -> None:
        """Take the place of a later epoch and keep the cache; what waits will be sent again."""
        self.place = place
        self.forward_from = None
        in_work = range(self.next_step, self.next_step + self.computing)
        self.row_count -= sum(step.row_count for n, step in self.waiting.items() if n not in in_work)
        self.waiting = {n: self.waiting[n] for n in in_work}
        if place.sample_from > self.recent_until:
            # Another last hop sampled meanwhile: its tokens are known to the entry peer alone.
            self.recent = list(place.recent)
            self.recent_until = place.sample_from

    def continued(self, place: OpenSession, now: float) -> HopSession:
        """Return the session that goes on from this one's first steps, in its cache.

        It is an object of its own, so that what the engine still computes for this one is not taken for it.
        """
        keep = min(place.keep_steps, self.next_step)
        rows = sum(self.step_rows[:keep])
        return HopSession(
            place=place,
            reserved=replace(
                self.reserved, positions_max=max(self.reserved.positions_max, place.positions_max)
            ),
            opened_at=now,
            heard_at=now,
            forward_from=0 if place.epoch == 0 else None,
            kept=self.kept[:keep],
            step_rows=self.step_rows[:keep],
            row_count=rows,
            first_row_count=rows,
            recent=list(place.recent),
            recent_until=place.sample_from,
        )

    def stop(self) -> None:
        """Forget the steps that are not computed: nobody waits for them any more."""
        self.row_count = sum(self.step_rows)
        self.waiting.clear()

    def drop_next(self) -> None:
        """Give the next step up: it could not be computed."""
        step = self.waiting.pop(self.next_step, None)
        self.row_count -= step.row_count if step else 0

    def engine_inputs(self, held: Span, count_max: int) -> list[EngineInput]:
        """Return the next step as work for the engine, which holds the layers `held`.

        In a replay several single positions are at hand: they go as one run, up to the first that is sampled,
        since the token after it may depend on it.
        """
        run = [self._engine_input(self.next_step, held)]
        while len(run) < count_max:
            number = self.next_step + len(run)
            step, last = self.waiting.get(number), self.waiting[number - 1]
            if step is None or run[-1].sample is not None or step.base != last.base + 1:
                break
            if not step.row_count == last.row_count == 1:
                break
            run.append(self._engine_input(number, held))
        return run

    def _engine_input(self, number: int, held: Span) -> EngineInput:
        step = self.waiting[number]
        position = step.base + step.row_count
        sample = None
        if self.is_last and step.sample and position >= self.place.sample_from:
            sample = SampleRequest(self.place.sampling, position, tuple(self.recent))
        return EngineInput(
            session=self.reserved.cache,
            base=step.base,
            tokens=step.tokens,
            hidden=step.hidden,
            sample=sample,
            layers=None if self.span == held else self.span,
        )

    def take_output(self, work: EngineInput, output: EngineOutput) -> Step | Token | None:
        """Keep the output of the step in work and return it as the message it is sent as."""
        step = self.waiting.pop(self.next_step)
        number = self.next_step
        message: Step | Token | None = _NOTHING
        if output.token is not None and work.sample is not None:
            message = self._token(number, work.sample.position, output.token)
        elif output.hidden is not None:
            message = Step(
                session=self.id, step=number, base=work.base, hidden=output.hidden, sample=step.sample
            )
        self.kept.append(message)
        self.step_rows.append(work.row_count)
        return message

    def _token(self, step: int, position: int, token: int) -> Token:
        sampling = self.place.sampling
        count = position - self.place.prompt_count + 1
        final = token in sampling.stop_tokens or count >= sampling.token_count_max
        if position == self.recent_until:
            self.recent.append(token)
            self.recent_until += 1
            del self.recent[: max(0, len(self.recent) - sampling.repeat_last_n)]
        return Token(session=self.id, step=step, position=position, token=token, final=final)
