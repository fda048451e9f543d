"""The settings of the membership, their units, ranges and sources, and the rules between them.

Sources: SWIM is Das, Gupta, Motivala (DSN 2002); Lifeguard is Dadgar, Phillips, Currey (2017). "memberlist",
"serf" and "foca" are the defaults of those systems, whose values have years of operation behind them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from p2pinfer.errors import ConfigError
from p2pinfer.wire.messages.swim import STATE_ITEMS_COUNT_MAX

__all__ = ["SwimConfig", "lifetime_stretch", "retransmit_limit", "stretch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SwimConfig:
    """How quickly a member is probed, suspected, forgotten; `lan()` are the defaults."""

    probe_interval_s: float = 1.0
    """SWIM's protocol period, seconds: one member is probed in each. 0.05 to 60. SWIM 4.1; memberlist LAN."""
    probe_timeout_s: float = 0.5
    """Wait for a direct Ack before helpers are asked, seconds. Above the 99th percentile of round trips,
    below the interval. memberlist LAN."""
    helper_count: int = 3
    """Helpers asked for an indirect probe, SWIM's k. 0 to 16. memberlist; SWIM 3.1 shows 3 to suffice."""
    nack_fraction: float = 0.8
    """A helper sends a Nack after this part of `probe_timeout_s`, so that it arrives before the interval
    ends. 0.1 to 1. Lifeguard IV-A."""
    suspicion_factor: int = 4
    """The shortest suspicion is factor * max(1, log10 n) * probe interval; factor - 2 confirmations bring it
    there. 2 to 20. Lifeguard IV-B; memberlist LAN."""
    suspicion_max_factor: float = 6.0
    """The longest suspicion, as a multiple of the shortest. 1 to 20. Lifeguard IV-B (beta); memberlist."""
    health_max: int = 8
    """How many times longer than configured probes of a peer become that finds itself slow; 0 and 1 never. 0
    to 32. Lifeguard IV-A (S = 8); memberlist."""
    stream_fraction: float = 0.5
    """Where neither the target nor a helper was heard, the target is asked over a stream after this part of
    the time between `probe_timeout_s` and the interval's end. 0 to 1; at 1 never. memberlist asks at once,
    which in a lossy network opens a connection in every fifth period."""
    lifeguard: bool = True
    """Whether slowness of this peer's own is considered: the multiplier, suspicions that shorten with
    confirmations, telling a suspect first, and blaming nobody after a stop. Off for comparisons alone."""
    gossip_interval_s: float = 0.2
    """Between two rounds of gossip while there is news, seconds. 0.01 to 10. memberlist LAN."""
    gossip_count: int = 3
    """Members that a round of gossip goes to. 1 to 16. memberlist."""
    retransmit_factor: int = 4
    """Each statement is sent factor * ceil(log10(n + 1)) times. 1 to 20. SWIM 4.1 (lambda); memberlist."""
    datagram_body_bytes_max: int = 1000
    """Encoded size of a message, bytes: 1400 less room for the envelope with key, signature, certificate and
    seal; the largest record has to fit. 850 to 1300."""
    sync_interval_s: float = 30.0
    """Between two state exchanges that this peer begins, seconds; stretched by `stretch` in large swarms.
    1 to 3600. memberlist LAN."""
    sync_reply_count_max: int = 64
    """State exchanges answered in one probe interval: a full state is megabytes in a large swarm. 1 to 4096.
    memberlist allows 128 at a time."""
    announce_interval_s: float = 30.0
    """Between two rounds of pings to remembered dead members, seconds: what heals a long partition. 1 to
    3600. serf's reconnect interval."""
    announce_count: int = 2
    """Dead members pinged in such a round. 1 to 16. foca."""
    remember_dead_s: float = 86400.0
    """How long a dead member is remembered, seconds: a partition that lasts longer needs a new join. At least
    the record lifetime. serf (24 h)."""
    record_lifetime_s: float = 300.0
    """From signing a record to its expiry, seconds; stretched by `lifetime_stretch`. It bounds how long a
    record can be replayed and a ghost be kept, yet each renewal is news to all. 5 to 86400."""
    record_interval_s_min: float = 1.0
    """Between two records caused by `set_holding`, seconds: a busy holder's queue length changes with every
    session and must not become a storm. 0 to 60."""
    clock_skew_s_max: float = 30.0
    """By how much clocks of members may differ, seconds: allowed on expiry and on incarnations ahead of now.
    Below half the record lifetime."""
    join_retry_s_min: float = 1.0
    """First wait before a join target is tried again, seconds; doubles with each failure. 0.05 to 60."""
    join_retry_s_max: float = 30.0
    """Longest such wait, seconds. serf's reconnect interval."""
    member_count_max: int = 10_000
    """Members held, the dead and the left included; more are refused. Lifeguard's largest deployments have
    above 6000. 1 to 16383."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise ConfigError(f"{name} is {value}: give a value from {low:g} to {high:g}")
        for lower, upper in _ORDERED:
            if not getattr(self, lower) <= getattr(self, upper):
                raise ConfigError(
                    f"{lower} is {getattr(self, lower)}: it may not exceed {upper}, {getattr(self, upper)}"
                )
        if not self.probe_timeout_s < self.probe_interval_s:
            raise ConfigError(
                f"probe_timeout_s is {self.probe_timeout_s}: it must lie below probe_interval_s, "
                f"{self.probe_interval_s}, to leave helpers time to answer"
            )
        if not self.clock_skew_s_max < self.record_lifetime_s / 2:
            raise ConfigError(
                f"clock_skew_s_max is {self.clock_skew_s_max}: it must lie below half of record_lifetime_s, "
                f"{self.record_lifetime_s}, or fresh records look expired"
            )

    @classmethod
    def lan(cls) -> SwimConfig:
        """One site, round trips of milliseconds: a death is known to all in about ten seconds."""
        return cls()

    @classmethod
    def wan(cls) -> SwimConfig:
        """Peers around the world: slower to notice, tolerant of round trips up to seconds."""
        return cls(
            probe_interval_s=5.0,
            probe_timeout_s=3.0,
            suspicion_factor=6,
            gossip_interval_s=0.5,
            gossip_count=4,
            sync_interval_s=60.0,
            announce_interval_s=60.0,
            announce_count=3,
            record_lifetime_s=900.0,
            record_interval_s_min=5.0,
            join_retry_s_min=2.0,
            join_retry_s_max=60.0,
        )

    @classmethod
    def local(cls) -> SwimConfig:
        """One machine over loopback: a death is known in one to two seconds."""
        return cls(
            probe_interval_s=0.2,
            probe_timeout_s=0.1,
            suspicion_factor=4,
            suspicion_max_factor=1.5,
            gossip_interval_s=0.05,
            sync_interval_s=5.0,
            announce_interval_s=5.0,
            record_lifetime_s=60.0,
            clock_skew_s_max=5.0,
            record_interval_s_min=0.2,
            join_retry_s_min=0.2,
            join_retry_s_max=5.0,
        )

    @classmethod
    def for_tests(cls) -> SwimConfig:
        """`lan()`'s pace with the slow clocks turned up, so that minutes of simulation show every timer."""
        return cls(
            sync_interval_s=10.0,
            announce_interval_s=5.0,
            remember_dead_s=600.0,
            record_lifetime_s=60.0,
            clock_skew_s_max=5.0,
            join_retry_s_max=5.0,
        )


