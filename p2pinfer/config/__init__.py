"""The settings of a node: read from a TOML file and from flags, checked once, then never changed."""

from __future__ import annotations

from p2pinfer.config.choices import ACCURACIES, ANY_HOSTS, BALANCERS, DEFAULT_PORT, ENGINES, Profile
from p2pinfer.config.loading import flag_of, load_config, node_config
from p2pinfer.config.node import NodeConfig

__all__ = [
    "ACCURACIES",
    "ANY_HOSTS",
    "BALANCERS",
    "DEFAULT_PORT",
    "ENGINES",
    "NodeConfig",
    "Profile",
    "flag_of",
    "load_config",
    "node_config",
]
