"""Small faults for the membership: each must be noticed by a test of it."""

from __future__ import annotations

from tests.simulation.mutants import Mutant

__all__ = ["SWIM_MUTANTS"]

_CORE = "p2pinfer/swim/core.py"
_MEMBERSHIP = "p2pinfer/swim/membership.py"
_MEMBERS = "p2pinfer/swim/members.py"
_MEMBER = "p2pinfer/swim/member.py"
_OWN = "p2pinfer/swim/own.py"
_PROBE = "p2pinfer/swim/probe.py"
_SUSPICION = "p2pinfer/swim/suspicion.py"
_DISSEMINATION = "p2pinfer/swim/dissemination.py"

SWIM_MUTANTS = (
    Mutant("a suspicion never runs out", _MEMBERSHIP, "if each.deadline <= now]:", "if False]:"),
    Mutant(
        "an accusation counts against any incarnation",
        _MEMBERSHIP,
        "if accusation.incarnation < member.record.incarnation or not member.state.is_active:",
        "if not member.state.is_active:",
    ),
    Mutant(
        "strangers may accuse",
        _MEMBERSHIP,
        "if self.table.get(accuser) is None:",
        "if False:",
    ),
    Mutant("an equal claim stands", _MEMBER, "return new > held", "return new >= held"),
    Mutant("nobody refutes", _MEMBERSHIP, "            self.own.refute(said, now)\n", ""),
    Mutant(
        "a refutation does not rise above the accusation",
        _OWN,
        "self._next.incarnation if first else self._next.incarnation + 1",
        "self._next.incarnation",
    ),
    Mutant(
        "incarnations may run ahead of the clock",
        _MEMBERSHIP,
        "return incarnation <= (now + self._config.clock_skew_s_max) * 1000",
        "return True",
    ),
    Mutant("one accuser counts for many", _SUSPICION, "if accuser in self._accusers or", "if"),
    Mutant(
        "confirmations lengthen a suspicion",
        _SUSPICION,
        "maximum_s - (maximum_s -",
        "maximum_s + (maximum_s -",
    ),
    Mutant(
        "an acknowledgement counts from anybody",
        _PROBE,
        "if probe is not None and probe.target.peer == peer:",
        "if probe is not None:",
    ),
    Mutant(
        "any peer may vouch for a target",
        _PROBE,
        "and helper in (probe.helpers or ()) else None",
        "else None",
    ),
    Mutant("errands have no end", _PROBE, "if len(self._errands) >= _ERRAND_COUNT_MAX:", "if False:"),
    Mutant("the ring is never shuffled", _MEMBERS, "            self._rng.shuffle(self._ring)\n", ""),
    Mutant(
        "the table has no bound",
        _MEMBERS,
        "if len(self._members) >= self._count_max and not self._evict():",
        "if False:",
    ),
    Mutant("news is told for ever", _DISSEMINATION, "if queued.sent_count + 1 >= limit:", "if False:"),
    Mutant(
        "the dead are never asked again", _CORE, "choose_dead(self._config.announce_count)", "choose_dead(0)"
    ),
    Mutant(
        "a peer that was stopped blames others",
        _CORE,
        "if lag_s > self._config.probe_timeout_s and self._config.lifeguard:",
        "if False:",
    ),
    Mutant(
        "an accused is not told so",
        _MEMBERSHIP,
        "word: tuple[Accusation, ...] = (accused.accusation,) if accused and accused.accusation else ()",
        "word: tuple[Accusation, ...] = ()",
    ),
    Mutant(
        "a farewell is a death",
        _MEMBERSHIP,
        "return [Notify(MemberLeft(owner))] if",
        "return [Notify(MemberDead(owner))] if",
    ),
)
"""Names say what goes wrong; `old` is there exactly once."""
