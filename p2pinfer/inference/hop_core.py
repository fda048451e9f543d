"""The hop: serves its span of layers to the sessions of any entry peer.

Rules:

1. Admission is decided before anything is computed: a session reserves all it can ever need.
2. Steps are computed once each and in order; repeated ones are dropped, early ones wait.
3. Outputs are kept until the session ends, so that a hop that joins later can be given all of them again.

A hop trusts no other with a session's place in the chain but the entry peer that opened it, and takes steps
only from the hop that this place names. Computation is one batch at a time; while it runs, more steps
gather, which is continuous batching.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from p2pinfer.effects import Compute, DropCache, Effect, Message, OpenCache, Send
from p2pinfer.ids import Contact, PeerId, SessionId, Span
from p2pinfer.inference.config import HopConfig
from p2pinfer.inference.hop_session import HopSession
from p2pinfer.inference.scheduler import Waiting, choose_batch
from p2pinfer.wire.messages.inference import (
    CloseSession,
    OpenSession,
    Resume,
    SessionReady,
    SessionRefused,
    Step,
    StepFailed,
    Token,
)
from p2pinfer.work import EngineInput, EngineOutput

__all__ = ["HopCore", "ServedSpan"]

_AVERAGE_WEIGHT = 0.1
"""Weight of the newest duration in the moving average of a decode step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedSpan:
    """What this peer serves, and what a session costs it."""

    digest: bytes
    span: Span
    layer_count: int
    position_size_bytes: int
    """Memory of one position: its cache in every layer of the span, and its output kept for a replay."""
    positions_max: int
    """The model's context length."""


@dataclass(slots=True)
class _Work:
    """One step in the engine; the session may end while it is there."""

    session: HopSession
    work: EngineInput
    is_alone: bool
    """Whether it is no part of a run: what it takes is then what a step takes."""


