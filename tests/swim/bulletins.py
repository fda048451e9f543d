"""Bulletins of single peers with what they stand on, for tests that carry messages by hand."""

from __future__ import annotations

import random

from p2pinfer.swim.bulletin import Bulletin
from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.members import MemberTable
from p2pinfer.swim.membership import Membership
from p2pinfer.swim.news import EventHeard
from p2pinfer.swim.own import OwnRecord, first_record
from p2pinfer.wire.messages.events import Broadcast, UserEvent
from tests.swim.swarm import FAST, endpoint, key, news, record, sign

NOW = 1000.0


class Member:
    """One peer's bulletin and what it stands on, knowing others by their index."""

    def __init__(
        self, index: int, *others: int, config: SwimConfig = FAST, now: float = NOW, name: str = ""
    ) -> None:
        rng = random.Random(index)
        own = OwnRecord(first_record(key(index), endpoint(index), 1), config, rng, sign)
        own.set_name(name, now)
        own.sign(now, 1)
        self.config = config
        self.members = Membership(own, config, MemberTable(100, rng), sign)
        for other in others:
            self.members.merge_record(record(other, expires_s=1e6, name=f"p{other}"), now)
        self.members.queue.clear()
        self.bulletin = Bulletin(self.members, config, sign, now)

    def told(self) -> list[Broadcast]:
        """All that is queued, each told once more."""
        queue = self.members.queue
        told: list[Broadcast] = []
        while queue:
            told += queue.pack(self.config.datagram_body_bytes_max, 1, None, first=()).broadcasts
        return told

    def hear(self, *broadcasts: Broadcast, now: float = NOW) -> list[object]:
        return [each for one in broadcasts for each in news(self.bulletin.merge(one, now))]


def events_of(member: Member, count: int, *, now: float = NOW, payload: bytes = b"") -> list[UserEvent]:
    for place in range(count):
        member.bulletin.broadcast(f"e{place}", payload, now)
    me = member.members.own.peer
    told = [each for each in member.told() if isinstance(each, UserEvent) and each.owner == me]
    return sorted(told, key=lambda each: each.sequence)


def deadline_of(member: Member) -> float | None:
    return member.bulletin.deadline


def names(heard: list[object]) -> list[str]:
    return [each.name for each in heard if isinstance(each, EventHeard)]
