"""A peer in a real process, as applications use it.

async with p2pinfer.open_peer(model="smollm2:135m") as peer:
    async for token in peer.generate("Why is the sky blue?"):
        print(token.text, end="")
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from typing import Any

import trio

from p2pinfer.config import NodeConfig, node_config
from p2pinfer.dht.news import LookupDone
from p2pinfer.effects import Deliver, Misbehaved, Notify
from p2pinfer.engine.api import Engine
from p2pinfer.errors import Cancelled, ModelNotFound, NoChain
from p2pinfer.ids import Endpoint, PeerId, SessionId
from p2pinfer.inference.generation import Request
from p2pinfer.inference.hop_core import ServedSpan
from p2pinfer.inference.news import GenerationFailed, PromptRead, Recovered, Sampled, SessionOpened
from p2pinfer.membership import ADDRESSES_COUNT_MAX, SwarmAddress
from p2pinfer.models.tokenizer import TextStream
from p2pinfer.runtime.answer import Answer, Opened
from p2pinfer.runtime.bulletin import Bulletin
from p2pinfer.runtime.client_service import client_handlers, write_node_file
from p2pinfer.runtime.clock import Clock
from p2pinfer.runtime.composition import Parts, compose
from p2pinfer.runtime.dht import Dht
from p2pinfer.runtime.dht_service import dht_handler
from p2pinfer.runtime.discovery.rendezvous import Rendezvous
from p2pinfer.runtime.disk import Disk
from p2pinfer.runtime.entry_model import EntryModel
from p2pinfer.runtime.groups import Groups
from p2pinfer.runtime.held_span import HeldSpan
from p2pinfer.runtime.home import make_invite, open_home_in_thread
from p2pinfer.runtime.joining import join_swarm
from p2pinfer.runtime.keyring import Keyring
from p2pinfer.runtime.load import Load
from p2pinfer.runtime.manifests import manifest_handler, provide_manifests
from p2pinfer.runtime.nurseries import hold_tasks, unwrapped
from p2pinfer.runtime.placing import Placer
from p2pinfer.runtime.progress import Activity, OnProgress, Phase
from p2pinfer.runtime.serving import load_own_span
from p2pinfer.runtime.sessions import Sessions
from p2pinfer.runtime.sockets import Sockets, open_sockets
from p2pinfer.runtime.status import peer_status
from p2pinfer.runtime.swarm import Swarm
from p2pinfer.swim.membership import Admit
from p2pinfer.swim.news import Joined, MemberJoined
from p2pinfer.wire.messages.client import ChatMessage, GenerateRequest
from p2pinfer.wire.messages.dht_use import DhtCommand, ManifestRequest
from p2pinfer.wire.messages.inference import Sampling

__all__ = ["Peer", "open_peer"]

LEAVE_TIMEOUT_S = 2.0
"""How long the end waits for the word to get around that this peer leaves."""
_GREEDY = Sampling()


class Peer:
    """A running peer; made by `open_peer`."""

    def __init__(self, parts: Parts, nursery: trio.Nursery, activity: Activity) -> None:
        self._parts = parts
        self._activity = activity
        self._started_at = parts.clock.now()
        self._load = Load(self._started_at)
        self._span = HeldSpan(parts, nursery, activity, self._load)
        self._sessions = Sessions(parts, activity, self._load)
        self._entry_models: dict[bytes, EntryModel] = {}
        self._opening_model = trio.Lock()
        self._joined = trio.Event()
        self._closed = trio.Event()
        self.bulletin = Bulletin(parts, nursery, self._handle)
        """Telling and asking other applications: `runtime/bulletin.py`."""
        parts.streams.handlers.update(client_handlers(self))
        self.groups = Groups(parts, nursery, self.serve)
        """Computing one span together with other peers: `runtime/groups.py`."""
        self.swarm = Swarm(parts.driver, parts.core)
        """Who is in the swarm, and what they say: `runtime/swarm.py`."""
        self.keyring = Keyring(parts)
        """The keys that seal the swarm's datagrams, for its owner to change: `runtime/keyring.py`."""
        self.dht = Dht(parts, nursery)
        """Keeping small things with other peers, and finding them: `runtime/dht.py`."""
        parts.streams.handlers[DhtCommand] = dht_handler(self.dht, parts.home)
        parts.streams.handlers[ManifestRequest] = manifest_handler(parts.store)

    # --- for applications ---------------------------------------------------------------------

    @property
    def id(self) -> PeerId:
        """This peer's name."""
        return self._parts.home.identity.peer_id

    @property
    def endpoint(self) -> Endpoint:
        """Where others reach this peer."""
        return self._parts.core.contact.endpoint

    @property
    def invite(self) -> str | None:
        """A string with which another machine joins the swarm, for a year; None but for its founder."""
        home = self._parts.home
        if not (home.directory / "owner.key").exists():
            return None
        year_s = 365 * 86400.0
        return str(make_invite(home.directory, [self.endpoint], year_s, self._parts.clock.now()))

    @property
    def address(self) -> str:
        """Where the swarm is, for its members: `p2pinfer://...`, no secret and no right to join."""
        places = (self.endpoint, *(each.endpoint for each in self._parts.search.live()))
        return str(SwarmAddress(str(self._parts.home.swarm.id), places[:ADDRESSES_COUNT_MAX]))

    def generate(
        self,
        prompt: str = "",
        *,
        chat: Sequence[ChatMessage] = (),
        model: str = "",
        sampling: Sampling = _GREEDY,
        stop: Sequence[str] = (),
        raw: bool = False,
    ) -> Answer:
        """Answer a prompt with the swarm; iterate over the result for the tokens.

        Args:
            prompt: What to ask: one user turn after `chat`, or the text to go on with if `raw`.
            chat: The conversation so far.
            model: Which model; empty where the swarm serves one.
            sampling: How tokens are picked, and how many at most.
            stop: Texts that end the answer; none of them is given.
            raw: Leave the chat template out.

        The iteration raises `NoChain`, `PromptTooLong`, `ModelNotFound`, `Overloaded` or `SessionLost`.
        """
        asked = GenerateRequest(
            model=model, prompt=prompt, chat=tuple(chat), raw=raw, sampling=sampling, stop=tuple(stop)
        )
        return self.answer(asked)

    def answer(self, asked: GenerateRequest, client: str = "") -> Answer:
        """Answer as `generate` does what a client asks; its address may decide which holders take it."""

        async def open_session() -> Opened:
            entry_model = await self._entry_model(asked.model)
            request = entry_model.request(
                prompt=asked.prompt, chat=asked.chat, raw=asked.raw, sampling=asked.sampling
            )
            request = replace(request, key=client.encode())
            session, news = await self._sessions.open(request)
            text = TextStream(entry_model.tokenizer, at_start=False)
            return Opened(session, len(request.prompt), text, frozenset(request.sampling.stop_tokens), news)

        return Answer(open_session, self._sessions.cancel_soon).stopping_at(asked.stop)

    async def sample(self, request: Request) -> AsyncGenerator[Sampled, None]:
        """Generate from token ids, without text: for engines and models of the caller's own.

        Closing the iterator (`contextlib.aclosing`) cancels the generation.

        Raises:
            UnavailableError: A kind of it, as for `generate`.
        """
        session, channel = await self._sessions.open(request)
        try:
            async for news in channel:
                if isinstance(news, GenerationFailed):
                    raise news.error
                if isinstance(news, Sampled):
                    yield news
                    if news.final:
                        return
        finally:
            self._sessions.cancel(session)

    async def serve(self, engine: Engine, served: ServedSpan, model: str) -> None:
        """Serve a span with an engine of the caller's, and tell the swarm.

        A span that was served before is given up: its sessions go on at other holders.
        """
        await self._span.serve(engine, served, model)

    async def drain(self, timeout_s: float = 60.0) -> bool:
        """Hand the open sessions over to other holders, so that this peer may go without anybody noticing.

        New sessions avoid this peer at once, and the open ones move as soon as others hold its layers.
        Returns whether that is done; after the timeout it may not be, and the peer drains on.
        """
        return await self._span.drain(timeout_s)

    async def resume(self) -> None:
        """Take `drain` back."""
        await self._span.resume()

    async def move(self, session: SessionId, away: PeerId, to: PeerId | None = None) -> None:
        """Let another holder take over what a peer does in a session that was opened here.

        Raises:
            LocalProtocolError: There is no such session, or the peer has no place in it.
            NoChain: Nobody else (or not `to`) holds these layers; the session goes on as it was.
        """
        await self._parts.driver.call(lambda core, now: (None, core.move(session, away, to, now)))

    def status(self) -> dict[str, Any]:
        """This peer, whom it knows and what they hold, as plain data: `docs/cli.md` lists the keys."""
        uptime_s = self._parts.clock.now() - self._started_at
        return peer_status(self._parts, self._activity, self._load, uptime_s=uptime_s)

    async def wait_closed(self) -> None:
        """Wait until the peer has ended."""
        await self._closed.wait()

    # --- models -------------------------------------------------------------------------------

    async def _entry_model(self, name: str) -> EntryModel:
        """Return what is needed to ask for a model: the one named, or the only one that is served."""
        served = {
            record.holding.digest: record.holding.model
            for record in self._parts.core.swim.alive()
            if record.holding is not None
        }
        name = name or self._parts.config.model
        if not name:
            if len(served) > 1:
                raise ModelNotFound(
                    f"the swarm serves {', '.join(sorted(served.values()))}: name one of them"
                )
            if not served:
                raise NoChain("nobody in the swarm serves a model: start a node with --model")
            name = next(iter(served.values()))
        async with self._opening_model:
            return await trio.to_thread.run_sync(self._read_entry_model, name)

    def _read_entry_model(self, name: str) -> EntryModel:
        store = self._parts.store
        manifest = store.manifest_of(name)
        known = self._entry_models.get(manifest.digest)
        if known is None:
            known = EntryModel.open(store.path_of(name), manifest.full_name, manifest.digest)
            self._entry_models[manifest.digest] = known
        return known

    # --- what the core says -------------------------------------------------------------------

    def _handle(self, effect: Deliver | Notify | Misbehaved) -> None:
        if isinstance(effect, Notify):
            self.swarm.heard(effect.news)
            self._sessions.noted(effect.news)
        match effect:
            case Deliver(
                item=SessionOpened() | PromptRead() | Sampled() | Recovered() | GenerationFailed() as item
            ):
                self._sessions.heard(item)
            case Deliver(item=LookupDone() as done):
                self.dht.heard(done)
            case Notify(news=Joined()):
                self._joined.set()
            case Notify(news=MemberJoined(record=record)):
                self._parts.search.seen(record.contact)

    # --- the start and the end ----------------------------------------------------------------

    async def _serve_own_span(self, nursery: trio.Nursery) -> None:
        """Load the span that this peer is told to serve, and tell the swarm."""
        loaded = await load_own_span(self._parts, self._activity)
        if loaded is not None:
            may_move = self._parts.config.span is None
            await self._span.serve(loaded.engine, loaded.served, loaded.model.name, movable=may_move)
            if may_move:
                placer = Placer(self._parts, self._span, self._activity, loaded.model)
                nursery.start_soon(placer.run)

    async def _leave(self) -> None:
        """Say goodbye, and give the word a moment to get around; also while being cancelled."""
        parts = self._parts
        self._activity.enter(Phase.DRAINING)
        self._sessions.fail_all()
        with trio.move_on_after(LEAVE_TIMEOUT_S, shield=True):
            try:
                await parts.driver.call(lambda core, now: (None, core.leave(now)))
            except Cancelled:
                return  # the driver failed before us: its error is the one to be seen
            while not parts.core.has_left:  # noqa: ASYNC110 -- a pure core has no event to wait for
                await trio.sleep(0.02)
            await parts.streams.aclose()


