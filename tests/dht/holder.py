"""One peer's store, neighbours and plan of handing over, without a core and a network."""

from __future__ import annotations

import dataclasses

from p2pinfer.dht.config import DhtConfig, RecordConfig
from p2pinfer.dht.handover import Handover
from p2pinfer.dht.neighbours import Neighbours
from p2pinfer.dht.store import RecordStore
from p2pinfer.ids import Contact
from p2pinfer.wire.messages.dht import DhtRecord
from tests.dht.peers import contact, peer_id

K = 4
Sent = list[tuple[Contact, list[DhtRecord]]]


class Holder:
    """One peer's store, neighbours and plan, by its index."""

    def __init__(self, index: int, **changed: float) -> None:
        limits = dataclasses.replace(RecordConfig(), **changed)  # type: ignore[arg-type]
        config = DhtConfig(k=K, alpha=3, record=limits)
        self.own = peer_id(index)
        self.store = RecordStore(self.own, config)
        self.neighbours = Neighbours(self.own, 6 * K)
        self.plan = Handover(self.store, self.neighbours, config, 0.0)

    def put(self, each: DhtRecord, now: float = 0.0) -> None:
        nearer_count = self.neighbours.nearer_count(each.key)
        assert self.store.put(each, contact(99), now, nearer_count=nearer_count).code == "stored"

    def run(self, until: float) -> Sent:
        """Call `due` at every deadline until then, as a driver would."""
        sent: Sent = []
        while (deadline := self.plan.deadline) is not None and deadline <= until:
            sent += self.plan.due(deadline)
        return sent
