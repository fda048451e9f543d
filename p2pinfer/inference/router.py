"""Which chain a generation takes: the planner's cheapest, as far as the entry peer's own experience agrees.

Three things are asked in turn. Who may be asked at all: not those whose breaker is open, nor those about to
stop, unless nobody else is left. Which chain is cheapest: the planner's word, in which sessions of our own
count at once, before gossip tells of them. Who of equal holders takes each place: the balancer's.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from p2pinfer.errors import NoChain
from p2pinfer.ids import PeerId
from p2pinfer.inference.config import EntryConfig
from p2pinfer.inference.generation import Generation, Request
from p2pinfer.inference.places import WayMap
from p2pinfer.inference.planner import Holder, mend_chain, plan_chain
from p2pinfer.inference.standing import Standings
from p2pinfer.wire.messages.inference import ChainHop

__all__ = ["Router"]

_EQUAL_COST = 1.25
"""Holders whose cost is within this factor are equal: speeds are announced when they change by as much."""


class Router:
    """Chooses chains for one entry peer."""

    def __init__(self, config: EntryConfig, rng: random.Random) -> None:
        self._config = config
        self._holders: Mapping[bytes, Collection[Holder]] = {}
        self._ways: Callable[[], WayMap | None] = _no_ways
        self.standings = Standings(config.standing, rng)

    def set_holders(
        self,
        holders: Mapping[bytes, Collection[Holder]],
        ways: Callable[[], WayMap | None] | None = None,
    ) -> None:
        """Plan with these from now on, by model digest; a live view stays true by itself.

        `ways` is asked before each plan how far holders are from each other.
        """
        self._holders = holders
        self._ways = ways or _no_ways

    def ways(self) -> WayMap | None:
        """How far holders are from each other, as far as that is known now."""
        return self._ways()

    def holders(self, digest: bytes) -> list[Holder]:
        """Who serves a model, with at least as many sessions in their queues as we know to be there."""
        in_flight = self.standings.in_flight
        return [
            holder
            if in_flight(holder.peer) <= holder.queue
            else replace(holder, queue=in_flight(holder.peer))
            for holder in self._holders.get(digest, ())
        ]

    def plan(self, request: Request, now: float) -> tuple[ChainHop, ...]:
        """Return a chain for a new generation.

        Raises:
            NoChain: Some layers have no live holder.
        """
        holders = self.holders(request.digest)
        shunned = self.standings.shunned((holder.peer for holder in holders), now)
        sound = [holder for holder in holders if holder.peer not in shunned]
        ways = self.ways()
        for usable in ([holder for holder in sound if not holder.draining], sound):
            try:
                chain = plan_chain(usable, request.layers, ways=ways)
                return self._balanced(chain, usable, request, now)
            except NoChain:
                continue
        return plan_chain(holders, request.layers, ways=ways)

    def mend(self, generation: Generation, lost: Sequence[PeerId], now: float) -> tuple[ChainHop, ...]:
        """Return a chain without those who failed; if there is none, one that tries some once more.

        Who failed longest ago comes first, for a pause or a cut may have ended.

        Raises:
            NoChain: Some layers have no holder that could still do.
        """
        trouble = generation.trouble
        avoided = {peer for peer, until in trouble.avoided.items() if now < until}
        holders = self.holders(generation.request.digest)
        in_chain = {hop.contact.peer for hop in generation.chain}
        shunned = self.standings.shunned((holder.peer for holder in holders), now) - in_chain
        draining = {holder.peer for holder in holders if holder.draining} - in_chain
        excused = avoided & trouble.excused
        ways = self.ways()
        for unwanted in (avoided | shunned | draining, avoided, excused | (avoided & set(lost))):
            try:
                chain = mend_chain(generation.chain, holders, lost=unwanted, ways=ways)
                break
            except NoChain:
                continue
        else:
            chain = mend_chain(generation.chain, holders, lost=excused, ways=ways)
        trouble.excused |= avoided & {hop.contact.peer for hop in chain if hop.contact.peer}
        return chain

    def second_for(self, generation: Generation, index: int, now: float) -> ChainHop | None:
        """Return an equal holder for a place that is not answered, of the same chain; None without one."""
        hop = generation.chain[index]
        used = {other.contact.peer for other in generation.chain}
        holders = self.holders(generation.request.digest)
        usable = [holder for holder in holders if holder.peer not in used and not holder.draining]
        shunned = self.standings.shunned((holder.peer for holder in usable), now)
        able = {h.peer: h for h in usable if h.span.covers(hop.span) and h.peer not in shunned}
        peer = self.standings.pick(able.keys(), self._key(generation.request), now) if able else None
        return ChainHop(able[peer].contact, hop.start, hop.end) if peer is not None else None

    def has_faster(self, generation: Generation, index: int, waited_s: float) -> bool:
        """Whether another holder promises to do in a fraction of the time what a place took so long for."""
        hop = generation.chain[index]
        for holder in self.holders(generation.request.digest):
            is_faster = holder.cost_s(len(hop.span)) * self._config.step_timeout_factor < waited_s
            is_free = (
                generation.index_of(holder.peer) is None and holder.peer not in generation.trouble.avoided
            )
            if is_faster and is_free and not holder.draining and holder.span.covers(hop.span):
                return True
        return False

    def _key(self, request: Request) -> bytes:
        """What a balancer that hashes goes by: whose prompts begin alike find a cache at the same holder."""
        is_by_client = self._config.standing.balancer == "client_address"
        return request.key if is_by_client and request.key else request.prompt_key

    def _balanced(
        self, chain: tuple[ChainHop, ...], holders: Iterable[Holder], request: Request, now: float
    ) -> tuple[ChainHop, ...]:
        """Let the balancer choose for each place among those who cost the same.

        Sessions of our own are left out of the cost: the balancer counts them, and with them a holder would
        be no equal of an idle one, so that hashing could not bring a session to where the one before runs.
        """
        in_flight = self.standings.in_flight
        ways = self.ways() if len(chain) > 1 else None  # who serves alone is near to nobody but itself
        known = {
            holder.peer: replace(holder, queue=max(0, holder.queue - in_flight(holder.peer)))
            for holder in holders
        }
        key = self._key(request)
        used = {hop.contact.peer for hop in chain}
        balanced: list[ChainHop] = []
        for hop in chain:
            count, planned = len(hop.span), hop.contact.peer
            if planned is None:
                continue
            cost_s = known[planned].cost_s(count)
            equal = [
                holder.peer
                for holder in known.values()
                if holder.span.covers(hop.span)
                and (ways is None or ways.place_of(holder.peer) == ways.place_of(planned))
                and cost_s / _EQUAL_COST <= holder.cost_s(count) <= cost_s * _EQUAL_COST
                and (holder.peer == planned or holder.peer not in used)
            ]
            peer = (self.standings.pick(equal, key, now) if len(equal) > 1 else None) or planned
            used.add(peer)
            balanced.append(ChainHop(known[peer].contact, hop.start, hop.end))
        return tuple(balanced)


def _no_ways() -> WayMap | None:
    return None
