"""How a node's settings become those of its cores."""

from __future__ import annotations

from p2pinfer.config import NodeConfig, Profile
from p2pinfer.runtime.composition import _core_config


def test_around_the_world_every_wait_is_longer() -> None:
    lan, wan = (_core_config(NodeConfig(profile=profile)) for profile in (Profile.LAN, Profile.WAN))
    assert wan.swim.probe_timeout_s > lan.swim.probe_timeout_s
    assert wan.entry.open_timeout_s >= 2 * lan.entry.open_timeout_s
    assert wan.entry.probe_timeout_s >= 2 * lan.entry.probe_timeout_s
    assert wan.entry.standing == lan.entry.standing


def test_without_reuse_nothing_is_remembered() -> None:
    assert _core_config(NodeConfig(reuse="off")).entry.parked_count_max == 0
    assert not _core_config(NodeConfig(reuse="prompts")).entry.reuse_answers
