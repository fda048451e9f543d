"""A peer in a real process, as applications use it.

async with p2pinfer.open_peer(model="smollm2:135m") as peer:
    async for token in peer.generate("Why is the sky blue?"):
        print(token.text, end="")
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from p2pinfer.config import NodeConfig, node_config
from p2pinfer.effects import Deliver, Effect, Misbehaved, Notify
from p2pinfer.errors import Cancelled, ModelNotFound, NoChain, PeerUnreachable, RemoteProtocolError
from p2pinfer.ids import Contact, Endpoint, PeerId, SessionId
from p2pinfer.inference.generation import Request
from p2pinfer.inference.news import GenerationFailed, Recovered, Sampled, SessionOpened
from p2pinfer.models.tokenizer import TextStream
from p2pinfer.peer_core import PeerCore
from p2pinfer.runtime.answer import Answer, News, Opened
from p2pinfer.runtime.client_service import client_handlers
from p2pinfer.runtime.clock import Clock
from p2pinfer.runtime.composition import Parts, compose
from p2pinfer.runtime.disk import Disk
from p2pinfer.runtime.entry_model import EntryModel
from p2pinfer.runtime.files import replace_file
from p2pinfer.runtime.home import Home, make_invite, open_home
from p2pinfer.runtime.planes import Inputs
from p2pinfer.runtime.serving import choose_own_span, find_local_model, load_span, served_span
from p2pinfer.runtime.sockets import Sockets, open_sockets
from p2pinfer.runtime.status import peer_status
from p2pinfer.runtime.worker import Worker
from p2pinfer.swim.news import Joined, MemberDead, MemberJoined, MemberLeft
from p2pinfer.wire.messages.client import ChatMessage
from p2pinfer.wire.messages.inference import Sampling

__all__ = ["Peer", "open_peer"]

_log = logging.getLogger(__name__)

JOIN_TIMEOUT_S = 10.0
"""How long the start waits for a first member of the swarm to answer."""
LEAVE_TIMEOUT_S = 2.0
"""How long the end waits for the word to get around that this peer leaves."""
REMEMBER_INTERVAL_S = 60.0
"""How often the addresses of live members are kept for the next start."""
_GREEDY = Sampling()


class Peer:
    """A running peer; made by `open_peer`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._started_at = parts.clock.now()
        self._news: dict[SessionId, trio.MemorySendChannel[News]] = {}
        self._entry_models: dict[bytes, EntryModel] = {}
        self._opening_model = trio.Lock()
        self._joined = trio.Event()
        self._closed = trio.Event()

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

        async def open_session() -> Opened:
            entry_model = await self._entry_model(model)
            request = entry_model.request(prompt=prompt, chat=chat, raw=raw, sampling=sampling)
            return await self._open(request, entry_model)

        return Answer(open_session, self._cancel).stopping_at(tuple(stop))

    def status(self) -> dict[str, Any]:
        """This peer, whom it knows and what they hold, as plain data."""
        parts = self._parts
        status = peer_status(
            parts.core,
            name=parts.config.name,
            swarm=str(parts.home.swarm.id),
            uptime_s=parts.clock.now() - self._started_at,
        )
        status["statistics"] = {
            **status["statistics"],
            "driver": parts.driver.statistics(),
            "datagrams": parts.datagrams.statistics(),
            "streams": parts.streams.statistics(),
            "planes": parts.planes.statistics(),
        }
        return status

    async def wait_closed(self) -> None:
        """Wait until the peer has ended."""
        await self._closed.wait()

    # --- sessions -----------------------------------------------------------------------------

    async def _open(self, request: Request, entry_model: EntryModel) -> Opened:
        sender, receiver = trio.open_memory_channel[News](math.inf)
        opened: list[SessionId] = []

        def command(core: PeerCore, now: float) -> tuple[SessionId, list[Effect]]:
            session, effects = core.open(request, now)
            # Before the effects are performed: the first news may come with them.
            self._news[session] = sender
            opened.append(session)
            return session, effects

        try:
            session = await self._parts.driver.call(command)
        except BaseException:
            for session in opened:
                self._cancel(session)
            raise
        text = TextStream(entry_model.tokenizer, at_start=False)
        stops = frozenset(request.sampling.stop_tokens)
        return Opened(session, len(request.prompt), text, stops, receiver)

    def _cancel(self, session: SessionId) -> None:
        self._news.pop(session, None)
        self._parts.driver.put(lambda core, now: core.cancel(session, now))

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
        match effect:
            case Deliver(item=SessionOpened() | Sampled() | Recovered() | GenerationFailed() as item):
                self._hand_over(item)
            case Notify(news=Joined(member_count=count)):
                _log.info("joined the swarm: %d members", count)
                self._joined.set()
            case Notify(news=MemberJoined(record=record)):
                _log.info("peer %s came: %s %s", record.owner.short, record.endpoint, _holds(record))
            case Notify(news=MemberDead(peer=peer)):
                _log.info("peer %s is dead", peer.short)
            case Notify(news=MemberLeft(peer=peer)):
                _log.info("peer %s left", peer.short)

    def _hand_over(self, item: News) -> None:
        channel = self._news.get(item.session)
        if channel is None:
            return
        try:
            channel.send_nowait(item)
        except trio.BrokenResourceError:
            self._cancel(item.session)
        if isinstance(item, GenerationFailed) or (isinstance(item, Sampled) and item.final):
            self._news.pop(item.session, None)
        if isinstance(item, Recovered):
            lost = ", ".join(peer.short for peer in item.lost) or "nobody"
            _log.info("a session goes on after %.0f ms, replacing %s", item.stall_s * 1000, lost)

    def _fail_all(self) -> None:
        for session, channel in self._news.items():
            channel.send_nowait(GenerationFailed(session, Cancelled("the peer is closing: ask another one")))
        self._news.clear()

    # --- the start and the end ----------------------------------------------------------------

    async def _join(self) -> None:
        """Enter the swarm. What an address answers wrongly is told; silence is tried again later."""
        parts = self._parts
        addresses = [a for a in parts.home.addresses if a != self.endpoint]
        if not addresses:
            return
        errors: list[Exception] = []
        for address in addresses:
            try:
                with trio.fail_after(JOIN_TIMEOUT_S):
                    await parts.streams.connect(Contact(None, address))
                break
            except (PeerUnreachable, RemoteProtocolError, trio.TooSlowError) as error:
                _log.warning("%s: %s", address, error or "no answer")
                errors.append(error)
        else:
            refusals = [error for error in errors if isinstance(error, RemoteProtocolError)]
            if refusals:
                raise refusals[0]
            if parts.config.join:
                listed = ", ".join(map(str, addresses))
                raise PeerUnreachable(
                    f"no peer answers at {listed}: check that one runs there and that no firewall is between"
                )
            _log.warning("no known peer of the swarm answers; they are tried again from time to time")
        await parts.driver.call(lambda core, now: (None, core.join(addresses, now)))
        with trio.move_on_after(JOIN_TIMEOUT_S if len(errors) < len(addresses) else 0):
            await self._joined.wait()

    async def _serve(self, nursery: trio.Nursery) -> None:
        """Load the span that this peer is told to serve, and tell the swarm."""
        parts = self._parts
        model = await trio.to_thread.run_sync(find_local_model, parts.store, parts.config)
        if model is None:
            return
        held = [
            record.holding.span
            for record in parts.core.swim.alive()
            if record.holding is not None and record.holding.digest == model.manifest.digest
        ]
        span = await trio.to_thread.run_sync(choose_own_span, model, parts.config.span, held)
        engine = await trio.to_thread.run_sync(load_span, model, span, parts.config)
        served = await trio.to_thread.run_sync(served_span, model, engine)
        worker = Worker(engine, Inputs(parts.driver).on_computed)
        await nursery.start(worker.run)
        parts.planes.worker = worker
        await parts.driver.call(lambda core, now: (None, core.serve(served, model.name, now)))

    async def _remember_members(self) -> None:
        while True:
            await trio.sleep(REMEMBER_INTERVAL_S)
            await trio.to_thread.run_sync(self._remember)

    def _remember(self) -> None:
        own = self.endpoint
        addresses = [r.endpoint for r in self._parts.core.swim.alive() if r.endpoint != own]
        if addresses:
            self._parts.home.remember(addresses)

    async def _leave(self) -> None:
        """Say goodbye, and give the word a moment to get around."""
        parts = self._parts
        self._fail_all()
        with trio.move_on_after(LEAVE_TIMEOUT_S, shield=True):
            await parts.driver.call(lambda core, now: (None, core.leave(now)))
            while not parts.core.swim.has_left:  # noqa: ASYNC110 -- a pure core has no event to wait for
                await trio.sleep(0.02)
            await parts.streams.aclose()


