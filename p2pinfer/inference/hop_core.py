"""The hop: serves its span of layers to the sessions of any entry peer.

Rules:

1. Admission is decided before anything is computed: a session reserves all it can ever need.
2. Steps are computed once each and in order; repeated ones are dropped, early ones wait.
3. Outputs are kept until the session ends, so that a hop that joins later can be given all of them again.

A hop trusts no other with a session's place in the chain but the entry peer that opened it, and takes steps
only from the hop that this place names. Computation goes in iterations: all decode steps that wait as one
batch, then a bounded amount of prompts; while it runs, more steps gather, which is continuous batching. The
decode steps of an iteration are answered, and on their way, before its prompts are through.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from p2pinfer.effects import Compute, DropCache, Effect, ExtendCache, Message, Misbehaved, OpenCache, Send
from p2pinfer.ids import Contact, PeerId, SessionId, Span
from p2pinfer.inference.config import HopConfig
from p2pinfer.inference.hop_session import HopSession, Reservation
from p2pinfer.inference.scheduler import Waiting, choose_batch
from p2pinfer.inference.session_table import SessionTable
from p2pinfer.wire.messages.inference import (
    CloseSession,
    OpenSession,
    Prefilled,
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
    session_size_bytes: int = 0
    """Memory that every session takes besides: what its caches leave empty of the pages that they begin."""


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
        self._sessions = SessionTable(config)
        self._in_work: deque[list[_Work]] = deque()
        self._closing = False
        self._is_held = False
        self._counts: Counter[str] = Counter()
        self.step_s = 0.0
        """Moving average of a decode step through the span, in seconds; 0 before the first."""

    def serve(self, served: ServedSpan | None, now: float) -> list[Effect]:
        """Serve another span from now on; the sessions of the old one fail over."""
        effects = self._end_all("closing")
        self._served = served
        self._in_work.clear()
        self.step_s = 0.0
        return effects

    def close(self, now: float) -> list[Effect]:
        """Refuse new sessions and tell the entry peers of the open ones to go elsewhere."""
        self._closing = True
        return self._end_all("closing")

    def drain(self, now: float) -> list[Effect]:
        """Refuse new sessions, and ask the entry peers of the open ones, which are still served, to move."""
        self._closing = True
        return [self._failed(session, "draining") for session in self._sessions]

    def reopen(self) -> None:
        """Take new sessions again."""
        self._closing = False

    def knows(self, session: SessionId) -> bool:
        """Whether a session of this name is served here."""
        return self._sessions.get(session) is not None

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
                return self._park(session, now) if message.keep else self._end(session)
        self._counts["ignored"] += 1
        return []

    def hold(self) -> None:
        """Compute nothing until `release`, so that the steps taken until then go in one batch."""
        self._is_held = True

    def release(self, now: float) -> list[Effect]:
        """Compute what was taken since `hold`."""
        self._is_held = False
        return self._maybe_compute(now)

    def computed(self, results: tuple[EngineOutput, ...], now: float) -> list[Effect]:
        """Take the engine's outputs of the oldest batch in work, in its order."""
        effects: list[Effect] = []
        failed: SessionId | None = None
        # It counts as in work until all is taken: a token that comes back here at once begins no other batch.
        for item, output in zip(self._in_work[0], results, strict=True):
            item.session.computing -= 1
            if not self._sessions.is_open(item.session) or failed == item.session.id:
                self._counts["computed_in_vain"] += 1
                continue
            effects += self._on_output(item, output, now)
            failed = item.session.id if output.error is not None else None
        self._in_work.popleft()
        return effects + self._maybe_compute(now)

    def disconnected(self, contact: Contact, now: float) -> list[Effect]:
        """A stream ended: tell entry peers whose session it may have cost a message."""
        effects: list[Effect] = []
        for session in self._sessions:
            if session.place.entry.peer == contact.peer:
                self._sessions.orphan(session, now)
            elif session.downstream.peer == contact.peer:
                effects.append(self._failed(session, "unreachable", peer=contact.peer))
        return effects

    def tick(self, now: float) -> list[Effect]:
        """Drop the sessions that nobody wants any more."""
        effects: list[Effect] = []
        for session in self._sessions.expired(now):
            self._counts["expired"] += 1
            effects += self._end(session)
        return effects

    @property
    def deadline(self) -> float | None:
        """When the next session expires."""
        return self._sessions.deadline

    def statistics(self) -> Mapping[str, Any]:
        """Sessions, memory and counters."""
        return {
            "sessions": len(self._sessions),
            "parked": self._sessions.parked_count,
            "reserved_bytes": self._sessions.reserved_bytes,
            "parked_bytes": self._sessions.parked_bytes,
            "used_bytes": self._sessions.used_bytes,
            "budget_bytes": self._config.memory_size_bytes_max,
            "waiting_steps": sum(len(s.waiting) for s in self._sessions),
            "step_s": self.step_s,
            **self._counts,
        }

    # --- opening and mending --------------------------------------------------------------------

    def _on_open_session(self, sender: Contact, place: OpenSession, now: float) -> list[Effect]:
        refusal = self._refusal(sender, place)
        if refusal:
            return self._refuse(sender, place, refusal, now)
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
            admitted = self._admit(place, now)
            if admitted is None:
                return effects + self._refuse(sender, place, "overloaded", now)
            effects += admitted
            session = self._sessions.get(place.session)
            if session is None:
                return effects
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

    def _refuse(self, sender: Contact, place: OpenSession, code: str, now: float) -> list[Effect]:
        self._counts[f"refused_{code}"] += 1
        retry_after_ms = 0
        if code == "overloaded":
            need = self._reservation(place)
            retry_after_ms = round(self._sessions.room_in_s(need.size_bytes, now) * 1000)
        refusal = SessionRefused(
            session=place.session, epoch=place.epoch, code=code, retry_after_ms=retry_after_ms
        )
        return [Send(sender, refusal)]

    def _admit(self, place: OpenSession, now: float) -> list[Effect] | None:
        """Open a session, in the cache of a parked one where it may; None where there is no room."""
        parked = self._sessions.parked(place.continues, place.entry.peer)
        if parked is not None and _continues(parked.place, place):
            return self._go_on(parked, place, now)
        if self._sessions.has_cache(place.session):
            return (
                None  # the name of a session that another one has gone on from: no honest peer takes it twice
            )
        reserved = self._reservation(place)
        given_up = self._sessions.make_room(reserved.size_bytes)
        if given_up is None:
            return None
        session = HopSession(
            place=place,
            reserved=reserved,
            opened_at=now,
            heard_at=now,
            forward_from=0 if place.epoch == 0 else None,
            recent=list(place.recent),
            recent_until=place.sample_from,
        )
        self._sessions.add(session)
        self._counts["opened"] += 1
        effects: list[Effect] = [DropCache(old.reserved.cache) for old in given_up]
        return [*effects, OpenCache(session.reserved.cache, session.reserved.positions_max)]

    def _go_on(self, parked: HopSession, place: OpenSession, now: float) -> list[Effect] | None:
        session = parked.continued(place, now)
        self._sessions.remove(parked)
        given_up = self._sessions.make_room(session.reserved.size_bytes)
        if given_up is None:
            self._sessions.keep(parked)
            return None
        self._sessions.add(session)
        self._counts["opened"] += 1
        self._counts["continued"] += 1
        effects: list[Effect] = [DropCache(old.reserved.cache) for old in given_up]
        if session.reserved != parked.reserved:
            effects.append(ExtendCache(session.reserved.cache, session.reserved.positions_max))
        return effects

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
            session.drop_next()
            if output.blames_input and session.upstream is not None:
                return self._blame(session, session.upstream, output.error)
            self._counts["engine_errors"] += 1
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
        done = item.work.base + item.work.row_count
        if session.is_last and done < session.place.prompt_count:
            return [Send(session.place.entry, Prefilled(session=session.id, position=done))]
        return self._forward(session, message, now)

    def _forward(self, session: HopSession, output: Step | Token | None, now: float) -> list[Effect]:
        """Send one output down the chain: a token to the entry peer, too."""
        if output is None:
            return []
        if output.session != session.id:  # a session before this one computed it
            output = replace(output, session=session.id)
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
        """Start an iteration if none is in work and somebody waits."""
        if self._in_work or self._is_held or self._served is None:
            return []
        waiting = [
            Waiting(s.id, s.waiting[s.next_step].row_count, s.waiting_since)
            for s in self._sessions
            if s.next_step in s.waiting
        ]
        chosen = choose_batch(
            waiting,
            batch_count_max=self._config.batch_count_max,
            prefill_positions_max=self._config.prefill_positions_max,
        )
        decode: list[_Work] = []
        rest: list[list[_Work]] = []
        run_room = self._config.prefill_positions_max
        for name in chosen:
            session = self._sessions.get(name)
            if session is None:
                continue
            # Runs of all sessions together wait for no more than prompts do.
            run_count_max = max(1, min(self._config.run_count_max, run_room))
            run = session.engine_inputs(self._served.span, run_count_max)
            run_room -= len(run) if len(run) > 1 else 0
            session.computing = len(run)
            items = [_Work(session, work, is_alone=len(run) == 1) for work in run]
            if len(run) == 1 and run[0].row_count == 1:
                decode += items
            else:
                rest.append(items)
        self._in_work.extend(batch for batch in (decode, *rest) if batch)
        self._counts["batches"] += len(self._in_work)
        self._counts["decode_batches"] += bool(decode)
        self._counts["decode_steps"] += len(decode)
        return [Compute(tuple(item.work for item in batch)) for batch in self._in_work]

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

    def _blame(self, session: HopSession, peer: PeerId, detail: str) -> list[Effect]:
        """What came from the hop before is nonsense: the entry peer judges, for either may be lying."""
        self._counts["nonsense"] += 1
        effects: list[Effect] = [self._failed(session, "nonsense", peer=peer, detail=detail)]
        if peer != self._me.peer:
            effects.append(Misbehaved(peer, detail))
        return effects

    def _park(self, session: HopSession, now: float) -> list[Effect]:
        """Keep the cache of a session that is over."""
        session.stop()
        session.heard_at = now
        self._sessions.park(session)
        self._counts["ended"] += 1
        return []

    def _end(self, session: HopSession) -> list[Effect]:
        self._sessions.remove(session)
        self._counts["ended"] += 1
        return [DropCache(session.reserved.cache)]

    def _end_all(self, code: str) -> list[Effect]:
        effects: list[Effect] = []
        for session in self._sessions.all():
            if self._sessions.is_open(session):
                effects.append(self._failed(session, code))
            effects += self._end(session)
        return effects

    def _reservation(self, place: OpenSession) -> Reservation:
        """What a session takes that is opened anew."""
        served = self._served
        return Reservation(
            place.session,
            place.positions_max,
            served.position_size_bytes if served else 0,
            served.session_size_bytes if served else 0,
        )


def _keeps_cache(old: OpenSession, new: OpenSession) -> bool:
    """Whether the hop's part stays what it was, so that its cache stays true."""
    return _same_part(old, new) and old.positions_max == new.positions_max and old.epoch >= new.fresh_since


def _continues(old: OpenSession, new: OpenSession) -> bool:
    """Whether a session may take over a parked one's cache: the hop does the same part of the same model."""
    return new.fresh_since == 0 and _same_part(old, new)


def _same_part(old: OpenSession, new: OpenSession) -> bool:
    before, after = old.chain[old.index], new.chain[new.index]
    was_last, is_last = old.index == len(old.chain) - 1, new.index == len(new.chain) - 1
    return (
        before.span == after.span
        and was_last == is_last
        and (old.index == 0) == (new.index == 0)
        and old.digest == new.digest
    )
