"""One open stream: frames in, frames out, until either end is done or the link is dead.

Rules:

1. A write happens at once, in the caller's turn, while the socket takes it; only then somebody waits.
2. The reader hands over what one read gave, in order and together, and waits for the receiver: that wait is
   the backpressure, which TCP carries to the other end.
3. Both ends send something every `heartbeat_interval_s`; one that hears nothing for
   `silence_timeout_s` gives the connection up.
4. A connection that is replaced by a better one is retired: what was queued still goes, calls finish, then
   both ends say goodbye.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import trio

from p2pinfer.effects import Message, Plane, Priority
from p2pinfer.errors import P2PInferError, PeerUnreachable, RemoteProtocolError
from p2pinfer.identity import Verifier
from p2pinfer.ids import Contact, PeerId
from p2pinfer.runtime.calls import Calls, Handler
from p2pinfer.runtime.handshake import Established
from p2pinfer.runtime.outbox import Outbox
from p2pinfer.runtime.remote_errors import code_of, error_of, text_of
from p2pinfer.runtime.tls import TlsStream
from p2pinfer.wire.codec import decode, encode, signed_parts
from p2pinfer.wire.framing import Assembler, Frame
from p2pinfer.wire.messages.calls import CallCancel, CallCredit, CallEnd, CallFailed, CallItem, CallOpen
from p2pinfer.wire.messages.handshake import Alert, Goodbye, Heartbeat

__all__ = ["Connection", "OnMessages", "Receiver", "Timing"]

OnMessages = Callable[[Contact, Sequence[Message]], Awaitable[None]]

_CALL_TYPES = (CallOpen, CallItem, CallCredit, CallEnd, CallFailed, CallCancel)
_OWN_TYPES = frozenset((*_CALL_TYPES, Alert, Goodbye, Heartbeat))
"""Messages that end here."""
_LAST_WORDS_S = 0.5
"""How long a closing connection tries to get its last bytes out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How a connection notices that its link is dead."""

    heartbeat_interval_s: float
    silence_timeout_s: float
    retirement_s: float


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where what arrives goes, and what checks it first."""

    on_messages: OnMessages
    on_leaving: Callable[[Connection], None]
    """The connection takes no more messages: it is over, or the other end said goodbye."""
    handlers: Mapping[type[Message], Handler]
    verifier: Verifier