@asynccontextmanager
async def open_peer(
    config: NodeConfig | None = None,
    *,
    on_progress: OnProgress | None = None,
    admit: Admit | None = None,
    **settings: Any,
) -> AsyncIterator[Peer]:
    """Start a peer: join or found a swarm, load its layers, serve. Leaving the block leaves the swarm.

    Args:
        config: The settings of a node, as the node program has them.
        on_progress: Told how far the start is: pulling the model, loading layers. Must not wait.
        admit: Asked before a peer that is not known yet becomes a member here; must not wait.
        settings: The same by name, where no config is given: `model="smollm2:135m", join=[invite]`.

    Raises:
        ConfigError: A setting is wrong, or the port is taken.
        ModelError: The model is not here and cannot be pulled, or it cannot be used.
        PeerUnreachable: Nobody answers at the addresses given.
        UnavailableError: The model was to be pulled, and the package index cannot be reached.
        RemoteProtocolError: A kind of it: who answers is of another swarm, or refuses us.
    """
    config = config or node_config(settings)
    clock = Clock()
    home = await open_home_in_thread(config, clock.now())
    with (
        unwrapped(),
        closing(Disk(config.data_dir / "state")) as disk,
        closing(open_sockets(config.listen)) as sockets,
    ):
        async with trio.open_nursery() as nursery:
            tasks = await nursery.start(hold_tasks)
            try:
                await trio.lowlevel.checkpoint_if_cancelled()
                parts = compose(config, home, clock, disk, sockets)
                parts.core.screen(admit)
                peer = Peer(parts, tasks, Activity(on_progress))
                async with _running(peer, sockets, tasks):
                    yield peer
            finally:
                tasks.cancel_scope.cancel()


@asynccontextmanager
async def _running(peer: Peer, sockets: Sockets, tasks: trio.Nursery) -> AsyncIterator[None]:
    """Run a composed peer's tasks around the block."""
    parts = peer._parts
    try:
        tasks.start_soon(parts.driver.run)
        await parts.driver.call(lambda core, now: (None, core.set_name(parts.config.name, now)))
        await tasks.start(parts.datagrams.run)
        await tasks.start(parts.streams.run, sockets.listeners)
        # Before the long work: who asks this node meanwhile hears what it does.
        write_node_file(parts.config.node_path, peer.endpoint, parts.home)
        await join_swarm(parts, peer._joined, tasks)
        rendezvous = Rendezvous(
            peer.dht,
            parts.home.swarm.id,
            lambda: peer.endpoint,
            live=parts.search.live,
            rng=random.Random(os.urandom(32)),
        )
        tasks.start_soon(rendezvous.run, parts.search.finder.found)
        await peer._serve_own_span(tasks)
        tasks.start_soon(provide_manifests, parts.store, peer.dht)
        yield
    finally:
        parts.config.node_path.unlink(missing_ok=True)
        await peer._leave()
        parts.search.cache.save()
        peer._closed.set()
