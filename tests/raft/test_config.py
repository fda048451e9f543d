"""The settings of Raft: presets are valid, ranges and relations are checked and named."""

from __future__ import annotations

from typing import Any

import pytest

from p2pinfer.errors import ConfigError
from p2pinfer.raft.config import RaftConfig


def test_the_presets_keep_their_own_rules() -> None:
    assert RaftConfig.lan() == RaftConfig()
    assert RaftConfig.wan().election_timeout_s > RaftConfig.lan().election_timeout_s
    assert RaftConfig.for_tests().append_bytes_max < RaftConfig.lan().append_bytes_max


def test_the_safe_choices_are_the_defaults() -> None:
    config = RaftConfig()
    assert config.pre_vote
    assert config.check_quorum
    assert not config.lease_reads


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"election_timeout_s": float("nan")}, "election_timeout_s"),
        ({"election_timeout_s": 0.01}, "election_timeout_s"),
        ({"heartbeat_interval_s": 0.5}, "heartbeat_interval_s is 0.5: 3 times that"),
        ({"hint_delay_s_max": 2.0}, "hint_delay_s_max"),
        ({"commit_notice_s": 0.2}, "commit_notice_s"),
        ({"append_bytes_max": 1 << 20, "inflight_bytes_max": 1 << 19}, "append_bytes_max"),
        ({"uncommitted_bytes_max": 1000}, "proposal_size_bytes_max"),
        ({"proposal_timeout_s": 1.5}, "election_timeout_s"),
        ({"read_timeout_s": 0.5}, "election_timeout_s"),
        ({"lease_reads": True, "check_quorum": False}, "lease_reads"),
        ({"snapshot_chunk_bytes": 2 << 20}, "snapshot_chunk_bytes"),
    ],
)
def test_what_cannot_work_is_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        RaftConfig(**settings)