@asynccontextmanager
async def open_peer(config: NodeConfig | None = None, **settings: object) -> AsyncIterator[Peer]:
    """Start a peer: join or found a swarm, load its layers, serve. Leaving the block leaves the swarm.

    Args:
        config: The settings of a node, as the node program has them.
        settings: The same by name, where no config is given: `model="smollm2:135m", join=[invite]`.

    Raises:
        ConfigError: A setting is wrong, or the port is taken.
        ModelError: The model is not here or cannot be used.
        PeerUnreachable: Nobody answers at the addresses given.
        RemoteProtocolError: A kind of it: who answers is of another swarm, or refuses us.
    """
    config = config or node_config(settings)
    clock = Clock()
    home = await trio.to_thread.run_sync(open_home, config.data_dir, config.join, clock.now())
    disk = Disk(config.data_dir / "state")
    try:
        sockets = open_sockets(config.listen)
        try:
            peer = _make_peer(config, home, clock, disk, sockets)
            async with _running(peer, sockets):
                yield peer
        finally:
            sockets.close()
    finally:
        disk.close()


@asynccontextmanager
async def _running(peer: Peer, sockets: Sockets) -> AsyncIterator[None]:
    """Run a composed peer's tasks around the block."""
    parts = peer._parts
    async with trio.open_nursery() as nursery:
        try:
            nursery.start_soon(parts.driver.run)
            await nursery.start(parts.datagrams.run)
            await nursery.start(parts.streams.run, sockets.listeners)
            await peer._join()
            await peer._serve(nursery)
            nursery.start_soon(peer._remember_members)
            _write_node_file(peer)
            yield
        finally:
            parts.config.node_path.unlink(missing_ok=True)
            await peer._leave()
            peer._remember()
            peer._closed.set()
            nursery.cancel_scope.cancel()


def _make_peer(config: NodeConfig, home: Home, clock: Clock, disk: Disk, sockets: Sockets) -> Peer:
    """Compose a peer; nothing runs yet."""
    peer: Peer | None = None

    def handle(effect: Deliver | Notify | Misbehaved) -> None:
        if peer is not None:
            peer._handle(effect)

    peer = Peer(compose(config, home, clock, disk, sockets, handle))
    peer._parts.streams.handlers.update(client_handlers(peer))
    return peer


def _write_node_file(peer: Peer) -> None:
    parts = peer._parts
    content = {
        "pid": os.getpid(),
        "endpoint": str(peer.endpoint),
        "peer_id": str(peer.id),
        "swarm": str(parts.home.swarm.id),
    }
    replace_file(parts.config.node_path, json.dumps(content, indent=1).encode() + b"\n")


def _holds(record: Any) -> str:
    held = record.holding
    return f"holds layers {held.start}:{held.end} of {held.model}" if held else "holds no layers"
