"""Peers that compute one span together, as applications use them: the tensor strategy.

await member.groups.lend("smollm2:135m")                                # on each peer that helps
await leader.groups.serve("smollm2:135m", Span(0, 30), [member.id])     # on the peer that the swarm sees

Two delays between the peers for each layer and token are the price: it is worth paying on a fast network with
layers so large that a peer takes much longer for half a layer than the network for a message.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import trio
from numpy.typing import NDArray

from p2pinfer.effects import DropCache, ExtendCache, Message, OpenCache
from p2pinfer.engine.api import Engine, EngineInput
from p2pinfer.engine.blas import set_blas_threads
from p2pinfer.engine.tensor_engine import GroupBroken, ShardEngine, TensorEngine
from p2pinfer.engine.tensor_shard import ShardCut, even_cuts
from p2pinfer.errors import (
    ConfigError,
    InternalError,
    LocalProtocolError,
    ModelNotFound,
    Overloaded,
    P2PInferError,
    PeerUnreachable,
    UnavailableError,
)
from p2pinfer.ids import Contact, PeerId, Span
from p2pinfer.inference.hop_core import ServedSpan
from p2pinfer.inference.partition import Share
from p2pinfer.loading import load_shard_weights, read_engine_config
from p2pinfer.runtime.composition import Parts
from p2pinfer.runtime.serving import LocalModel, served_span
from p2pinfer.runtime.shards import GroupSettings, Link, Member, cut_of, rank_of
from p2pinfer.runtime.streams import Streams
from p2pinfer.runtime.worker import Worker
from p2pinfer.wire.messages.inference import TENSOR_SIZE_BYTES_MAX
from p2pinfer.wire.messages.shards import (
    GROUP_ID_SIZE_BYTES,
    GroupRank,
    GroupReady,
    JoinGroup,
    ShardBatch,
    ShardCache,
    ShardPart,
    ShardStep,
)

__all__ = ["Groups", "Leader", "cuts_of"]

F32 = NDArray[np.float32]
_log = logging.getLogger(__name__)
_SETTINGS = GroupSettings()

Serve = Callable[[Engine, ServedSpan, str], Awaitable[None]]


class Groups:
    """A peer's part in groups: it may lend itself to one, and lead another."""

    def __init__(self, parts: Parts, nursery: trio.Nursery, serve: Serve) -> None:
        self._parts = parts
        self._nursery = nursery
        self._serve = serve
        self._links: dict[bytes, Link] = {}
        self._members: dict[bytes, Member] = {}
        self._lent: LocalModel | None = None
        self._cache_size_bytes_max: int | None = None
        self._is_member = False
        parts.streams.handlers[JoinGroup] = self._on_join
        parts.streams.receivers[ShardPart] = self._on_part
        parts.streams.receivers[ShardBatch] = self._on_leader
        parts.streams.receivers[ShardCache] = self._on_leader

    async def lend(self, model: str, *, cache_size_bytes_max: int | None = None) -> None:
        """Let others of the swarm have this peer compute a part of a model's layers, one group at a time.

        Args:
            model: Which model; its file must be here.
            cache_size_bytes_max: What the caches of a group's sessions may take here; None is the node's
                setting. Weights come on top of it: which part they are is the leader's choice.

        Raises:
            ModelError: The model is not here.
        """
        self._lent = await trio.to_thread.run_sync(self._find, model)
        self._cache_size_bytes_max = cache_size_bytes_max or self._parts.config.cache_size_bytes_max

    async def serve(
        self,
        model: str,
        span: Span,
        members: Sequence[PeerId],
        *,
        cuts: Sequence[ShardCut] = (),
        settings: GroupSettings = _SETTINGS,
    ) -> None:
        """Serve a span together with members that lend themselves, and tell the swarm.

        A group that loses a member refuses its steps, so that sessions go on elsewhere, and is formed anew as
        soon as all are back.

        Args:
            model: Which model; its file must be at every peer of the group.
            span: The layers.
            members: Who helps.
            cuts: What each holds, this peer first; empty cuts evenly.
            settings: Deadlines.

        Raises:
            ConfigError: The cuts are not all of a layer once, or there are too few heads for so many peers.
            GroupBroken: A member refused or was lost; the message says which and why.
            ModelError: The model is not here.
            PeerUnreachable: A member is not known to live.
        """
        local = await trio.to_thread.run_sync(self._find, model)
        if not cuts:
            whole = await trio.to_thread.run_sync(read_engine_config, local.path)
            cuts = even_cuts(whole, 1 + len(members))
        if len(cuts) != 1 + len(members):
            raise ConfigError(f"{1 + len(members)} peers need as many cuts, not {len(cuts)}")

        def request() -> JoinGroup:
            return JoinGroup(
                group=os.urandom(GROUP_ID_SIZE_BYTES),
                digest=local.manifest.digest,
                start=span.start,
                end=span.end,
                ranks=tuple(map(_group_rank, self._contacts(members), cuts)),
                deadline_ms=round(settings.deadline_s * 1000),
            )

        request()
        config, weights = await trio.to_thread.run_sync(load_shard_weights, local.path, span, cuts, 0)
        leader = Leader(self._parts.streams, request, self._registered, settings)
        engine = TensorEngine(config, weights, cuts[0], leader)
        await self._nursery.start(leader.hold)
        await self._serve(engine, await trio.to_thread.run_sync(served_span, local, engine), local.name)

    def _contacts(self, members: Sequence[PeerId]) -> list[Contact]:
        """Where the ranks are now: a peer that comes back may listen elsewhere."""
        known = {record.owner: record.contact for record in self._parts.core.swim.alive()}
        lost = [peer.short for peer in members if peer not in known]
        if lost:
            raise PeerUnreachable(f"{', '.join(lost)} is not alive in the swarm, as far as is known here")
        return [self._parts.core.contact, *(known[peer] for peer in members)]

    def _find(self, model: str) -> LocalModel:
        """Find a model's file, and compute with as many threads as the node is told."""
        store, threads = self._parts.store, self._parts.config.threads
        if threads:
            set_blas_threads(threads)
        return LocalModel(store.manifest_of(model), store.path_of(model))

    @contextmanager
    def _registered(self, link: Link) -> Iterator[None]:
        """Let a link have the parts that come for its group, and end it with the block."""
        self._links[link.group] = link
        try:
            yield
        finally:
            link.end("the group was given up")
            del self._links[link.group]

    # --- as a member ----------------------------------------------------------------------------

    async def _on_join(self, contact: Contact, request: Message) -> AsyncGenerator[Message, None]:
        if not isinstance(request, JoinGroup):
            raise LocalProtocolError(f"{type(request).__name__} is no JoinGroup")
        lent = self._lent
        if lent is None or lent.manifest.digest != request.digest:
            raise ModelNotFound("this peer does not lend itself to groups with this model")
        if self._is_member or request.group in self._links:
            raise Overloaded("this peer is a member of a group already", retry_after_s=1.0)
        rank = rank_of(request, contact, self._parts.home.identity.peer_id)
        link = Link(
            request.group,
            [each.contact for each in request.ranks],
            rank,
            streams=self._parts.streams,
            deadline_s=request.deadline_ms / 1000,
        )
        self._is_member = True
        try:
            with self._registered(link):
                engine = await trio.to_thread.run_sync(self._load, lent, request, rank, link)
                ended = await self._nursery.start(self._run_member, link, engine)
                try:
                    yield GroupReady()
                    await link.ended.wait()
                finally:
                    link.end("the leader ended the group")
                    with trio.CancelScope(shield=True):
                        await ended.wait()
                raise GroupBroken(link.reason)
        finally:
            self._is_member = False

    def _load(self, lent: LocalModel, request: JoinGroup, rank: int, link: Link) -> ShardEngine:
        cuts = [cut_of(each) for each in request.ranks]
        span = Span(request.start, request.end)
        _log.info("loading a part of layers %s of %s for %s", span, lent.name, link.leader)
        config, weights = load_shard_weights(lent.path, span, cuts, rank)
        return ShardEngine(config, weights, cuts[rank], link, self._cache_size_bytes_max)

    async def _run_member(
        self, link: Link, engine: ShardEngine, task_status: trio.TaskStatus[trio.Event]
    ) -> None:
        """Run a member's engine until its group ends."""
        ended = trio.Event()
        worker = Worker(engine, lambda outputs: member.on_computed())
        member = Member(link, worker, engine.span, engine.hidden_size)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(worker.run)
                self._members[link.group] = member
                task_status.started(ended)
                await link.ended.wait()
                nursery.cancel_scope.cancel()
        finally:
            link.end("this peer is closing")
            self._members.pop(link.group, None)
            ended.set()

    # --- what comes over the streams ------------------------------------------------------------

    def _on_part(self, sender: Contact, message: Message) -> None:
        if isinstance(message, ShardPart) and message.group in self._links:
            self._links[message.group].receive(sender, message)

    def _on_leader(self, sender: Contact, message: Message) -> None:
        if isinstance(message, ShardBatch | ShardCache) and message.group in self._members:
            self._members[message.group].receive(sender, message)