class HopCore:
    """The serving side of inference, as a pure state machine (see `effects.py`)."""

    def __init__(self, *, me: Contact, config: HopConfig, served: ServedSpan | None = None) -> None:
        self._me = me
        self._config = config
        self._served = served
        self._sessions: dict[SessionId, HopSession] = {}
        self._reserved_bytes = 0
        self._in_work: list[_Work] = []
        self._closing = False
        self._counts: Counter[str] = Counter()
        self.step_s = 0.0
        """Moving average of a decode step through the span, in seconds; 0 before the first."""

    def serve(self, served: ServedSpan | None, now: float) -> list[Effect]:
        """Serve another span from now on; the sessions of the old one fail over."""
        effects = self._end_all("closing")
        self._served = served
        return effects

    def close(self, now: float) -> list[Effect]:
        """Refuse new sessions and tell the entry peers of the open ones to go elsewhere."""
        self._closing = True
        return self._end_all("closing")

    def knows(self, session: SessionId) -> bool:
        """Whether a session of this name is served here."""
        return session in self._sessions

    @property
    def session_count(self) -> int:
        """Sessions open here now."""
        return len(self._sessions)

    def receive(self, sender: Contact, message: Message, now: float) -> list[Effect]:
        """Take a message of `wire.messages.inference` that is meant for a hop."""
        match message:
            case OpenSession():
                return self._on_open_session(sender, message, now)
            case Step() | Token():
                session = self._sessions.get(message.session)
                if session is None:
                    return self._on_unknown(sender, message)
                return self._on_step(session, sender, message, now)
            case Resume():
                return self._on_resume(sender, message, now)
            case StepFailed():
                return self._on_step_failed(sender, message)
            case CloseSession():
                session = self._sessions.get(message.session)
                if session is None or session.place.entry.peer != sender.peer:
                    return []
                return self._end(session)
        self._counts["ignored"] += 1
        return []

    def computed(self, results: tuple[EngineOutput, ...], now: float) -> list[Effect]:
        """Take the engine's outputs of the batch in work, in its order."""
        in_work, self._in_work = self._in_work, []
        effects: list[Effect] = []
        failed: SessionId | None = None
        for item, output in zip(in_work, results, strict=True):
            item.session.computing -= 1
            if self._sessions.get(item.session.id) is not item.session or failed == item.session.id:
                self._counts["computed_in_vain"] += 1
                continue
            effects += self._on_output(item, output, now)
            failed = item.session.id if output.error is not None else None
        return effects + self._maybe_compute(now)

    def disconnected(self, contact: Contact, now: float) -> list[Effect]:
        """A stream ended: tell entry peers whose session it may have cost a message."""
        effects: list[Effect] = []
        for session in self._sessions.values():
            if session.place.entry.peer == contact.peer:
                session.orphaned_at = session.orphaned_at or now
            elif session.downstream.peer == contact.peer:
                effects.append(self._failed(session, "unreachable", peer=contact.peer))
        return effects

    def tick(self, now: float) -> list[Effect]:
        """Drop the sessions that nobody wants any more."""
        effects: list[Effect] = []
        for session in [s for s in self._sessions.values() if now >= self._expires_at(s)]:
            self._counts["expired"] += 1
            effects += self._end(session)
        return effects

    @property
    def deadline(self) -> float | None:
        """When the next session expires."""
        return min(map(self._expires_at, self._sessions.values()), default=None)

    def statistics(self) -> Mapping[str, Any]:
        """Sessions, memory and counters."""
        return {
            "sessions": len(self._sessions),
            "reserved_bytes": self._reserved_bytes,
            "waiting_steps": sum(len(s.waiting) for s in self._sessions.values()),
            "step_s": self.step_s,
            **self._counts,
        }

    # --- opening and mending --------------------------------------------------------------------

    def _on_open_session(self, sender: Contact, place: OpenSession, now: float) -> list[Effect]:
        refusal = self._refusal(sender, place)
        if refusal:
            return self._refuse(sender, place, refusal)
        effects: list[Effect] = []
        session = self._sessions.get(place.session)
        if session and session.place.entry.peer != sender.peer:
            self._counts["ignored"] += 1
            return []
        if session and place.epoch < session.place.epoch:
            return []
        if session and place.epoch > session.place.epoch and not _keeps_cache(session.place, place):
            effects += self._end(session)
            session = None
        if session is None:
            need = place.positions_max * self._position_size_bytes()
            is_full = len(self._sessions) >= self._config.session_count_max
            if is_full or self._reserved_bytes + need > self._config.memory_size_bytes_max:
                return effects + self._refuse(sender, place, "overloaded")
            session = self._begin(place, need, now)
            effects.append(OpenCache(session.id, place.positions_max))
        elif place.epoch > session.place.epoch:
            session.move(place)
        session.heard_at = now
        session.orphaned_at = None
        ready = SessionReady(
            session=session.id,
            epoch=session.place.epoch,
            next_step=session.next_step,
            working=session.next_step in session.waiting,
        )
        return [*effects, Send(place.entry, ready)]

    def _refusal(self, sender: Contact, place: OpenSession) -> str | None:
        served = self._served
        if self._closing:
            return "closing"
        if served is None or place.digest != served.digest or place.index >= len(place.chain):
            return "span"
        hop = place.chain[place.index]
        joined = all(a.end == b.start for a, b in zip(place.chain, place.chain[1:], strict=False))
        whole = place.chain[0].start == 0 and place.chain[-1].end == served.layer_count
        mine = (
            hop.contact.peer == self._me.peer and served.span.start <= hop.start < hop.end <= served.span.end
        )
        if not (joined and whole and mine and place.positions_max <= served.positions_max):
            return "span"
        if place.entry.peer != sender.peer:
            return "span"
        return None

    def _refuse(self, sender: Contact, place: OpenSession, code: str) -> list[Effect]:
        self._counts[f"refused_{code}"] += 1
        retry_after_ms = round(self._config.retry_after_s * 1000) if code == "overloaded" else 0
        refusal = SessionRefused(
            session=place.session, epoch=place.epoch, code=code, retry_after_ms=retry_after_ms
        )
        return [Send(sender, refusal)]

    def _begin(self, place: OpenSession, reserved_bytes: int, now: float) -> HopSession:
        session = HopSession(
            place=place,
            reserved_bytes=reserved_bytes,
            heard_at=now,
            forward_from=0 if place.epoch == 0 else None,
            recent=list(place.recent),
            recent_until=place.sample_from,
        )
        self._sessions[session.id] = session
        self._reserved_bytes += reserved_bytes
        self._counts["opened"] += 1
        return session

    def _on_resume(self, sender: Contact, message: Resume, now: float) -> list[Effect]:
        session = self._sessions.get(message.session)
        if session is None or session.place.entry.peer != sender.peer:
            return []
        if message.epoch != session.place.epoch:
            self._counts["stale"] += 1
            return []
        session.heard_at = now
        session.forward_from = message.forward_from
        effects: list[Effect] = []
        for output in session.kept[message.forward_from :]:
            effects += self._forward(session, output, now)
        return effects + self._maybe_compute(now)

    # --- steps ----------------------------------------------------------------------------------

    def _on_step(
        self, session: HopSession, sender: Contact, message: Step | Token, now: float
    ) -> list[Effect]:
        if isinstance(message, Token):
            is_from_ring = session.is_first and sender.peer == session.place.chain[-1].contact.peer
            if not is_from_ring or message.final:
                self._counts["ignored"] += 1
                return []
            step = Step(
                session=session.id, step=message.step + 1, base=message.position, tokens=(message.token,)
            )
        elif sender.peer == session.upstream:
            step = message
        else:
            self._counts["ignored"] += 1
            return []
        return self._take(session, step, now)

    def _take(self, session: HopSession, step: Step, now: float) -> list[Effect]:
        session.heard_at = now
        if not session.wants(step):
            self._counts["repeated"] += 1
            return []
        session.take(step)
        if step.step == session.next_step:
            session.waiting_since = now
        return self._maybe_compute(now)

    def _on_output(self, item: _Work, output: EngineOutput, now: float) -> list[Effect]:
        session = item.session
        if output.error is not None:
            self._counts["engine_errors"] += 1
            session.drop_next()
            return [self._failed(session, "engine", detail=output.error)]
        self._counts["steps"] += 1
        if item.is_alone and item.work.row_count == 1:
            last = output.duration_s
            self.step_s += (last - self.step_s) * (_AVERAGE_WEIGHT if self.step_s else 1.0)
        number = session.next_step
        message = session.take_output(item.work, output)
        session.waiting_since = now
        if session.forward_from is None or number < session.forward_from:
            return []
        return self._forward(session, message, now)

    def _forward(self, session: HopSession, output: Step | Token | None, now: float) -> list[Effect]:
        """Send one output down the chain: a token to the entry peer, too."""
        if output is None:
            return []
        if isinstance(output, Step):
            return [Send(session.downstream, output)]
        effects: list[Effect] = [Send(session.place.entry, output)]
        if output.final:
            return effects
        if session.is_first:
            step = Step(
                session=session.id, step=output.step + 1, base=output.position, tokens=(output.token,)
            )
            return effects + self._take(session, step, now)
        if session.downstream.peer == session.place.entry.peer:
            # The entry peer is the first hop, too: it hands its copy on to its own hop.
            return effects
        return [Send(session.downstream, output), *effects]

    def _maybe_compute(self, now: float) -> list[Effect]:
        """Start a batch if none is in work and somebody waits."""
        if self._in_work or self._served is None:
            return []
        waiting = [
            Waiting(s.id, s.waiting[s.next_step].row_count, s.waiting_since)
            for s in self._sessions.values()
            if s.next_step in s.waiting
        ]
        chosen = choose_batch(
            waiting,
            batch_count_max=self._config.batch_count_max,
            prefill_positions_max=self._config.prefill_positions_max,
        )
        for name in chosen:
            session = self._sessions[name]
            run = session.engine_inputs(self._served.span, self._config.run_count_max)
            session.computing = len(run)
            self._in_work += [_Work(session, work, is_alone=len(run) == 1) for work in run]
        if not self._in_work:
            return []
        self._counts["batches"] += 1
        return [Compute(tuple(item.work for item in self._in_work))]

    # --- failures and ends ----------------------------------------------------------------------

    def _on_unknown(self, sender: Contact, message: Step | Token) -> list[Effect]:
        """A step of a session that is not here: expired, closed, or from before a restart."""
        self._counts["unknown"] += 1
        return [Send(sender, StepFailed(session=message.session, epoch=0, code="unknown"))]

    def _on_step_failed(self, sender: Contact, message: StepFailed) -> list[Effect]:
        """A neighbour does not know the session: the entry peer decides what to do.

        Whatever else ails a neighbour it tells the entry peer itself; passed on, it would read as ours.
        """
        session = self._sessions.get(message.session)
        neighbours = {hop.contact.peer for hop in session.place.chain} if session else set()
        is_known = sender.peer in neighbours and sender.peer != self._me.peer
        if session is None or not is_known or message.code != "unknown":
            return []
        return [self._failed(session, message.code, peer=sender.peer)]

    def _failed(
        self, session: HopSession, code: str, *, peer: PeerId | None = None, detail: str = ""
    ) -> Send:
        failed = StepFailed(
            session=session.id, epoch=session.place.epoch, code=code, peer=peer, detail=detail[:200]
        )
        return Send(session.place.entry, failed)

    def _end(self, session: HopSession) -> list[Effect]:
        del self._sessions[session.id]
        self._reserved_bytes -= session.reserved_bytes
        self._counts["ended"] += 1
        return [DropCache(session.id)]

    def _end_all(self, code: str) -> list[Effect]:
        effects: list[Effect] = []
        for session in list(self._sessions.values()):
            effects.append(self._failed(session, code))
            effects += self._end(session)
        return effects

    def _expires_at(self, session: HopSession) -> float:
        idle_at = session.heard_at + self._config.idle_timeout_s
        if session.orphaned_at is None:
            return idle_at
        return min(idle_at, session.orphaned_at + self._config.orphan_timeout_s)

    def _position_size_bytes(self) -> int:
        return self._served.position_size_bytes if self._served else 0


def _keeps_cache(old: OpenSession, new: OpenSession) -> bool:
    """Whether the hop's part stays what it was, so that its cache stays true."""
    before, after = old.chain[old.index], new.chain[new.index]
    was_last, is_last = old.index == len(old.chain) - 1, new.index == len(new.chain) - 1
    return (
        before.span == after.span
        and was_last == is_last
        and (old.index == 0) == (new.index == 0)
        and old.digest == new.digest
        and old.positions_max == new.positions_max
    )
