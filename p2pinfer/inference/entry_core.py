"""The entry peer's side of inference: opens sessions along a chain, watches them, and mends the chain.

Rules:

1. One way to begin and to mend: plan the chain, send every hop an OpenSession of the next epoch, wait until
   all are ready, then tell each from which step on its neighbour needs outputs. A hop that kept its cache
   says so by the step that it needs next, and computes nothing twice.
2. A connection that breaks is not yet a dead peer: the hop is asked once more. A hop that cannot be reached
   then, stays silent, fails or is reported dead is replaced; the others keep their place and their caches.
3. Steps are repeated with the shape that they had, so that a deterministic engine gives the same bits, and
   the random number depends on the token's position alone: the text is the one of the unbroken run.

Departs from Petals (`inference_session.py`): inputs are kept by the hop before, not by the client, so a
replay does not cross the client's line, and the healthy are never blamed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from p2pinfer.effects import Deliver, Effect, Message, Send
from p2pinfer.errors import (
    LocalProtocolError,
    NoChain,
    Overloaded,
    P2PInferError,
    PromptTooLong,
    SessionLost,
)
from p2pinfer.ids import SESSION_ID_SIZE_BYTES, Contact, PeerId, SessionId
from p2pinfer.inference.breaker import Outcome
from p2pinfer.inference.config import EntryConfig
from p2pinfer.inference.generation import Generation, Hedge, Origin, Pace, Phase, Request, chunked
from p2pinfer.inference.hedging import HedgedOpening
from p2pinfer.inference.news import GenerationFailed, PromptRead, Recovered, Sampled, SessionOpened
from p2pinfer.inference.parking import ParkingLot
from p2pinfer.inference.places import WayMap
from p2pinfer.inference.planner import Holder, mend_chain
from p2pinfer.inference.router import Router
from p2pinfer.wire.messages.inference import (
    POSITIONS_MAX,
    ChainHop,
    CloseSession,
    Prefilled,
    Resume,
    SessionReady,
    SessionRefused,
    StepFailed,
    Token,
)

__all__ = ["EntryCore"]

_EARLY_COUNT_MAX = 64
"""Tokens kept that came before their turn; a connection keeps order, so more is nonsense."""
_LATE_S = 0.05
"""A tick that comes so late says that this peer itself stood still: answers may wait behind it."""


class EntryCore:
    """The asking side of inference, as a pure state machine (see `effects.py`)."""

    def __init__(self, *, me: Contact, config: EntryConfig, rng: random.Random) -> None:
        self._me = me
        self._config = config
        self._rng = rng
        self._router = Router(config, rng)
        self._generations: dict[SessionId, Generation] = {}
        self._parked = ParkingLot(config)
        self._counts: Counter[str] = Counter()

    def set_me(self, me: Contact) -> None:
        """This peer is elsewhere from now on: hops are told so with the next epoch of their session."""
        self._me = me

    def set_holders(
        self,
        holders: Mapping[bytes, Collection[Holder]],
        ways: Callable[[], WayMap | None] | None = None,
    ) -> None:
        """Plan with these from now on, by model digest; a live view stays true by itself.

        `ways` is asked before each plan how far holders are from each other.
        """
        self._router.set_holders(holders, ways)

    def member_came(self, peer: PeerId, now: float) -> None:
        """The swarm says that a peer serves now which did not before: it gets less at first."""
        self._router.standings.came(peer, now)

    def open(self, request: Request, now: float) -> tuple[SessionId, list[Effect]]:
        """Begin a generation; its tokens come as `Deliver(Sampled)`.

        Raises:
            NoChain: Some layers have no live holder. Nothing was sent.
            LocalProtocolError: The prompt is empty.
            PromptTooLong: No session can be so long.
        """
        if not request.prompt:
            raise LocalProtocolError("a prompt has at least one token")
        if request.positions_max > POSITIONS_MAX:
            raise PromptTooLong(
                f"prompt and answer take {request.positions_max} positions, but a session has at most "
                f"{POSITIONS_MAX}: shorten either"
            )
        size = self._config.prefill_chunk_positions
        generation = Generation(
            id=SessionId(self._rng.randbytes(SESSION_ID_SIZE_BYTES)),
            request=request,
            shapes=chunked(0, len(request.prompt), size),
            pace=Pace(now),
        )
        holders = self._router.holders(request.digest)
        parked = self._parked.take(request, {holder.peer: holder.span for holder in holders}, now)
        if parked is None:
            chain = self._router.plan(request, now)
        else:
            chain = parked.chain
            generation.origin = Origin(parked.session, len(parked.shapes))
            generation.shapes = (
                *parked.shapes,
                *chunked(parked.position_count, len(request.prompt), size),
            )
            self._counts["continued"] += 1
        self._generations[generation.id] = generation
        self._router.standings.budget.requested(now)
        self._counts["opened"] += 1
        return generation.id, self._begin_epoch(generation, chain, now)

    def cancel(self, session: SessionId, now: float) -> list[Effect]:
        """End a generation: every hop forgets it. An unknown one is ignored."""
        generation = self._generations.pop(session, None)
        if generation is None:
            return []
        self._counts["cancelled"] += 1
        self._router.standings.ended(session, now)
        return self._end_messages(generation, now)

    def move(self, session: SessionId, away: PeerId, to: PeerId | None, now: float) -> list[Effect]:
        """Let other holders take over what a peer does in a session, by somebody's wish.

        Raises:
            LocalProtocolError: There is no such session, or the peer has no place in it.
            NoChain: Nobody else (or not `to`) holds these layers; the session goes on as it was.
        """
        generation = self._generations.get(session)
        if generation is None or generation.index_of(away) is None:
            raise LocalProtocolError(f"session {session.short} does not run through peer {away.short}")
        holders = self._router.holders(generation.request.digest)
        if to is not None:
            kept = {hop.contact.peer for hop in generation.chain} - {away}
            holders = [holder for holder in holders if holder.peer == to or holder.peer in kept]
        chain = mend_chain(generation.chain, holders, lost={away}, ways=self._router.ways())
        self._counts["moved"] += 1
        generation.trouble.began_at = now
        return self._begin_epoch(generation, chain, now)

    def knows(self, session: SessionId) -> bool:
        """Whether a generation of this name is under way here."""
        return session in self._generations

    def receive(self, sender: Contact, message: Message, now: float) -> list[Effect]:
        """Take a message of `wire.messages.inference` that is meant for an entry peer."""
        if not isinstance(message, SessionReady | SessionRefused | Prefilled | Token | StepFailed):
            self._counts["ignored"] += 1
            return []
        generation = self._generations.get(message.session)
        index = generation.index_of(sender.peer) if generation else None
        if generation is not None and index is None and isinstance(message, SessionReady | SessionRefused):
            hedge = generation.trouble.hedge
            if hedge is not None and hedge.contact == sender and message.epoch == generation.epoch:
                return self._on_second(generation, hedge, message, now)
        if generation is None or index is None:
            # A hop whose CloseSession was lost works on for nobody.
            self._counts["unknown"] += 1
            return [Send(sender, CloseSession(session=message.session))]
        match message:
            case Token():
                return self._on_token(generation, index, message, now)
            case Prefilled():
                return self._on_prefilled(generation, index, message)
            case SessionReady():
                return self._on_session_ready(generation, index, message, now)
            case SessionRefused():
                return self._on_session_refused(generation, index, message, now)
            case StepFailed():
                return self._on_step_failed(generation, index, message, now)

    def disconnected(self, contact: Contact, now: float) -> list[Effect]:
        """A stream broke or could not be opened: ask the hop once more, or replace it."""
        effects: list[Effect] = []
        for generation in list(self._generations.values()):
            index = generation.index_of(contact.peer)
            if index is None:
                continue
            if generation.phase is Phase.OPENING and index not in generation.answered:
                effects += self._replace(generation, [generation.peer_at(index)], now)
            else:
                effects += self._repeat(generation, now)
        return effects

    def member_dead(self, peer: PeerId, now: float) -> list[Effect]:
        """The swarm says that a peer is dead or has left: replace it in every chain."""
        effects: list[Effect] = []
        for generation in list(self._generations.values()):
            if generation.index_of(peer) is not None:
                effects += self._replace(generation, [peer], now, is_certain=True)
        self._router.standings.forget(peer)
        return effects

    def tick(self, now: float) -> list[Effect]:
        """Look after the generations whose deadline has passed."""
        effects: list[Effect] = []
        for generation in [g for g in self._generations.values() if now >= g.trouble.hedge_at]:
            effects += self._hedge(generation, now)
        for generation in [g for g in self._generations.values() if now >= g.deadline]:
            if generation.phase is Phase.RUNNING:
                effects += self._probe(generation, now)
            elif now - generation.deadline > _LATE_S and not generation.trouble.was_late:
                generation.trouble.was_late = True
                generation.deadline = now + self._config.probe_timeout_s
            else:
                effects += self._replace(generation, generation.unanswered(), now)
        return effects

    @property
    def deadline(self) -> float | None:
        """When the next generation wants to be looked after."""
        return min((min(g.deadline, g.trouble.hedge_at) for g in self._generations.values()), default=None)

    def statistics(self) -> Mapping[str, Any]:
        """Generations under way, and counters."""
        return {"generations": len(self._generations), **self._counts}

    def standings(self, now: float) -> Mapping[str, Any]:
        """For people: which holders are not asked just now, and how many retries are left."""
        return self._router.standings.statistics(now)

    # --- epochs -------------------------------------------------------------------------------

    def _begin_epoch(self, generation: Generation, chain: tuple[ChainHop, ...], now: float) -> list[Effect]:
        """Ask every hop of `chain` to take its place; hops that lose theirs are told to forget."""
        left = {hop.contact for hop in generation.chain} - {hop.contact for hop in chain}
        if generation.chain[-1:] != chain[-1:]:
            generation.early.clear()
        generation.chain = chain
        generation.epoch += 1
        generation.phase = Phase.OPENING
        generation.ready.clear()
        generation.answered.clear()
        generation.trouble.was_late = False
        generation.deadline = now + self._config.open_timeout_s
        standings = self._router.standings
        for contact in left:
            if contact.peer is not None:
                standings.left(generation.id, contact.peer, Outcome.CANCELLED, now)
        for index in range(len(chain)):
            standings.asked(generation.id, generation.peer_at(index), now)
        hedge, generation.trouble.hedge = generation.trouble.hedge, None
        if hedge is not None and generation.index_of(hedge.contact.peer) is None:
            left.add(hedge.contact)
        delay_s = standings.openings.delay_s(now) if not generation.is_announced else None
        generation.trouble.hedge_at = float("inf") if delay_s is None else now + delay_s
        effects: list[Effect] = [Send(c, CloseSession(session=generation.id)) for c in _sorted(left)]
        return effects + self._open_messages(generation)

    def _begin_anew(self, generation: Generation, now: float) -> list[Effect]:
        """A hop has not kept what this generation was to go on from: whole chunks beat a replay of steps."""
        self._counts["begun_anew"] += 1
        generation.begin_anew(self._config.prefill_chunk_positions)
        return self._begin_epoch(generation, generation.chain, now)

    def _open_messages(self, generation: Generation) -> list[Effect]:
        return [
            Send(hop.contact, generation.open_message(index, self._me))
            for index, hop in enumerate(generation.chain)
        ]

    def _on_session_ready(
        self, generation: Generation, index: int, message: SessionReady, now: float
    ) -> list[Effect]:
        if message.epoch != generation.epoch or generation.phase is Phase.RUNNING:
            self._counts["stale"] += 1
            return []
        is_first_opening = (
            generation.phase is Phase.OPENING and generation.epoch == generation.origin.fresh_since
        )
        if message.next_step > (generation.origin.step_count if is_first_opening else generation.steps_max):
            self._counts["nonsense"] += 1
            return self._replace(generation, [generation.peer_at(index)], now, is_certain=True)
        has_lost_cache = message.next_step < generation.done_count(index)
        generation.ready[index] = message.next_step
        self._router.standings.answered(generation.id, generation.peer_at(index), now)
        if not generation.is_announced and message.next_step < generation.origin.step_count:
            return self._begin_anew(generation, now)
        if generation.phase is Phase.PROBING and has_lost_cache:
            return self._repeat(generation, now)
        generation.answered[index] = message.working
        if len(generation.answered) < len(generation.chain):
            return []
        if generation.phase is Phase.PROBING:
            return self._judge(generation, now)
        return self._forget_second(generation) + self._go(generation, now)

    def _go(self, generation: Generation, now: float) -> list[Effect]:
        """All hops are ready: tell each what its neighbour needs, and send what the first one needs."""
        effects: list[Effect] = []
        if generation.epoch:
            for index, hop in enumerate(generation.chain):
                is_last = index == len(generation.chain) - 1
                needed = generation.awaited_step if is_last else generation.ready[index + 1]
                resume = Resume(session=generation.id, epoch=generation.epoch, forward_from=needed)
                effects.append(Send(hop.contact, resume))
        first = generation.chain[0].contact
        for number in range(generation.ready[0], generation.input_count):
            effects.append(Send(first, generation.step(number)))
        if not generation.is_announced:
            generation.is_announced = True
            effects.append(Deliver(SessionOpened(generation.id, generation.chain)))
        self._await_token(generation, now)
        return effects

    def _hedge(self, generation: Generation, now: float) -> list[Effect]:
        """One place is not answered for longer than nearly all openings take: ask a second holder as well."""
        generation.trouble.hedge_at = float("inf")
        silent = [i for i in range(len(generation.chain)) if i not in generation.answered]
        second = self._router.second_for(generation, silent[0], now) if len(silent) == 1 else None
        if second is None:
            return []
        opening = HedgedOpening(generation.peer_at(silent[0]), now, 0.0)
        if not opening.ask_second(second.contact.peer, now, self._router.standings.budget):
            return []
        self._counts["hedged"] += 1
        chain = (*generation.chain[: silent[0]], second, *generation.chain[silent[0] + 1 :])
        generation.trouble.hedge = Hedge(second.contact, chain)
        message = replace(generation.open_message(silent[0], self._me), chain=chain)
        return [Send(second.contact, message)]

    def _on_second(
        self, generation: Generation, hedge: Hedge, message: SessionReady | SessionRefused, now: float
    ) -> list[Effect]:
        """The second holder answered before the first: the session goes on with it, if it can."""
        if isinstance(message, SessionRefused):
            generation.trouble.hedge = None
            return []
        self._counts["hedges_won"] += 1
        return self._begin_epoch(generation, hedge.chain, now)

    def _forget_second(self, generation: Generation) -> list[Effect]:
        """The first holder answered: whoever was asked besides is told to forget the session."""
        hedge, generation.trouble.hedge = generation.trouble.hedge, None
        generation.trouble.hedge_at = float("inf")
        return [Send(hedge.contact, CloseSession(session=generation.id))] if hedge is not None else []

    def _await_token(self, generation: Generation, now: float) -> None:
        config = self._config
        generation.phase = Phase.RUNNING
        wait_s = config.prefill_timeout_s
        if generation.tokens and generation.trouble.began_at is None:
            usual_s = generation.pace.best_s * config.step_timeout_factor
            wait_s = min(wait_s, max(config.step_timeout_min_s, usual_s))
        generation.deadline = now + wait_s

    # --- tokens -------------------------------------------------------------------------------

    def _on_prefilled(self, generation: Generation, index: int, message: Prefilled) -> list[Effect]:
        count = len(generation.request.prompt)
        is_news = generation.pace.read_count < message.position < count and not generation.tokens
        if index != len(generation.chain) - 1 or not is_news:
            self._counts["repeated"] += 1
            return []
        generation.pace.read_count = message.position
        return [Deliver(PromptRead(generation.id, message.position, count))]

    def _on_token(self, generation: Generation, index: int, token: Token, now: float) -> list[Effect]:
        if index != len(generation.chain) - 1 or token.position < generation.awaited_position:
            self._counts["repeated"] += 1
            return []
        if token.position - generation.awaited_position < _EARLY_COUNT_MAX:
            generation.early.setdefault(token.position, token)
        effects: list[Effect] = []
        while (token_now := generation.early.pop(generation.awaited_position, None)) is not None:
            if generation.is_nonsense(token_now):
                self._counts["nonsense"] += 1
                return effects + self._replace(generation, [generation.peer_at(index)], now, is_certain=True)
            effects += self._take_token(generation, token_now, now)
            if generation.is_final(token_now):
                del self._generations[generation.id]
                self._counts["finished"] += 1
                self._router.standings.ended(generation.id, now)
                return effects + self._end_messages(generation, now)
        return effects

    def _take_token(self, generation: Generation, token: Token, now: float) -> list[Effect]:
        effects: list[Effect] = []
        trouble = generation.trouble
        if trouble.began_at is not None and generation.phase is Phase.OPENING:
            trouble.rounds = 0  # a token from before the break: it counts as progress, not as a recovery
        elif trouble.began_at is not None:
            stall_s = now - generation.pace.last_at
            self._counts["recoveries"] += 1
            lost = tuple(sorted(p for p in set(trouble.lost) if generation.index_of(p) is None))
            effects.append(Deliver(Recovered(generation.id, stall_s, lost, generation.chain)))
            trouble.clear()
        elif generation.tokens:
            generation.pace.take(now)
        generation.pace.last_at = now
        generation.tokens.append(token.token)
        if generation.phase is not Phase.OPENING:
            self._await_token(generation, now)
        is_final = generation.is_final(token)
        effects.append(Deliver(Sampled(generation.id, token.token, token.position, is_final)))
        return effects

    # --- trouble ------------------------------------------------------------------------------

    def _on_session_refused(
        self, generation: Generation, index: int, message: SessionRefused, now: float
    ) -> list[Effect]:
        if message.epoch != generation.epoch:
            return []
        peer = generation.peer_at(index)
        if message.code != "overloaded":
            return self._replace(generation, [peer], now, is_certain=True, outcome=Outcome.CANCELLED)
        generation.trouble.retry_after_s = message.retry_after_ms / 1000
        if not self._router.standings.budget.take(now):
            # Asking one holder after the other would multiply an overload.
            self._router.standings.left(generation.id, peer, Outcome.REFUSAL, now)
            error = NoChain("the retry budget is spent", missing=(generation.chain[index].span,))
            return self._fail(generation, self._named(error, generation.trouble.retry_after_s), now)
        return self._replace(generation, [peer], now, is_certain=True, outcome=Outcome.REFUSAL)

    def _on_step_failed(
        self, generation: Generation, index: int, message: StepFailed, now: float
    ) -> list[Effect]:
        reporter = generation.peer_at(index)
        if message.code in ("closing", "draining"):
            return self._replace(generation, [reporter], now, is_certain=True, outcome=Outcome.CANCELLED)
        if message.code == "engine":
            return self._replace(generation, [reporter], now)
        accused = message.peer or reporter
        if message.code == "nonsense" and accused in generation.peers_before(reporter):
            self._counts["nonsense"] += 1
            return self._replace(generation, [generation.trouble.judge_nonsense(reporter, accused)], now)
        is_stale = generation.phase is Phase.OPENING or generation.index_of(accused) is None
        if is_stale or message.code not in ("unreachable", "unknown"):
            self._counts["stale"] += 1
            return []
        blamed = generation.trouble.judge_link(reporter, accused)
        return self._replace(generation, [blamed], now) if blamed else self._repeat(generation, now)

    def _probe(self, generation: Generation, now: float) -> list[Effect]:
        """A token is late: ask every hop whether it lives, which changes nothing there."""
        generation.phase = Phase.PROBING
        generation.answered.clear()
        generation.trouble.was_late = False
        generation.deadline = now + self._config.probe_timeout_s
        self._counts["probes"] += 1
        return self._open_messages(generation)

    def _judge(self, generation: Generation, now: float) -> list[Effect]:
        """Every hop answered the probe: go on waiting if something moves, else mend what is stuck."""
        trouble = generation.trouble
        if slow := self._slow_hop(generation, now):
            self._counts["slow"] += 1
            return self._replace(generation, [slow], now)
        progress = tuple(generation.ready[i] for i in range(len(generation.chain)))
        before, trouble.progress = trouble.progress, progress
        is_token_lost = progress[-1] > generation.awaited_step
        if not is_token_lost and len(before) != len(progress):
            self._await_token(generation, now)  # the first look: nothing to compare with
            return []
        if not is_token_lost and any(new > old for new, old in zip(progress, before, strict=True)):
            trouble.stuck, trouble.slow_since = 0, None
            self._await_token(generation, now)
            return []
        working = [i for i, is_working in generation.answered.items() if is_working]
        if working and not is_token_lost:
            return self._wait_for_engine(generation, working[0], now)
        trouble.stuck += 1
        if trouble.stuck == 1:
            return self._repeat(generation, now)
        inputs = (generation.input_count, *progress)
        lacking = [i for i in range(len(progress)) if progress[i] < inputs[i]]
        accused = lacking[0] if lacking and not is_token_lost else len(progress) - 1
        if trouble.stuck % 2:
            accused = max(
                0, accused - 1
            )  # whoever takes the place is stuck there: the hop before is at fault
        return self._replace(generation, [generation.peer_at(accused)], now)

    def _slow_hop(self, generation: Generation, now: float) -> PeerId | None:
        """Return the hop that tokens waited for again and again, if another promises to be much faster."""
        working = [i for i, is_working in generation.answered.items() if is_working]
        if not generation.tokens or len(working) != 1:
            return None
        peer = generation.peer_at(working[0])
        generation.trouble.slow_marks[peer] += 1
        if generation.trouble.slow_marks[peer] < self._config.slow_count:
            return None
        waited_s = now - generation.pace.last_at
        return peer if self._router.has_faster(generation, working[0], waited_s) else None

    def _wait_for_engine(self, generation: Generation, index: int, now: float) -> list[Effect]:
        """A hop is at work, though slow: give it time, for another would begin from nothing."""
        trouble = generation.trouble
        trouble.slow_since = now if trouble.slow_since is None else trouble.slow_since
        if now - trouble.slow_since < self._config.engine_timeout_s:
            self._await_token(generation, now)
            return []
        trouble.slow_since = None
        return self._replace(generation, [generation.peer_at(index)], now)

    def _repeat(self, generation: Generation, now: float) -> list[Effect]:
        """Open the same chain again, so that whatever was lost on the way is sent once more."""
        return self._mend(generation, (), now)

    def _replace(
        self,
        generation: Generation,
        lost: Sequence[PeerId],
        now: float,
        *,
        is_certain: bool = False,
        outcome: Outcome = Outcome.FAILURE,
    ) -> list[Effect]:
        """Go on without these peers; where it is not certain that they are of no use, they may come back."""
        trouble = generation.trouble
        if is_certain:
            trouble.excused.update(lost)
        for peer in lost:
            self._router.standings.left(generation.id, peer, outcome, now)
            trouble.avoided[peer] = now + self._config.blame_s
            trouble.lost.append(peer)
        self._counts["replaced"] += len(lost)
        return self._mend(generation, lost, now)

    def _mend(self, generation: Generation, lost: Sequence[PeerId], now: float) -> list[Effect]:
        if generation.origin.session is not None and not generation.is_announced:
            generation.begin_anew(self._config.prefill_chunk_positions)
        trouble = generation.trouble
        trouble.began_at = now if trouble.began_at is None else trouble.began_at
        trouble.rounds += 1
        if trouble.rounds > self._config.recovery_count_max:
            rounds = trouble.rounds - 1
            return self._fail(
                generation, SessionLost(f"no new token after {rounds} recoveries: try again"), now
            )
        chain = generation.chain
        if lost:
            try:
                chain = self._router.mend(generation, lost, now)
            except NoChain as error:
                return self._fail(generation, self._named(error, trouble.retry_after_s), now)
        return self._begin_epoch(generation, chain, now)

    def _named(self, error: NoChain, retry_after_s: float | None) -> P2PInferError:
        if retry_after_s is None:
            return error
        return Overloaded(
            f"every holder of some layers is busy: come back in {retry_after_s:g} s",
            retry_after_s=retry_after_s,
        )

    def _fail(self, generation: Generation, error: P2PInferError, now: float) -> list[Effect]:
        del self._generations[generation.id]
        self._router.standings.ended(generation.id, now)
        self._counts["failed"] += 1
        return [*self._close_messages(generation), Deliver(GenerationFailed(generation.id, error))]

    def _end_messages(self, generation: Generation, now: float) -> list[Effect]:
        """Tell the hops that the answer has ended; remember what a chat's next turn may go on from."""
        is_sound = generation.phase is Phase.RUNNING and generation.trouble.began_at is None
        keep = is_sound and self._parked.put(generation, now)
        return self._close_messages(generation, keep=keep)

    def _close_messages(self, generation: Generation, *, keep: bool = False) -> list[Effect]:
        close = CloseSession(session=generation.id, keep=keep)
        return [Send(hop.contact, close) for hop in generation.chain]


def _sorted(contacts: Iterable[Contact]) -> list[Contact]:
    return sorted(contacts, key=lambda c: c.peer or b"")