def stretch(member_count: int) -> int:
    """How many times slower the work that costs every member something for every member becomes.

    1 up to 32 members, then one more for each doubling: memberlist's rule for push-pull.
    """
    return max(1, math.ceil(math.log2(max(1, member_count)) - 5) + 1)


def lifetime_stretch(config: SwimConfig, member_count: int) -> float:
    """How many times longer records live in a swarm of that size.

    Each renewal is told to all, so what each member has to send for it must not grow with the members: with
    more than 64 of them all renewals together cost what those of 64 do.
    """
    cost = member_count * retransmit_limit(config.retransmit_factor, member_count)
    free = _RENEWING_COUNT * retransmit_limit(config.retransmit_factor, _RENEWING_COUNT)
    return max(1.0, min(cost / free, config.remember_dead_s / config.record_lifetime_s))


def retransmit_limit(factor: int, member_count: int) -> int:
    """How often each statement is sent in a swarm of that size.

    Source: SWIM 4.1, lambda * log(n); in decimal logarithms as in memberlist.
    """
    return factor * math.ceil(math.log10(member_count + 1))


_RENEWING_COUNT = 64
_RANGES: dict[str, tuple[float, float]] = {
    "probe_interval_s": (0.05, 60),
    "probe_timeout_s": (0.01, 60),
    "helper_count": (0, 16),
    "nack_fraction": (0.1, 1),
    "suspicion_factor": (2, 20),
    "suspicion_max_factor": (1, 20),
    "health_max": (0, 32),
    "stream_fraction": (0, 1),
    "lifeguard": (0, 1),
    "gossip_interval_s": (0.01, 10),
    "gossip_count": (1, 16),
    "retransmit_factor": (1, 20),
    "datagram_body_bytes_max": (850, 1300),
    "sync_interval_s": (1, 3600),
    "sync_reply_count_max": (1, 4096),
    "announce_interval_s": (1, 3600),
    "announce_count": (1, 16),
    "remember_dead_s": (1, 30 * 86400),
    "record_lifetime_s": (5, 86400),
    "record_interval_s_min": (0, 60),
    "clock_skew_s_max": (0, 3600),
    "join_retry_s_min": (0.05, 60),
    "join_retry_s_max": (0.05, 3600),
    "member_count_max": (1, STATE_ITEMS_COUNT_MAX - 1),
}

_ORDERED = (
    ("gossip_interval_s", "probe_interval_s"),
    ("join_retry_s_min", "join_retry_s_max"),
    ("record_lifetime_s", "remember_dead_s"),
    ("probe_interval_s", "sync_interval_s"),
)

if set(_RANGES) != {field.name for field in fields(SwimConfig)}:  # a new setting without a range
    raise TypeError("every field of SwimConfig needs its range in _RANGES")
