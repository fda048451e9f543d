"""Small faults for the cores of inference: each must be noticed by a test of them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MUTANTS", "Mutant"]

_ENTRY = "p2pinfer/inference/entry_core.py"
_GENERATION = "p2pinfer/inference/generation.py"
_HOP = "p2pinfer/inference/hop_core.py"
_TABLE = "p2pinfer/inference/session_table.py"
_PARKING = "p2pinfer/inference/parking.py"
_ROUTER = "p2pinfer/inference/router.py"
_SESSION = "p2pinfer/inference/hop_session.py"
_SEARCH = "p2pinfer/inference/chain_search.py"
_PEER = "p2pinfer/peer_core.py"


@dataclass(frozen=True)
class Mutant:
    """One change of one place."""

    name: str
    path: str
    old: str
    new: str


MUTANTS = (
    Mutant(
        "a parked session is taken by whoever names it", _TABLE, "session.place.entry.peer == entry", "True"
    ),
    Mutant("parked sessions are never given up", _TABLE, "while self._parked and (", "while False and ("),
    Mutant(
        "a step of the session before is taken for one of the next",
        _HOP,
        "if not self._sessions.is_open(item.session) or",
        "if",
    ),
    Mutant(
        "a lost cache is not noticed",
        _ENTRY,
        "and message.next_step < generation.origin.step_count",
        "and False",
    ),
    Mutant("a step is shared that goes on behind the edit", _PARKING, "if sum(shape) <= shared", ""),
    Mutant(
        "a chain with a dead peer is gone on from",
        _PARKING,
        "return False\n    return True",
        "return True\n    return True",
    ),
    Mutant("what was kept keeps its old name", _HOP, "output = replace(output, session=session.id)", "pass"),
    Mutant("a parked session keeps its steps", _SESSION, "        self.waiting.clear()\n", ""),
    Mutant("a draining peer hands over at once", _PEER, "or self._has_handed_over or self.lacking()", ""),
    Mutant("draining peers cover for each other", _PEER, "and not holder.draining and holder", "and holder"),
    Mutant(
        "slowness becomes usual",
        _ENTRY,
        "generation.pace.best_s * config",
        "generation.pace.interval_s * config",
    ),
    Mutant(
        "a hop that comes back keeps what it sampled last",
        _SESSION,
        "if place.sample_from > self.recent_until:",
        "if False:",
    ),
    Mutant(
        "a recent token is kept whatever its position",
        _SESSION,
        "if position == self.recent_until:",
        "if position:",
    ),
    Mutant("more is taken than was reserved", _SESSION, "and self.row_count + rows <=", "and rows <="),
    Mutant(
        "an early step is computed twice",
        _SESSION,
        "self.next_step + self.computing <= step.step <",
        "0 <= step.step <",
    ),
    Mutant("a run goes on past a sampled step", _SESSION, "or run[-1].sample is not None", ""),
    Mutant("a run takes a step that cuts back", _SESSION, "or step.base != last.base + 1", ""),
    Mutant("old tokens are sampled again", _SESSION, "position >= self.place.sample_from", "position"),
    Mutant(
        "outputs flow before the hops are ready",
        _SESSION,
        "self.forward_from = None",
        "self.forward_from = self.forward_from",
    ),
    Mutant(
        "a hop passes on what ails its neighbour",
        _HOP,
        'or not is_known or message.code != "unknown"',
        "or not is_known",
    ),
    Mutant("a hop listens to anybody", _HOP, "elif sender.peer == session.upstream:", "elif sender.peer:"),
    Mutant(
        "the last token goes round again",
        _HOP,
        "if not is_from_ring or message.final:",
        "if not is_from_ring:",
    ),
    Mutant(
        "a session's memory is never given back",
        _TABLE,
        "self.reserved_bytes -= session.reserved.size_bytes",
        "pass",
    ),
    Mutant("an orphan lives on", _TABLE, "if session.orphaned_at is None:", "if True:"),
    Mutant("a hop that moved keeps its cache", _HOP, "before.span == after.span", "True"),
    Mutant(
        "a replay begins one step late",
        _HOP,
        "session.kept[message.forward_from :]",
        "session.kept[message.forward_from + 1 :]",
    ),
    Mutant("a broken way is not told", _HOP, "elif session.downstream.peer == contact.peer:", "elif False:"),
    Mutant(
        "the last hop gets its own steps back",
        _ENTRY,
        "generation.awaited_step if is_last else",
        "generation.ready[index] if is_last else",
    ),
    Mutant(
        "a broken connection is a dead peer",
        _ENTRY,
        "effects += self._repeat(generation, now)",
        "effects += self._replace(generation, [generation.peer_at(index)], now, is_certain=True)",
    ),
    Mutant(
        "old answers count",
        _ENTRY,
        "if message.epoch != generation.epoch or generation.phase is Phase.RUNNING:",
        "if generation.phase is Phase.RUNNING:",
    ),
    Mutant(
        "a lost token is waited for",
        _ENTRY,
        "is_token_lost = progress[-1] > generation.awaited_step",
        "is_token_lost = False",
    ),
    Mutant("a hop at work is stuck", _ENTRY, "if working and not is_token_lost:", "if False:"),
    Mutant(
        "nobody is tried once more",
        _ROUTER,
        "holders, lost=excused, ways=ways)",
        "holders, lost=avoided, ways=ways)",
    ),
    Mutant(
        "a stalled entry peer blames the others",
        _ENTRY,
        "> _LATE_S and not generation.trouble.was_late",
        "> 1e9",
    ),
    Mutant(
        "recoveries have no end", _ENTRY, "if trouble.rounds > self._config.recovery_count_max:", "if False:"
    ),
    Mutant(
        "hops that were left are not told",
        _ENTRY,
        "return effects + self._open_messages(generation)",
        "return self._open_messages(generation)",
    ),
    Mutant(
        "a failed generation leaves its hops alone",
        _ENTRY,
        "return [*self._close_messages(generation), Deliver(GenerationFailed",
        "return [Deliver(GenerationFailed",
    ),
    Mutant(
        "strangers' hops work on",
        _ENTRY,
        "return [Send(sender, CloseSession(session=message.session))]",
        "return []",
    ),
    Mutant(
        "the hop says when it ends",
        _ENTRY,
        "            if generation.is_final(token_now):\n",
        "            if token_now.final:\n",
    ),
    Mutant(
        "a lost cache is not seen", _ENTRY, "generation.phase is Phase.PROBING and has_lost_cache", "False"
    ),
    Mutant(
        "a token may be late for ever",
        _ENTRY,
        "wait_s = min(wait_s, max(config.step_timeout_min_s, usual_s))",
        "wait_s = max(config.step_timeout_min_s, usual_s)",
    ),
    Mutant(
        "the reporter is never at fault",
        _GENERATION,
        "return accused if others == [accused] else reporter",
        "return accused",
    ),
    Mutant(
        "the newest tokens are forgotten", _GENERATION, "*self.tokens)[-last_n:]", "*self.tokens)[:last_n]"
    ),
    Mutant(
        "prompt chunks shrink in a replay",
        _GENERATION,
        "self.request.prompt[base : base + count]",
        "self.request.prompt[base : base + count - self.epoch]",
    ),
    Mutant(
        "a peer has two places in a chain",
        _SEARCH,
        "if peers.count(peer) > 1",
        "if peers.count(peer) > 99",
    ),
    Mutant(
        "effects leave last in, first out",
        _PEER,
        "pending.extend(more)",
        "pending.extendleft(reversed(more))",
    ),
    Mutant(
        "a dead member is not told to the sessions",
        _PEER,
        "return self.entry.member_dead(peer, now) + self.dht",
        "return self.dht",
    ),
    Mutant(
        "a peer that leaves says nothing to its sessions",
        _PEER,
        "self.hop.close(now) + self.swim.leave(now)",
        "self.swim.leave(now)",
    ),
)