class Leader:
    """Forms a group and holds it together; the leading engine's `LeadingExchange`.

    Args:
        streams: The way to the members.
        request: Makes what they are asked, anew each time that the group is formed.
        registered: Lets a link have its parts, for as long as the block lasts.
        settings: Deadlines.
    """

    def __init__(
        self,
        streams: Streams,
        request: Callable[[], JoinGroup],
        registered: Callable[[Link], AbstractContextManager[None]],
        settings: GroupSettings,
    ) -> None:
        self._streams = streams
        self._request = request
        self._registered = registered
        self._settings = settings
        self._formed: Link | None = None
        self._in_batch: Link | None = None
        self._reason = "the group is not formed yet"

    # --- on the engine's thread -----------------------------------------------------------------

    def announce(self, steps: Sequence[EngineInput]) -> None:
        link = self._in_batch = (
            self._formed
        )  # a group that is formed anew meanwhile knows nothing of this batch
        if link is None:
            raise GroupBroken(self._reason)
        announced = tuple(map(_shard_step, steps))
        size_bytes = sum(len(step.hidden.data) for step in announced)
        if size_bytes > TENSOR_SIZE_BYTES_MAX // 2:
            raise GroupBroken(f"a batch with {size_bytes} bytes of hidden states is too large for a group")
        link.tell(ShardBatch(group=link.group, steps=announced))

    def add_up(self, part: F32) -> F32:
        if self._in_batch is None:
            raise GroupBroken(self._reason)
        return self._in_batch.add_up(part)

    def change_cache(self, change: OpenCache | ExtendCache | DropCache) -> None:
        link = self._formed
        if link is None:
            return  # members that join later do not know the session, and say so
        positions = 0 if isinstance(change, DropCache) else change.positions_max
        message = ShardCache(
            group=link.group,
            session=change.session,
            positions_max=positions,
            extends=isinstance(change, ExtendCache),
        )
        try:
            link.tell(message)
        except GroupBroken:
            _log.debug("a group that has ended is told of no session")

    # --- on the event loop ----------------------------------------------------------------------

    async def hold(self, task_status: trio.TaskStatus[None]) -> None:
        """Form the group, and again whenever it ends; raises only if the first time fails."""
        has_begun = False

        def begin() -> None:
            nonlocal has_begun
            if not has_begun:
                has_begun = True
                task_status.started()

        while True:
            try:
                await self._form(begin)
            except UnavailableError as error:
                if not has_begun:
                    raise
                _log.log(logging.WARNING if str(error) != self._reason else logging.DEBUG, "%s", error)
                self._reason = str(error)
            await trio.sleep(self._settings.rejoin_interval_s)

    async def _form(self, on_ready: Callable[[], None]) -> None:
        """Form the group and wait for its end.

        Raises:
            GroupBroken: Always: how it ended.
            PeerUnreachable: A member is not known to live.
        """
        request = self._request()
        link = Link(
            request.group,
            [rank.contact for rank in request.ranks],
            0,
            streams=self._streams,
            deadline_s=self._settings.deadline_s,
        )
        missing = {contact.peer for contact in link.others}

        async def enlist(contact: Contact) -> None:
            try:
                async with self._streams.call(contact, request) as answers:
                    await answers.one()
                    missing.discard(contact.peer)
                    if not missing:
                        self._formed = link
                        on_ready()
                    await answers.one()
            except P2PInferError as error:
                link.end(f"{contact}: {error}")

        try:
            with self._registered(link):
                async with trio.open_nursery() as nursery:
                    for contact in link.others:
                        nursery.start_soon(enlist, contact)
                    await link.ended.wait()
                    nursery.cancel_scope.cancel()
        finally:
            self._formed = None
        raise GroupBroken(link.reason)


def cuts_of(shares: Sequence[Share]) -> tuple[ShardCut, ...]:
    """Return what `inference.partition.tensor` gave each peer, as the cuts that `Groups.serve` takes.

    Raises:
        ConfigError: The shares are of another strategy.
    """
    cuts = []
    for share in shares:
        heads, columns = share.kv_heads, share.ffn_columns
        if heads is None or columns is None:
            raise ConfigError("only the strategy tensor gives each peer heads and columns")
        cuts.append(ShardCut(range(heads.start, heads.end), range(columns.start, columns.end)))
    return tuple(cuts)


def _group_rank(contact: Contact, cut: ShardCut) -> GroupRank:
    return GroupRank(contact, cut.heads.start, cut.heads.stop, cut.columns.start, cut.columns.stop)


def _shard_step(step: EngineInput) -> ShardStep:
    if step.hidden is None or step.layers is None:
        raise InternalError("a step is announced with its rows and layers")
    return ShardStep(
        session=step.session,
        base=step.base,
        start=step.layers.start,
        end=step.layers.end,
        hidden=step.hidden,
    )
