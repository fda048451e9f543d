"""Our own address as others see it: noticed when it changes, without believing any one of them.

Rules:

1. A vote needs an answer to a question of ours, so it comes from whom we chose. A peer has one vote, its
   last, and so has a /24 or /48 of the internet: whoever rents one block is one voter.
2. Another address is believed when a clear majority of all votes in the window names it, and at least a few
   do. Liars below the majority change nothing, and can hold a change up only while they are that many.
3. A change is told once, and again only after another change.

Sources: discv5's endpoint prediction from PONGs; BEP-42 and libp2p's observed addresses ask for several
observers in the same way. Departs from them: a block of addresses is one voter.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from p2pinfer.dht.addresses import Reach, network_group, reach
from p2pinfer.dht.config import ObservedConfig
from p2pinfer.ids import Contact, Endpoint, PeerId

__all__ = ["ObservedAddress"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Vote:
    seen: Endpoint
    block: str
    """The voter's block of the internet; empty for a private address, which is one peer's."""
    at: float


class ObservedAddress:
    """The votes of others on where this peer is.

    Invariant: at most `votes_count_max` votes, the oldest first.

    Args:
        told: Where this peer says that it is.
        config: The settings.
    """

    def __init__(self, told: Endpoint, config: ObservedConfig) -> None:
        self._told = told
        self._config = config
        self._votes: OrderedDict[PeerId, _Vote] = OrderedDict()
        self._announced: Endpoint | None = None
        self._last_at = 0.0
        self.counters: Counter[str] = Counter()

    def set_told(self, endpoint: Endpoint) -> None:
        """This peer says from now on that it is elsewhere."""
        self._told = endpoint
        self._announced = None

    def vote(self, voter: Contact, seen: Endpoint, now: float) -> Endpoint | None:
        """Take what a peer, which has just answered at `voter`, sees as our address.

        Returns:
            The address where others see us, if that is another than the one told and was not returned before.
        """
        if voter.peer is None or not self._is_believable(voter.endpoint.host, seen):
            self.counters["votes_ignored"] += 1
            return None
        self._last_at = max(self._last_at, now)
        host = voter.endpoint.host
        block = network_group(host) if reach(host) is Reach.GLOBAL else ""
        self._votes[voter.peer] = _Vote(seen, block, now)
        self._votes.move_to_end(voter.peer)
        if len(self._votes) > self._config.votes_count_max:
            self._votes.popitem(last=False)
        if seen == (self._announced or self._told):
            return None  # the usual case: it is as we say
        return self._changed()

    @property
    def nat(self) -> str:
        """What is between us and others, as far as their votes tell.

        Returns:
            `none` (they see the address that we tell), `same port` (all see one other address: a NAT that
            maps a port once, or a changed address), `changes` (a port for each destination: a symmetric NAT,
            through which nobody can come in), or `unknown`.
        """
        votes = self._counted()
        winner = self._winner(vote.seen for vote in votes)
        if winner is not None:
            return "none" if winner == self._told else "same port"
        host = self._winner(vote.seen.host for vote in votes)
        ports = Counter(vote.seen.port for vote in votes if vote.seen.host == host)
        # Some liars name ports as well: many different ones are needed before the NAT is to blame.
        return "changes" if host is not None and len(ports) >= self._config.votes_min else "unknown"

    def _is_believable(self, voter_host: str, seen: Endpoint) -> bool:
        how_far = reach(seen.host)
        if how_far is Reach.NOWHERE or not 1 <= seen.port <= 65535:
            return False
        # Nobody across the world can see us at a private address, and where we tell a public one ourselves,
        # a private one is a detail of somebody's own network.
        return how_far >= max(reach(voter_host), reach(self._told.host))

    def _changed(self) -> Endpoint | None:
        winner = self._winner(vote.seen for vote in self._counted())
        if winner is None or winner == self._announced:
            return None
        if winner == self._told:
            self._announced = None
            return None
        self._announced = winner
        self.counters["changes"] += 1
        return winner

    def _counted(self) -> list[_Vote]:
        """The votes that count: fresh ones, and of each block the last."""
        while self._votes:
            peer, oldest = next(iter(self._votes.items()))
            if self._last_at - oldest.at <= self._config.window_s:
                break
            del self._votes[peer]
        blocks: set[str] = set()
        counted = []
        for vote in reversed(self._votes.values()):
            if vote.block not in blocks:
                counted.append(vote)
            if vote.block:
                blocks.add(vote.block)
        return counted

    def _winner(self, named: Iterable[T]) -> T | None:
        """What a clear majority names, if enough do."""
        counts = Counter(named)
        if not counts:
            return None
        ((winner, count),) = counts.most_common(1)
        is_clear = count >= self._config.majority_share * counts.total()
        return winner if is_clear and count >= self._config.votes_min else None