class Connection:
    """An authenticated stream; `run` must be running for anything to move."""

    def __init__(
        self,
        tls: TlsStream,
        established: Established,
        *,
        receiver: Receiver,
        outbox_size_bytes_max: int,
        timing: Timing,
    ) -> None:
        self.established = established
        self.calls: Calls | None = None
        self.error: P2PInferError | None = None
        """Why it ended; None while it is open, and after both ends said goodbye."""
        self.is_retiring = False
        self.ended = trio.Event()
        """Set once it is over and its socket closed."""
        self._tls = tls
        self._receiver = receiver
        self._outbox = Outbox(outbox_size_bytes_max)
        self._timing = timing
        self._scope = trio.CancelScope()
        self._room = trio.lowlevel.ParkingLot()
        self._blocked = trio.Event()
        self._state = _State(trio.current_time())

    @property
    def contact(self) -> Contact:
        """Who is at the other end."""
        return self.established.contact

    @property
    def peer(self) -> PeerId:
        """Who is at the other end, as it proved."""
        return self.established.peer

    @property
    def is_usable(self) -> bool:
        """Whether it may still be given new messages."""
        return not self._state.is_over and not self.is_retiring

    @property
    def waiting_bytes(self) -> int:
        """Bytes of messages that wait to be written."""
        return self._outbox.size_bytes

    def send_nowait(self, message: Message, priority: Priority | None = None, *, hold: bool = False) -> bool:
        """Queue a message; False where the outbox is full or the connection over.

        Args:
            message: What to send.
            priority: Another than the message's own.
            hold: Leave the writing to a `flush` that follows soon, so that several go in one write.
        """
        urgency = message.priority if priority is None else priority
        if self._state.is_over or not self._outbox.has_room(urgency):
            return False
        self._outbox.add(encode(message), urgency)
        if not hold:
            self.flush()
        return True

    async def send(self, message: Message, priority: Priority | None = None) -> None:
        """Queue a message, waiting for room.

        Raises:
            PeerUnreachable: The connection is over.
        """
        urgency = message.priority if priority is None else priority
        while not self._outbox.has_room(urgency) and not self._state.is_over:
            await self._room.park()
        if self._state.is_over:
            raise self.error or PeerUnreachable(f"the connection to {self.contact} is closed")
        self.put(message, urgency)

    def put(self, message: Message, priority: Priority) -> None:
        """Queue a message that is small and bounded in number, whatever else waits."""
        if not self._state.is_over:
            self._outbox.add(encode(message), priority)
            self.flush()

    def flush(self) -> None:
        """Write as much as the socket takes now."""
        try:
            while self._outbox and self._tls.is_idle:
                self._tls.write_nowait(self._outbox.take())
                self._state.sent_at = trio.current_time()
        except PeerUnreachable as error:
            self.end(error)
            return
        if not self._tls.is_idle:
            self._blocked.set()
        if self._room and (self._outbox.has_room(Priority.BULK) or not self._outbox):
            self._room.unpark_all()
        if self.is_retiring:
            self._maybe_finish()

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Read, write and watch until the connection is over; then `error` says why.

        Args:
            on_ready: Called before anything is read: from then on the connection takes messages.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                self.calls = Calls(self, self._receiver.handlers, nursery)
                nursery.start_soon(self._write)
                nursery.start_soon(self._watch)
                on_ready()
                try:
                    await self._read()
                except P2PInferError as error:
                    self._tell(error)
                    self.end(error)
        finally:
            await self._close()

    def end(self, error: P2PInferError | None) -> None:
        """Close now; what was queued may be lost. Without an error: both ends said goodbye."""
        if self._state.is_over:
            return
        self._state.is_over = True
        self.error = error
        self._receiver.on_leaving(self)
        if self.calls is not None:
            self.calls.disconnected(error or PeerUnreachable(f"{self.contact} said goodbye"))
        self._room.unpark_all()
        self._scope.cancel()

    def retire(self) -> None:
        """Send what is queued, let the calls end, say goodbye. New messages go elsewhere."""
        if not self.is_retiring:
            self.is_retiring = True
            self._state.retired_at = trio.current_time()
        self._maybe_say_goodbye()

    def calls_ended(self) -> None:
        """No call is open any more."""
        if self.is_retiring:
            self._maybe_say_goodbye()

    def _maybe_say_goodbye(self) -> bool:
        """Say it once no call needs the connection; whether it was said by now."""
        state = self._state
        if not state.said_goodbye and (self.calls is None or not self.calls.count):
            state.said_goodbye = True
            # Behind everything: the lowest priority, and nothing is queued after it.
            self.put(Goodbye(), Priority.BULK)
        self._maybe_finish()
        return state.said_goodbye

    def _maybe_finish(self) -> None:
        """Close once both ends have said goodbye and nothing waits."""
        if self._state.said_goodbye and self._state.heard_goodbye and not self._outbox:
            self.end(None)

    async def _read(self) -> None:
        assembler, state = Assembler(), self._state
        frames: list[Frame] = list(self.established.frames)
        while True:
            whole = [message for frame in frames if (message := assembler.add(frame)) is not None]
            await self._take([decode(message.data) for message in whole])
            if state.is_over:
                return
            data = await self._tls.receive()
            if not data:
                raise PeerUnreachable(f"{self.contact} closed the connection")
            state.heard_at = trio.current_time()
            frames = self.established.reader.feed(data)

    async def _take(self, messages: Sequence[Message]) -> None:
        given: list[Message] = []
        for message in messages:
            if type(message) not in _OWN_TYPES:
                self._check(message)
                given.append(message)
                continue
            await self._hand_over(given)
            given = []
            self._take_own(message)
            if self._state.is_over:
                return
        await self._hand_over(given)

    def _check(self, message: Message) -> None:
        if message.PLANE is not Plane.STREAM:
            raise RemoteProtocolError(f"{type(message).__name__} does not travel by stream")
        for statement in signed_parts(message):
            self._receiver.verifier.verify_statement(statement)

    async def _hand_over(self, messages: Sequence[Message]) -> None:
        if messages:
            self._state.is_handing = True
            await self._receiver.on_messages(self.established.contact, messages)
            self._state.is_handing = False
            self._state.heard_at = trio.current_time()

    def _take_own(self, message: Message) -> None:
        if isinstance(message, _CALL_TYPES):
            if self.calls is not None:
                self.calls.receive(message)
        elif isinstance(message, Goodbye):
            self._state.heard_goodbye = True
            self._receiver.on_leaving(self)
            self.retire()
        elif isinstance(message, Alert):
            self.end(error_of(message.code, f"{self.contact} closed the connection: {message.detail}"))

    async def _write(self) -> None:
        """Go on with a write that the socket did not take at once."""
        while True:
            await self._blocked.wait()
            self._blocked = trio.Event()
            try:
                await self._tls.drain()
            except PeerUnreachable as error:
                self.end(error)
                return
            self.flush()

    async def _watch(self) -> None:
        timing, state = self._timing, self._state
        while True:
            await trio.sleep(timing.heartbeat_interval_s)
            now = trio.current_time()
            if not state.is_handing and now - state.heard_at >= timing.silence_timeout_s:
                silent_s = now - state.heard_at
                self.end(PeerUnreachable(f"nothing was heard of {self.contact} for {silent_s:.1f} s"))
            elif self.is_retiring and self._maybe_say_goodbye():
                if now - state.retired_at >= timing.retirement_s:
                    self.end(PeerUnreachable(f"{self.contact} did not say goodbye"))
            elif now - state.sent_at >= timing.heartbeat_interval_s and not self._outbox:
                self.put(Heartbeat(), Priority.CONTROL)

    def _tell(self, error: P2PInferError) -> None:
        """Tell the other end what it did wrong."""
        if isinstance(error, RemoteProtocolError):
            self.put(Alert(code_of(error), text_of(error, 256)), Priority.CONTROL)

    async def _close(self) -> None:
        """Get the last bytes out if that takes no time, and close the socket."""
        self.end(PeerUnreachable("the connection was closed here"))
        with trio.move_on_after(_LAST_WORDS_S, shield=True):
            try:
                await self._tls.drain()
            except PeerUnreachable:
                pass  # then they are lost; nobody was promised more
        self._tls.close()
        self.ended.set()


class _State:
    """What a connection remembers of its own course."""

    __slots__ = (
        "heard_at",
        "heard_goodbye",
        "is_handing",
        "is_over",
        "retired_at",
        "said_goodbye",
        "sent_at",
    )

    def __init__(self, now: float) -> None:
        self.heard_at = now
        self.sent_at = now
        self.retired_at = now
        self.is_handing = False
        """The reader waits for the receiver: then silence is ours, not the other end's."""
        self.is_over = False
        self.said_goodbye = False
        self.heard_goodbye = False
