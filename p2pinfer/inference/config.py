"""Settings of the two inference cores: the hop that serves sessions and the entry peer that opens them."""

from __future__ import annotations

from dataclasses import dataclass, field

from p2pinfer.errors import ConfigError
from p2pinfer.inference.standing import StandingConfig

__all__ = ["EntryConfig", "HopConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HopConfig:
    """How a hop admits, batches and forgets sessions."""

    memory_size_bytes_max: int = 1 << 30
    """What all sessions together may reserve: caches, and outputs kept for replay. From 64 MiB up."""
    session_count_max: int = 4096
    """Sessions open at once, however little each reserves: one takes some 10 kB besides. 1 to 100000."""
    batch_count_max: int = 32
    """Sessions in one batch. 1 to 1024; beyond some tens a CPU gains nothing."""
    prefill_positions_max: int = 512
    """Prompt positions that may join the decode steps of one batch, so that these wait a bounded time.
    64 to 8192. Source: chunked prefill of Sarathi-Serve, section 4."""
    run_count_max: int = 32
    """Single positions of one session that are computed in a row where a replay has brought them: the others
    wait for as long. 1 to 1024."""
    idle_timeout_s: float = 120.0
    """A session that nobody mentions for so long is dropped. 10 to 3600 s."""
    orphan_timeout_s: float = 15.0
    """How long a session outlives the connection of the peer that opened it. 1 to 600 s."""
    parked_timeout_s: float = 600.0
    """How long the cache of a session that is over is kept for a chat's next turn, while nobody else needs
    the room. 1 to 86400 s. Ollama keeps a model for 5 minutes, and people read longer than that."""
    retry_after_s: float = 2.0
    """The least that a refused entry peer is told to wait. 0.1 to 60 s."""
    retry_after_max_s: float = 60.0
    """The most: sessions seldom run to their limit. 1 to 600 s."""

    def __post_init__(self) -> None:
        for name in (
            "memory_size_bytes_max",
            "session_count_max",
            "batch_count_max",
            "prefill_positions_max",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if self.retry_after_s > self.retry_after_max_s:
            raise ConfigError(
                f"retry_after_s is {self.retry_after_s}, but must not exceed "
                f"retry_after_max_s, {self.retry_after_max_s}"
            )
        if self.orphan_timeout_s > self.idle_timeout_s:
            raise ConfigError(
                f"orphan_timeout_s is {self.orphan_timeout_s}, but must not exceed "
                f"idle_timeout_s, {self.idle_timeout_s}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryConfig:
    """How an entry peer opens sessions, watches them and mends them."""

    prefill_chunk_positions: int = 128
    """Positions of one prompt step: chunks overlap along the chain. 16 to 4096. It is part of what a replay
    repeats, so it never changes within a session."""
    open_timeout_s: float = 2.0
    """How long a hop may take to answer OpenSession. 0.2 to 30 s. A live hop answers in a round trip,
    for its engine has a thread of its own."""
    step_timeout_min_s: float = 1.0
    """The shortest time without a token after which hops are asked whether they live. 0.1 to 30 s."""
    step_timeout_factor: float = 10.0
    """The same, as a multiple of the time that the session's tokens took so far. 2 to 100."""
    prefill_timeout_s: float = 5.0
    """The same, while the prompt is computed, and the longest at any time: asking is cheap, and a hop at
    work says so. 1 to 60 s."""
    probe_timeout_s: float = 1.0
    """How long a hop may take to say that it lives. 0.1 to 10 s."""
    slow_count: int = 3
    """How often a late token must be found waiting for one and the same hop before it is replaced by one that
    promises to be faster by `step_timeout_factor`. 1 to 1000."""
    engine_timeout_s: float = 120.0
    """How long a hop that says it is at work may take for one step before another holder is tried. 10 to
    3600 s: a slow engine is no dead one, and who takes its place begins from nothing."""
    recovery_count_max: int = 8
    """Recoveries in a row without one new token before the session is given up. 1 to 100."""
    standing: StandingConfig = field(default_factory=StandingConfig)
    """How holders are chosen among equals, and what is made of how they behave."""
    reuse_positions_min: int = 16
    """Positions that a chat's next turn must share with a parked session before it goes on from it: fewer are
    computed sooner than asked for. 1 to 4096."""
    reuse_answers: bool = True
    """Whether the next turn goes on behind an answer as well as behind prompts. An answer's positions were
    computed one by one, with other last bits than the same tokens in a prompt. False computes the last answer
    again, so that with an engine that does not care how prompts are cut no text depends on what was kept."""
    parked_timeout_s: float = 600.0
    """How long an ended session may be gone on from; as long as hops keep its cache. 1 to 86400 s."""
    parked_count_max: int = 256
    """Sessions that are over and remembered, to go on from. 0 to 100000; 0 switches prefix reuse off."""
    blame_s: float = 15.0
    """How long a session avoids a hop that failed it. 1 to 600 s. Source: Petals bans for 15 s."""

    def __post_init__(self) -> None:
        if not 1 <= self.prefill_chunk_positions <= 4096:
            raise ConfigError(
                f"prefill_chunk_positions is {self.prefill_chunk_positions}, but must lie in 1 to 4096"
            )
        if self.step_timeout_factor < 1:
            raise ConfigError(f"step_timeout_factor is {self.step_timeout_factor}, but must be at least 1")
