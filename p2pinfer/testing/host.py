"""A simulated process: one core, its disk, clock, engine and inbox.

1. One input at a time: its effects are performed in order before the next input is taken, as the driver does.
2. A `Persist` (or several that stand together) holds up everything after it until the disk has synced; inputs
   wait in the inbox meanwhile. A crash before that loses what stood after it.
3. After each input the core's deadline is read again and one tick is planned.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from p2pinfer.effects import (
    Compute,
    Deliver,
    Disconnect,
    Effect,
    EngineEffect,
    HearsDisk,
    HearsEngine,
    HearsStreams,
    Message,
    Misbehaved,
    Notify,
    Persist,
    Plane,
    Send,
)
from p2pinfer.errors import InternalError, P2PInferError
from p2pinfer.ids import Contact
from p2pinfer.testing.clock import HostClock
from p2pinfer.testing.disk import SimDisk
from p2pinfer.testing.engine import EngineFactory, SimWorker
from p2pinfer.testing.process import Call, Command, CoreFactory, HostLog, Stage

if TYPE_CHECKING:
    from p2pinfer.testing.world import World

__all__ = ["INBOX_COUNT_MAX", "Host"]

INBOX_COUNT_MAX = 1024
"""Inputs that wait while a host is stalled; more datagrams are dropped, as a full socket buffer does."""


class Host:
    """One process of the simulated world; made by `World.add`.

    Attributes:
        core: The core of the present life, or of the last one while the host is down.
        life: How often it has been started, counted from 1.
        log: What it delivered; `log.on_deliver(host, item)` and `log.on_notify` are called if set.
    """

    def __init__(
        self,
        world: World,
        name: str,
        factory: CoreFactory,
        contact: Contact,
        engine: EngineFactory | None,
    ) -> None:
        self.world = world
        self.name = name
        self.contact = contact
        self.core: Any = None
        self.disk = SimDisk(world.rng(f"disk/{name}"))
        self.clock = HostClock(world.now)
        self.worker: SimWorker | None = None
        self.log = HostLog()
        self.stage = Stage.DOWN
        self.life = 0
        self._make = (factory, engine)
        self._inbox: deque[tuple[str, Callable[[float], list[Effect]], tuple[object, ...]]] = deque()
        self._tick_at: float | None = None
        self._busy = False
        self._held: tuple[Sequence[Effect], int, str | None] | None = None

    @property
    def now(self) -> float:
        """What this host's clock shows."""
        return self.clock.read(self.world.now)

    @property
    def up(self) -> bool:
        """Whether the process exists; a paused one does."""
        return self.stage is not Stage.DOWN

    @property
    def stalled(self) -> bool:
        """Whether the process is paused."""
        return self.stage is Stage.PAUSED

    @property
    def delivered(self) -> list[object]:
        """The items delivered so far, without their times."""
        return [item for _, item in self.log.delivered]

    @property
    def notices(self) -> list[object]:
        """The news of all `Notify` so far, without their times."""
        return [news for _, news in self.log.notices]

    # --- commands and faults, for tests ---

    def call(self, command: Command) -> Call:
        """Give the core a command: `host.call(lambda core, now: core.join(now))`.

        The command returns effects, or a pair of a value and effects. A `P2PInferError` is raised here if the
        command runs at once, and is kept in `Call.error` either way.
        """
        call = Call()
        if self.stage is Stage.DOWN:
            self._trace("drop", "call: the host is down")
            return call

        def run(now: float) -> list[Effect]:
            try:
                answer = command(self.core, now)
            except P2PInferError as error:
                call.error, call.done = error, True
                return []
            call.value, effects = answer if isinstance(answer, tuple) else (None, answer)
            call.done = True
            return effects

        self._take("call", run, ())
        if call.error is not None:
            raise call.error
        return call

    def poke(self) -> None:
        """Tick the core now, although nothing may be due: it must make no difference."""
        if self.stage is Stage.UP and not self._busy:
            self._take("tick", lambda now: self.core.tick(now), ("early",))

    def start(self) -> None:
        """Begin a life with what is on disk."""
        world = self.world
        factory, engine = self._make
        self.life += 1
        self.stage = Stage.UP
        self._busy = True
        self._trace("start", f"life={self.life}")
        self.worker = SimWorker(engine()) if engine is not None else None
        made = factory(self.disk.contents, world.rng(f"host/{self.name}/{self.life}"), self.now)
        self.core, effects = made if isinstance(made, tuple) else (made, [])
        self._perform(effects, 0)

    def crash(self, *, torn: bool = False) -> None:
        """End the process at once: memory, inbox and writes in flight go, connections are reset."""
        if self.stage is Stage.DOWN:
            return
        self._trace("crash", "torn" if torn else "")
        self.stage = Stage.DOWN
        self.disk.crash(torn=torn)
        self.worker = None
        self._inbox.clear()
        self._busy, self._held, self._tick_at = False, None, None
        self.world.network.streams.crashed(self)

    def restart(self, *, keep_disk: bool = True) -> None:
        """Start again, after a crash now if it was still up; with an empty disk if `keep_disk` is false."""
        self.crash()
        if not keep_disk:
            self.disk.wipe()
        self._trace("restart", "" if keep_disk else "with an empty disk")
        self.start()

    def pause(self) -> None:
        """Stall the process; see `Stage.PAUSED`."""
        if self.stage is Stage.UP:
            self.stage = Stage.PAUSED
            self._trace("pause")

    def resume(self) -> None:
        """Let a stalled process go on; what waited comes first."""
        if self.stage is not Stage.PAUSED:
            return
        self._trace("resume")
        self.stage = Stage.UP
        if self._held is not None:
            effects, index, failed = self._held
            self._held = None
            self._go_on(effects, index, failed)
        elif not self._busy:
            self._become_idle()

    def skew(self, offset_s: float, drift: float = 0.0) -> None:
        """Displace the host's clock from the world's, and let it run fast or slow; (0, 0) sets it right."""
        self.clock.skew(offset_s, drift, self.world.now)
        self._trace("skew", f"offset={offset_s:.6g}s drift={drift:.6g}")
        self._tick_at = None
        if self.stage is Stage.UP and not self._busy:
            self._plan_tick()

    # --- inputs, from the network and the world ---

    def hear(self, sender: Contact, message: Message) -> None:
        """Take a message that has arrived."""
        if self._busy or self._inbox or self.stage is not Stage.UP:
            self._keep(sender, message)
            return
        world = self.world
        if world.trace is not None:
            self._trace("recv", message, "from", sender)
        self._busy = True
        self._perform(self.core.receive(sender, message, self.clock.read(world.now)), 0)

    def lose_stream(self, contact: Contact) -> None:
        """Hear that the stream to `contact` has ended, if the core listens for that."""
        if self.up and isinstance(self.core, HearsStreams):
            self._take("lost stream", lambda now: list(self.core.disconnected(contact, now)), (contact,))

    def _keep(self, sender: Contact, message: Message) -> None:
        if self.stage is Stage.DOWN:
            self.world.network.count("down", self.name, message)
        elif message.PLANE is not Plane.STREAM and len(self._inbox) >= INBOX_COUNT_MAX:
            self.world.network.count("inbox full", self.name, message)
        else:
            self._inbox.append(
                ("recv", lambda now: list(self.core.receive(sender, message, now)), (message, "from", sender))
            )

    def _take(
        self,
        what: str,
        run: Callable[[float], list[Effect]],
        details: tuple[object, ...],
        *,
        first: bool = False,
    ) -> None:
        """Run an input now, or put it into the inbox while the host is busy or stalled."""
        if not first and (self._busy or self._inbox or self.stage is not Stage.UP):
            self._inbox.append((what, run, details))
            return
        self._trace(what, *details)
        self._busy = True
        self._perform(run(self.now), 0)

    def _drain(self, life: int) -> None:
        """Take one input from the inbox: each is an event of its own, so that checkers see between them.

        A tick that is due goes first, as in the driver: a process that was stalled sees its timeouts before
        the answers that came meanwhile.
        """
        if life == self.life and self._inbox and self.stage is Stage.UP and not self._busy:
            deadline = self.core.deadline
            if deadline is not None and self.clock.world_time(deadline) <= self.world.now:
                self._take("tick", lambda now: list(self.core.tick(max(now, deadline))), (), first=True)
                return
            what, run, details = self._inbox.popleft()
            self._take(what, run, details, first=True)

    def _become_idle(self) -> None:
        self._busy = False
        if self._inbox:
            self.world.push(self.world.now, self._drain, (self.life,))
        else:
            self._plan_tick()

    def _plan_tick(self) -> None:
        """Plan one tick. A planned one that is early enough serves: when it comes it looks again."""
        deadline = self.core.deadline
        if deadline is None:
            return
        world = self.world
        at = self.clock.world_time(deadline)
        if at < world.now:
            at = world.now
        planned = self._tick_at
        if planned is None or at < planned:
            self._tick_at = at
            world.push(at, self._tick, (at,))

    def _tick(self, at: float) -> None:
        if at != self._tick_at:
            return
        self._tick_at = None
        if self._busy or self._inbox or self.stage is not Stage.UP:
            return
        deadline = self.core.deadline
        if deadline is None:
            return
        world = self.world
        if self.clock.world_time(deadline) > world.now:
            self._plan_tick()
            return
        if world.trace is not None:
            self._trace("tick")
        self._busy = True
        self._perform(self.core.tick(self.clock.read(world.now, deadline)), 0)

    # --- effects ---

    def _perform(self, effects: Sequence[Effect], index: int) -> None:
        """Perform the effects from `index` on, up to the next `Persist`."""
        life = self.life
        send = self.world.network.send
        for position in range(index, len(effects)):
            effect = effects[position]
            if type(effect) is Send:
                send(self, effect.to, effect.message)
            elif type(effect) is Persist:
                self._write(effects, position)
                return
            else:
                self._perform_one(effect)
                if life != self.life or self.stage is Stage.DOWN:
                    return  # a callback ended this life
        if self.stage is Stage.UP:
            self._become_idle()
        else:
            self._busy = False

    def _perform_one(self, effect: Effect) -> None:
        now, log = self.world.now, self.log
        if isinstance(effect, Deliver):
            self._trace("deliver", effect.item)
            log.delivered.append((now, effect.item))
            if log.on_deliver is not None:
                log.on_deliver(self, effect.item)
        elif isinstance(effect, Notify):
            self._trace("notify", effect.news)
            log.notices.append((now, effect.news))
            if log.on_notify is not None:
                log.on_notify(self, effect.news)
        elif isinstance(effect, Misbehaved):
            self._trace("misbehaved", effect.peer.short, effect.reason)
            log.misbehaved.append((now, effect.peer, effect.reason))
        elif isinstance(effect, Disconnect):
            self.world.network.streams.disconnect(self, effect.peer)
        elif isinstance(effect, EngineEffect):
            self._use_engine(effect)
        else:
            raise InternalError(f"{self.name}: {type(effect).__name__} is no effect that the simulator knows")

    def _use_engine(self, effect: EngineEffect) -> None:
        worker = self.worker
        if worker is None:
            raise InternalError(f"{self.name} has no engine: add it with world.add(..., engine=factory)")
        self._trace("compute", effect)
        if isinstance(effect, Compute):
            results, at = worker.run(effect.batch, self.world.now)
            self.world.push(at, self._computed, (self.life, results))
        else:
            worker.change_cache(effect)

    def _computed(self, life: int, results: tuple[Any, ...]) -> None:
        if life != self.life or not self.up:
            return
        if not isinstance(self.core, HearsEngine):
            raise InternalError(f"{self.name}: its core returns Compute but has no method `computed`")
        self._take("computed", lambda now: list(self.core.computed(results, now)), (results,))

    def _write(self, effects: Sequence[Effect], index: int) -> None:
        """Write all that stand together, then go on after them."""
        batch = []
        for effect in effects[index:]:
            if not isinstance(effect, Persist):
                break
            batch.append(effect)
        self._trace("write", *(f"{item.key}={len(item.value or b'')}B" for item in batch))
        delay_s = self.disk.write(batch)
        self.world.push(self.world.now + delay_s, self._synced, (self.life, effects, index + len(batch)))
        end_s = self.disk.choose_end(delay_s)
        if end_s is not None:
            self.world.push(self.world.now + end_s, self._end_in_write, (self.life,))

    def _end_in_write(self, life: int) -> None:
        if life == self.life:
            self.crash()

    def _synced(self, life: int, effects: Sequence[Effect], index: int) -> None:
        if life != self.life or self.stage is Stage.DOWN:
            return
        failed = self.disk.sync()
        self._trace("synced" if failed is None else "disk error", failed or "")
        if self.stage is Stage.PAUSED:
            self._held = (effects, index, failed)
        else:
            self._go_on(effects, index, failed)

    def _go_on(self, effects: Sequence[Effect], index: int, failed: str | None) -> None:
        if failed is None:
            self._perform(effects, index)
        elif isinstance(self.core, HearsDisk):
            self._perform(self.core.disk_failed(failed, self.now), 0)
        else:
            self.crash()  # a core that cannot go on without its disk ends, as the node program does

    def _trace(self, what: str, *details: object) -> None:
        trace = self.world.trace
        if trace is not None:
            trace.line(self.world.now, self.name, what, *details)
