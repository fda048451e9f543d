"""The peer: composes the cores and carries news between them.

Pure like its parts, so the simulator runs the same peer as a real process. It decides nothing that belongs
to a part: it only knows which message is whose, and who wants to hear which news:

    SWIM: a member came, changed, left, died  ->  planner's holders; sessions through it; the DHT's table
    SWIM: a round trip was measured           ->  planner's costs
    streams: a connection ended               ->  SWIM probes that member; sessions through it
    hop: speed and load changed               ->  SWIM gossips the new record
    SWIM: a state exchange is sent            ->  the keyrings are compared with it
    planner: some layers have no holder       ->  the DHT is asked, and SWIM is told whom it names
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.core import DhtCore
from p2pinfer.dht.news import LookupDone, LookupId
from p2pinfer.effects import Deliver, Effect, Message, Notify, Send
from p2pinfer.errors import NoChain
from p2pinfer.holdings import Holdings
from p2pinfer.ids import Contact, Endpoint, PeerId, SessionId, Span
from p2pinfer.inference.config import EntryConfig, HopConfig
from p2pinfer.inference.entry_core import EntryCore
from p2pinfer.inference.generation import Request
from p2pinfer.inference.holders import HolderBook
from p2pinfer.inference.hop_core import HopCore, ServedSpan
from p2pinfer.inference.placement import Resident, choose_move
from p2pinfer.inference.planner import missing_layers
from p2pinfer.swim.bulletin import EVERYBODY
from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.core import SwimCore
from p2pinfer.swim.keyring import KeyringCore
from p2pinfer.swim.news import MemberDead, MemberJoined, MemberLeft, MemberUpdated, QueryId, RoundTrip
from p2pinfer.swim.vivaldi import distance_s
from p2pinfer.wire.messages import dht as dht_messages
from p2pinfer.wire.messages import events as events_messages
from p2pinfer.wire.messages import inference as inference_messages
from p2pinfer.wire.messages import keyring as keyring_messages
from p2pinfer.wire.messages import swim as swim_messages
from p2pinfer.wire.messages.events import QueryFilter
from p2pinfer.wire.messages.keyring import Keyring
from p2pinfer.wire.messages.records import Holding, PeerRecord, Sign
from p2pinfer.wire.messages.swim import StateRequest
from p2pinfer.work import EngineOutput

__all__ = ["PeerConfig", "PeerCore"]

_ANNOUNCE_INTERVAL_S = 5.0
"""The shortest time between two records that differ only in speed and load."""
_SPEED_CHANGE = 1.25
"""A speed is announced again when it changed by more than this factor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConfig:
    """The settings of all cores of a peer."""

    swim: SwimConfig = field(default_factory=SwimConfig.lan)
    dht: DhtConfig = field(default_factory=DhtConfig.lan)
    hop: HopConfig = field(default_factory=HopConfig)
    entry: EntryConfig = field(default_factory=EntryConfig)
    owner: bytes = b""
    """Whose keyring is taken: the swarm's owner's public key. Empty where datagrams are not sealed."""


