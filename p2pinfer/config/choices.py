"""What a setting may be where it is one of a few words, and the bounds of those that are not."""

from __future__ import annotations

import enum

__all__ = [
    "ACCURACIES",
    "ANY_HOSTS",
    "BALANCERS",
    "CACHE_SIZE_BYTES_MIN",
    "CHOICES",
    "DEFAULT_PORT",
    "ENGINES",
    "ID_DIFFICULTY_MAX",
    "LOG_LEVELS",
    "MODEL_SIZE_BYTES_MAX",
    "NAME_SIZE_BYTES_MAX",
    "REUSES",
    "THREADS_COUNT_MAX",
    "Profile",
]

DEFAULT_PORT = 7946
"""The port of memberlist, whose users have opened it in their firewalls for SWIM already."""

ANY_HOSTS = ("0.0.0.0", "::")
"""Hosts that mean every interface: one can listen there, and nobody can send there."""

THREADS_COUNT_MAX = 1024
ID_DIFFICULTY_MAX = 24
"""As `puzzle.DIFFICULTY_MAX`, which says what it costs."""
CACHE_SIZE_BYTES_MIN = 1 << 20
NAME_SIZE_BYTES_MAX = 63
"""As in `PeerRecord.name`, where it travels; the length of a DNS label."""
MODEL_SIZE_BYTES_MAX = 128
"""As in `Holding.model`, where the name travels."""
REUSES = ("all", "prompts", "off")
"""What of earlier sessions a new one may go on from."""
ENGINES = ("auto", "onnx", "numpy")
"""The engines that can be asked for by name."""
ACCURACIES = ("int8", "int8-fast", "float32")
"""What activations are rounded to where the engine onnx multiplies them."""
LOG_LEVELS = ("debug", "info", "warning", "error")
BALANCERS = (
    "round_robin",
    "weighted_round_robin",
    "least_connections",
    "least_latency",
    "peak_latency",
    "power_of_two",
    "consistent_hash",
    "client_address",
    "resource_aware",
    "adaptive",
)
"""Who of equal holders takes a session, as in `inference.balancing.BALANCERS`."""
CHOICES = {
    "engine": ENGINES,
    "reuse": REUSES,
    "balancer": BALANCERS,
    "accuracy": ACCURACIES,
    "log_level": LOG_LEVELS,
}
"""By field that takes one of a few words: which."""


class Profile(enum.Enum):
    """Which presets of timeouts and intervals the cores take."""

    LOCAL = "local"
    """All peers on one machine: round trips below a millisecond."""
    LAN = "lan"
    """One local network, as memberlist's DefaultLANConfig."""
    WAN = "wan"
    """Peers across the internet, as memberlist's DefaultWANConfig."""
