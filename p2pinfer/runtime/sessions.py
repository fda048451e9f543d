"""The sessions that were opened at this peer: what the core says of each goes to whoever waits for it.

Rules:

1. A reader that went away cancels its session; one that is forgotten does so from any thread.
2. When the peer ends, every reader hears of it.
"""

from __future__ import annotations

import logging
import math

import trio

from p2pinfer.effects import Effect
from p2pinfer.errors import Cancelled, NoChain
from p2pinfer.holdings import HoldersFound
from p2pinfer.ids import SessionId
from p2pinfer.inference.generation import Request
from p2pinfer.inference.news import GenerationFailed, PromptRead, Recovered, Sampled
from p2pinfer.peer_core import PeerCore
from p2pinfer.runtime.answer import News
from p2pinfer.runtime.composition import Parts
from p2pinfer.runtime.load import Load
from p2pinfer.runtime.progress import Activity
from p2pinfer.swim.news import MemberJoined, MemberUpdated

__all__ = ["Sessions"]

_log = logging.getLogger(__name__)

HOLDERS_TIMEOUT_S = 3.0
"""How long a request waits for holders that only the DHT knows: a lookup, and a ping to each."""


class Sessions:
    """The readers of one peer's sessions.

    Args:
        parts: The peer's.
        activity: Told how far the prompts are.
        load: Told of failures that were survived.
    """

    def __init__(self, parts: Parts, activity: Activity, load: Load) -> None:
        self._parts = parts
        self._activity = activity
        self._load = load
        self._token = trio.lowlevel.current_trio_token()
        self._readers: dict[SessionId, trio.MemorySendChannel[News]] = {}
        self._parked = trio.lowlevel.ParkingLot()
        """Requests that wait for holders."""

    async def open(self, request: Request) -> tuple[SessionId, trio.MemoryReceiveChannel[News]]:
        """Begin a generation; its news come on the channel.

        Where SWIM knows no holder of some layers, the DHT is asked once, and the holders that it names get a
        moment to answer.

        Raises:
            UnavailableError: A kind of it, as for `Peer.generate`.
        """
        try:
            return await self._open(request)
        except NoChain:
            if not await self._holders_come(request):
                raise
        return await self._open(request)

    async def _holders_come(self, request: Request) -> bool:
        """Wait for holders that the DHT names, as long as some may come; whether all layers are held then."""
        core, digest, now = self._parts.core, request.digest, self._parts.clock.now
        with trio.move_on_after(HOLDERS_TIMEOUT_S):
            while core.unheld(digest, request.layer_count) and core.holdings.is_seeking(digest, now()):
                await self._parked.park()
        return not core.unheld(digest, request.layer_count)

    def noted(self, news: object) -> None:
        """Take news of members, and of what the DHT says of holders."""
        if isinstance(news, MemberJoined | MemberUpdated | HoldersFound):
            self._parked.unpark_all()

    async def _open(self, request: Request) -> tuple[SessionId, trio.MemoryReceiveChannel[News]]:
        sender, receiver = trio.open_memory_channel[News](math.inf)
        opened: list[SessionId] = []
        is_over = False

        def command(core: PeerCore, now: float) -> tuple[SessionId, list[Effect]]:
            if is_over:  # it was cancelled while it waited for its turn
                raise Cancelled("nobody wants the answer any more")
            session, effects = core.open(request, now)
            # Before the effects are performed: the first news may come with them.
            self._readers[session] = sender
            self._activity.prompts[session] = (0, len(request.prompt))
            opened.append(session)
            return session, effects

        try:
            return await self._parts.driver.call(command), receiver
        except BaseException:
            is_over = True
            for session in opened:
                self.cancel(session)
            raise

    def cancel(self, session: SessionId) -> None:
        """Nobody wants the rest of it."""
        self._readers.pop(session, None)
        self._activity.prompts.pop(session, None)
        self._parts.driver.put(lambda core, now: core.cancel(session, now))

    def cancel_soon(self, session: SessionId) -> None:
        """Cancel from any thread: that is where the collector may find a forgotten answer."""
        try:
            self._token.run_sync_soon(self.cancel, session)
        except trio.RunFinishedError:
            pass  # the peer has ended, and its sessions with it

    def heard(self, item: News) -> None:
        """Hand what the core says of a session to its reader."""
        channel = self._readers.get(item.session)
        if channel is None:
            return
        try:
            channel.send_nowait(item)
        except trio.BrokenResourceError:
            self.cancel(item.session)
        if isinstance(item, GenerationFailed) or (isinstance(item, Sampled) and item.final):
            self._readers.pop(item.session, None)
        if isinstance(item, PromptRead):
            self._activity.prompts[item.session] = (item.done, item.total)
        if isinstance(item, GenerationFailed | Sampled):
            self._activity.prompts.pop(item.session, None)
        if isinstance(item, Recovered):
            self._load.recovered(item.stall_s, self._parts.clock.now())
            lost = ", ".join(peer.short for peer in item.lost) or "nobody"
            _log.info("a session goes on after %.0f ms, replacing %s", item.stall_s * 1000, lost)

    def fail_all(self) -> None:
        """The peer ends: tell all readers."""
        for session, channel in self._readers.items():
            channel.send_nowait(GenerationFailed(session, Cancelled("the peer is closing: ask another one")))
        self._readers.clear()