class PeerCore:
    """A whole peer as one pure state machine (see `effects.py`)."""

    def __init__(
        self,
        *,
        public_key: bytes,
        endpoint: Endpoint,
        config: PeerConfig,
        rng: random.Random,
        sign: Sign,
        now: float,
    ) -> None:
        self._me = PeerId.from_public_key(public_key)
        self.contact = Contact(self._me, endpoint)
        self.swim = SwimCore(
            public_key=public_key, endpoint=endpoint, config=config.swim, rng=rng, sign=sign, now=now
        )
        self.dht = DhtCore(
            public_key=public_key, endpoint=endpoint, config=config.dht, rng=rng, sign=sign, now=now
        )
        self.keyring = KeyringCore(owner=config.owner, config=config.swim, rng=rng)
        self.hop = HopCore(me=self.contact, config=config.hop)
        self.entry = EntryCore(me=self.contact, config=config.entry, rng=rng)
        self._holding: Holding | None = None
        self._announced_at = now
        self._book = HolderBook(distance_s)
        self.entry.set_holders(self._book.by_digest, self._book.ways)
        self.holdings = Holdings(self.dht, self.contact, self._book.serves)
        self._held_before: Holding | None = None
        self._has_handed_over = False
        self._gossip_at: float | None = None
        self._is_gossip_at_known = False

    # --- commands -----------------------------------------------------------------------------

    def join(self, endpoints: Sequence[Endpoint], now: float) -> list[Effect]:
        """Enter the swarm through any of these addresses."""
        return self._carry(self.swim.join(endpoints, now), now)

    def hint(self, contacts: Sequence[Contact], now: float) -> list[Effect]:
        """Ask contacts that may be members and are not known to live; an answer begins a state exchange."""
        return self._carry(self.swim.merge_hint(contacts, now), now)

    def set_name(self, name: str, now: float) -> list[Effect]:
        """Tell the swarm what people call this peer."""
        return self._carry(self.swim.set_name(name, now), now)

    def set_endpoint(self, endpoint: Endpoint, now: float) -> list[Effect]:
        """Be elsewhere from now on: this machine has another address. Sessions asked for here go on."""
        self.contact = Contact(self._me, endpoint)
        self.entry.set_me(self.contact)
        if self._holding is not None:
            self._book.put(self.contact, self._holding, self.swim.coordinate)
        return self._carry(self.dht.set_endpoint(endpoint, now) + self.swim.set_endpoint(endpoint, now), now)

    def screen(self, admit: Callable[[PeerRecord], bool] | None) -> None:
        """Ask an application from now on before a peer that is not known yet becomes a member here."""
        self.swim.screen(admit)

    def set_metadata(self, data: bytes, now: float) -> list[Effect]:
        """Say more of this peer than its record holds.

        Raises:
            LocalProtocolError: It is too large.
        """
        return self._carry(self.swim.set_metadata(data, now), now)

    def read_metadata(self, peer: PeerId, now: float) -> list[Effect]:
        """Have told what a member says beyond its record.

        Raises:
            PeerUnreachable: It is no live member.
            Overloaded: Too many such questions are open.
        """
        return self._carry(self.swim.read_metadata(peer, now), now)

    def broadcast(self, name: str, payload: bytes, now: float) -> list[Effect]:
        """Tell the applications of all members, this one included; it comes back as `EventHeard`.

        Raises:
            LocalProtocolError: The name or the payload has not the right size.
            Overloaded: Too much at a time.
        """
        return self._carry(self.swim.broadcast(name, payload, now), now)

    def ask(
        self,
        name: str,
        payload: bytes,
        now: float,
        *,
        to: QueryFilter = EVERYBODY,
        timeout_s: float | None = None,
        wants_ack: bool = False,
    ) -> tuple[QueryId, list[Effect]]:
        """Ask the applications of other members; answers come as `QueryAnswered`, then one `QueryEnded`.

        Raises:
            LocalProtocolError: Something of it has not the right size.
            Overloaded: Too much at a time.
        """
        query, effects = self.swim.ask(name, payload, now, to=to, timeout_s=timeout_s, wants_ack=wants_ack)
        return query, self._carry(effects, now)

    def answer(self, query: QueryId, payload: bytes, now: float) -> list[Effect]:
        """Answer a query that came as `QueryAsked`; too late, or a second time, nothing happens.

        Raises:
            LocalProtocolError: The answer does not fit a datagram.
        """
        return self._carry(self.swim.answer(query, payload, now), now)

    def leave(self, now: float) -> list[Effect]:
        """Tell the swarm, and the entry peers of open sessions, that this peer goes."""
        effects = self.hop.close(now) + self.swim.leave(now)
        return self._carry(effects + self.holdings.tell(None, now), now)

    @property
    def has_left(self) -> bool:
        """Whether `leave` was called and the word is told, in the swarm and in the DHT."""
        return self.swim.has_left and self.holdings.is_settled

    def prepare(self, span: Span, now: float) -> list[Effect]:
        """Tell the swarm which span this peer is loading, so that nobody else comes to fill the same gap.

        What it serves until then it serves on, for the sessions that are open.
        """
        if self._holding is None:
            return []
        self._held_before = self._holding
        loading = replace(self._holding, start=span.start, end=span.end, loading=True)
        return self._carry(self._hold(loading, now), now)

    def stay(self, now: float) -> list[Effect]:
        """Take `prepare` back: the span could not be loaded."""
        before, self._held_before = self._held_before, None
        if before is None:
            return []
        effects = self._hold(replace(before, draining=self.is_draining), now)
        return self._carry(effects + self._maybe_hand_over(now), now)

    def hand_over(self, now: float) -> list[Effect]:
        """Ask the open sessions to go elsewhere: this peer is about to serve another span."""
        return self._carry(self.hop.drain(now), now)

    def serve(self, served: ServedSpan, model: str, now: float, *, movable: bool = False) -> list[Effect]:
        """Serve a span from now on, instead of the one before if there is one, and tell the swarm.

        A peer that drains drains on, with the new span.
        """
        self._has_handed_over = False
        self._held_before = None
        self.hop.reopen()
        holding = Holding(
            model=model,
            digest=served.digest,
            layer_count=served.layer_count,
            start=served.span.start,
            end=served.span.end,
            step_us=0,
            movable=movable,
            draining=self.is_draining,
        )
        effects = self.hop.serve(served, now) + self._hold(holding, now) + self._maybe_hand_over(now)
        return self._carry(effects, now)

    def drain(self, now: float) -> list[Effect]:
        """Prepare to stop serving without anybody noticing: see `is_drained`.

        New sessions go elsewhere from now on. The open ones are asked to move as soon as other peers, who do
        not drain as well, hold all layers that this one holds.
        """
        if self._holding is None or self.is_draining:
            return []
        effects = self._hold(replace(self._holding, draining=True), now)
        return self._carry(effects + self._maybe_hand_over(now), now)

    def resume(self, now: float) -> list[Effect]:
        """Serve on: `drain` is taken back."""
        if self._holding is None or not self.is_draining:
            return []
        self._has_handed_over = False
        self.hop.reopen()
        return self._carry(self._hold(replace(self._holding, draining=False), now), now)

    @property
    def is_draining(self) -> bool:
        """Whether `drain` was asked for and not taken back."""
        return self._holding is not None and self._holding.draining

    @property
    def is_drained(self) -> bool:
        """Whether this peer may go: it drains, others hold its layers, and no session is left."""
        return self._has_handed_over and not self.hop.session_count

    def lacking(self) -> tuple[Span, ...]:
        """The layers held here that no other peer holds which is not about to stop."""
        held = self._held_before or self._holding
        if held is None:
            return ()
        others = [
            holder.span
            for holder in self._book.by_digest.get(held.digest, ())
            if holder.peer != self._me and not holder.draining and holder.span.overlaps(held.span)
        ]
        return missing_layers(others, held.span)

    def advised_span(self) -> Span | None:
        """The span that this peer should hold instead of the one it holds; None while it may stay.

        It is the one peer of the swarm, by its own view, that should move now.
        """
        held = self._holding
        if held is None or not held.movable:
            return None
        move = choose_move(held.layer_count, self.residents(held.digest))
        return move.span if move is not None and move.peer == self._me else None

    def residents(self, digest: bytes) -> list[Resident]:
        """Who holds which layers of a model, or loads them, as far as this peer knows."""
        return self._book.residents(digest)

    def move(self, session: SessionId, away: PeerId, to: PeerId | None, now: float) -> list[Effect]:
        """Let another holder take over a peer's part of a session that was opened here.

        Raises:
            LocalProtocolError: There is no such session, or the peer has no place in it.
            NoChain: Nobody else holds these layers.
        """
        return self._carry(self.entry.move(session, away, to, now), now)

    def open(self, request: Request, now: float) -> tuple[SessionId, list[Effect]]:
        """Begin a generation with this peer as its entry.

        Raises:
            NoChain: Some layers have no live holder; the DHT is asked for some, see `HoldersFound`.
        """
        try:
            session, effects = self.entry.open(request, now)
        except NoChain:
            self._seek(request.digest, now)
            raise
        return session, self._carry(effects, now)

    def unheld(self, digest: bytes, layer_count: int) -> tuple[Span, ...]:
        """The layers of a model that nobody serves, as far as this peer knows."""
        spans = [holder.span for holder in self._book.by_digest.get(digest, ())]
        return missing_layers(spans, Span(0, layer_count))

    def use_dht(
        self, command: Callable[[DhtCore], tuple[LookupId, list[Effect]]], now: float
    ) -> tuple[LookupId, list[Effect]]:
        """Begin a lookup of the DHT's core; its end comes as `Deliver(LookupDone)`.

        Raises:
            LocalProtocolError: What is asked is out of bounds.
            Overloaded: Too many lookups are running.
        """
        lookup, effects = command(self.dht)
        return lookup, self._carry(effects, now)

    def cancel(self, session: SessionId, now: float) -> list[Effect]:
        """End a generation that was opened here."""
        return self._carry(self.entry.cancel(session, now), now)

    def publish_keyring(self, keyring: Keyring, now: float) -> list[Effect]:
        """Put the owner's next keyring into force, here and in the whole swarm.

        Raises:
            LocalProtocolError: It is not the owner's, or not newer than what is here.
        """
        return self._carry(self.keyring.publish(keyring, now), now)

    def survey_keyring(self, now: float) -> list[Effect]:
        """Ask the members which version of the keyring they have."""
        return self._carry(self.keyring.survey(now), now)

    # --- inputs -------------------------------------------------------------------------------

    def receive(self, sender: Contact, message: Message, now: float) -> list[Effect]:
        """Give a message to the core whose it is."""
        return self._carry(self._route(sender, message, now), now)

    def receive_all(self, sender: Contact, messages: Sequence[Message], now: float) -> list[Effect]:
        """Give messages that came together to their cores: their steps are computed together, too.

        Taken one by one, the first step would be a batch of its own, and those that a hop computed together
        would drift apart along the chain.
        """
        effects: list[Effect] = []
        self.hop.hold()
        for message in messages:
            effects += self._route(sender, message, now)
        effects += self.hop.release(now)
        return self._settle(effects, now)

    def disconnected(self, contact: Contact, now: float) -> list[Effect]:
        """A stream ended: whoever relied on it hears of it."""
        effects = self.entry.disconnected(contact, now) + self.hop.disconnected(contact, now)
        effects += self.swim.disconnected(contact, now)
        effects += self.keyring.disconnected(contact, now)
        if contact.peer is not None:
            effects += self.swim.suspect(contact.peer, now)
        return self._carry(effects, now)

    def unopened(self, sender: Contact, now: float) -> list[Effect]:
        """A datagram that a member sent is sealed in another way than this peer can open."""
        return self._carry(self.keyring.unopened(sender, now), now)

    def disk_failed(self, key: str, now: float) -> list[Effect]:
        """The disk did not take what a core wanted kept: of those, all can go on without."""
        return self._carry(self.keyring.disk_failed(key, now) + self.dht.disk_failed(key, now), now)

    def computed(self, results: tuple[EngineOutput, ...], now: float) -> list[Effect]:
        """The engine's outputs of the oldest batch."""
        return self._settle(self.hop.computed(results, now), now)

    def tick(self, now: float) -> list[Effect]:
        """Let every core do what is due."""
        effects: list[Effect] = []
        for core in (self.entry, self.hop, self.keyring, self.swim, self.dht, self.holdings):
            if core.deadline is not None and now >= core.deadline:
                effects += core.tick(now)
        return self._carry(effects + self._ask_found(now) + self._maybe_announce(now), now)

    @property
    def deadline(self) -> float | None:
        """The earliest deadline of any core."""
        if not self._is_gossip_at_known:
            gossip_at = _earliest(self.swim.deadline, self.dht.deadline)
            gossip_at = _earliest(gossip_at, self.holdings.deadline)
            self._gossip_at = _earliest(gossip_at, self.keyring.deadline)
            self._is_gossip_at_known = True
        return _earliest(_earliest(self.entry.deadline, self.hop.deadline), self._gossip_at)

    @property
    def holding(self) -> Holding | None:
        """What this peer serves; its record says so a moment later."""
        return self._holding

    def round_trip_s(self, peer: PeerId) -> float | None:
        """The measured round trip to a member, smoothed; None before the first probe."""
        return self._book.round_trip_s(peer)

    def statistics(self) -> Mapping[str, Any]:
        """The statistics of each core, by its name."""
        return {
            "swim": self.swim.statistics(),
            "dht": self.dht.statistics(),
            "hop": self.hop.statistics(),
            "entry": self.entry.statistics(),
            "keyring": self.keyring.statistics(),
            "holdings": self.holdings.statistics(),
        }

    # --- news ---------------------------------------------------------------------------------

    def _route(self, sender: Contact, message: Message, now: float) -> list[Effect]:
        owner = _OWNERS.get(type(message))
        if owner == "inference":
            return self._route_inference(sender, message, now)
        self._is_gossip_at_known = False
        if owner == "swim":
            return self.swim.receive(sender, message, now)
        if owner == "keyring":
            return self.keyring.receive(sender, message, now)
        return self.dht.receive(sender, message, now) if owner == "dht" else []

    def _route_inference(self, sender: Contact, message: Message, now: float) -> list[Effect]:
        """Both sides of inference may want a message where a peer is entry and hop of one session."""
        match message:
            case (
                inference_messages.SessionReady()
                | inference_messages.SessionRefused()
                | inference_messages.Prefilled()
            ):
                return self.entry.receive(sender, message, now)
            case inference_messages.Token() | inference_messages.StepFailed():
                is_asked_here = self.entry.knows(message.session)
                is_served_here = self.hop.knows(message.session)
                effects: list[Effect] = []
                if is_asked_here or not is_served_here:
                    effects += self.entry.receive(sender, message, now)
                if is_served_here or not is_asked_here:
                    effects += self.hop.receive(sender, message, now)
                return effects
        return self.hop.receive(sender, message, now)

    def _carry(self, effects: list[Effect], now: float) -> list[Effect]:
        """Settle effects of any core."""
        self._is_gossip_at_known = False
        return self._settle(effects, now)

    def _settle(self, effects: list[Effect], now: float) -> list[Effect]:
        """Deliver what one core has for another, or for itself, until only effects for outside are left.

        First in, first out: effects leave in the order in which the cores changed, so that a cache that was
        dropped and opened again is not opened and then dropped.
        """
        outside: list[Effect] = []
        pending = deque(effects)
        while pending:
            effect = pending.popleft()
            more: list[Effect] = []
            match effect:
                case Send(to=to, message=message) if to.peer == self._me:
                    more = self._route(self.contact, message, now)
                case Send(to=to, message=StateRequest()):
                    # Before it: a joiner has the keys when it learns whom to send datagrams to.
                    outside += [*self.keyring.exchange(to), effect]
                case Deliver(item=LookupDone() as done):
                    ended = self.holdings.finished(done, now)
                    if ended is None:
                        outside.append(effect)
                    else:
                        more, self._is_gossip_at_known = ended, False
                case Notify(news=news):
                    outside.append(effect)
                    more = self._on_news(news, now)
                case _:
                    outside.append(effect)
            pending.extend(more)
        return outside

    def _on_news(self, news: object, now: float) -> list[Effect]:
        self._is_gossip_at_known = False
        match news:
            case MemberJoined(record=record) | MemberUpdated(record=record):
                contact = record.contact
                self.keyring.member_came(contact)
                if self._book.put(contact, record.holding, record.coordinate) and contact.peer is not None:
                    self.entry.member_came(contact.peer, now)
                return self.dht.heard(contact, now) + self._maybe_hand_over(now)
            case MemberDead(peer=peer) | MemberLeft(peer=peer):
                self._book.forget(peer)
                self.keyring.member_gone(peer)
                return self.entry.member_dead(peer, now) + self.dht.forget(peer, now)
            case RoundTrip(peer=peer, seconds=seconds):
                self._book.set_own(self.swim.coordinate)
                self._book.took(peer, seconds)
        return []

    def _hold(self, holding: Holding, now: float) -> list[Effect]:
        """Say what this peer holds; what it says of itself it knows at once."""
        self._holding = holding
        self._book.put(self.contact, holding, self.swim.coordinate)
        self._book.took(self._me, 0.0)
        return self.swim.set_holding(holding, now) + self.holdings.tell(holding, now)

    def _seek(self, digest: bytes, now: float) -> None:
        """Ask the DHT for holders of a model with the next tick, which is due at once."""
        self.holdings.seek(digest, now)
        self._is_gossip_at_known = False

    def _ask_found(self, now: float) -> list[Effect]:
        """Let SWIM ask a holder that the DHT named: by name a stranger, and a member for its newer record."""
        contact = self.holdings.take_found(now)
        if contact is None:
            return []
        is_member = any(contact.peer == record.owner for record in self.swim.alive())
        return self.swim.merge_hint([replace(contact, peer=None) if is_member else contact], now)

    def _maybe_hand_over(self, now: float) -> list[Effect]:
        """While draining: ask the open sessions to move, once others hold what this peer holds."""
        held = self._holding
        if held is None or not held.draining or self._has_handed_over or self.lacking():
            return []
        self._has_handed_over = True
        return self.hop.drain(now)

    def _maybe_announce(self, now: float) -> list[Effect]:
        """Gossip this peer's speed and load when they changed enough to plan by."""
        held = self._holding
        if held is None or now < self._announced_at + _ANNOUNCE_INTERVAL_S:
            return []
        step_us = round(self.hop.step_s * 1e6)
        queue = self.hop.session_count
        low, high = sorted((held.step_us, step_us))
        if held.queue == queue and high <= low * _SPEED_CHANGE:
            return []
        self._announced_at = now
        return self._hold(replace(held, step_us=step_us, queue=queue), now)


def _earliest(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _message_owners() -> dict[type, str]:
    owners: dict[type, str] = {}
    for name, module in (
        ("swim", swim_messages),
        ("swim", events_messages),
        ("keyring", keyring_messages),
        ("dht", dht_messages),
        ("inference", inference_messages),
    ):
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Message) and value.__module__ == module.__name__:
                owners[value] = name
    return owners


_OWNERS = _message_owners()
