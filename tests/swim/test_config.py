"""Settings are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from p2pinfer.errors import ConfigError
from p2pinfer.swim.config import SwimConfig, lifetime_stretch, retransmit_limit
from p2pinfer.swim.suspicion import suspicion_s_min


@pytest.mark.parametrize("preset", [SwimConfig.lan, SwimConfig.wan, SwimConfig.local, SwimConfig.for_tests])
def test_presets_hold_their_own_rules(preset: Any) -> None:
    assert preset() == preset()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"probe_interval_s": 0.0}, "probe_interval_s"),
        ({"probe_interval_s": float("nan")}, "probe_interval_s"),
        ({"probe_timeout_s": 1.0}, "probe_timeout_s is 1.0: it must lie below probe_interval_s"),
        ({"gossip_interval_s": 2.0}, "gossip_interval_s is 2.0: it may not exceed probe_interval_s"),
        ({"member_count_max": 20000}, "member_count_max is 20000: give a value from 1 to 16383"),
        ({"datagram_body_bytes_max": 1500}, "datagram_body_bytes_max"),
        ({"record_lifetime_s": 50.0}, "clock_skew_s_max"),
        ({"remember_dead_s": 100.0}, "record_lifetime_s"),
        ({"join_retry_s_min": 40.0}, "join_retry_s_min"),
        ({"suspicion_factor": 1}, "suspicion_factor"),
    ],
)
def test_a_wrong_setting_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        SwimConfig(**changes)
    assert "\n" not in str(caught.value)


def test_on_one_machine_a_death_is_a_matter_of_a_second() -> None:
    local = SwimConfig.local()
    assert local.probe_interval_s + suspicion_s_min(local, 10) <= 1.2
    assert local.probe_interval_s + suspicion_s_min(local, 10) * local.suspicion_max_factor <= 1.5


def test_renewals_of_all_together_cost_each_member_the_same_from_64_members_on() -> None:
    lan = SwimConfig.lan()

    def cost(member_count: int) -> float:
        renewals_per_s = member_count / (lan.record_lifetime_s * lifetime_stretch(lan, member_count))
        return renewals_per_s * retransmit_limit(lan.retransmit_factor, member_count)

    assert lifetime_stretch(lan, 10) == lifetime_stretch(lan, 64) == 1
    assert [cost(count) for count in (100, 1000, 2000)] == pytest.approx([cost(64)] * 3)
    assert lan.record_lifetime_s * lifetime_stretch(lan, 10**6) == lan.remember_dead_s
