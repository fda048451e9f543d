import pytest

from p2pinfer.dht.config import AnswerConfig, DhtConfig, QueryConfig, RecordConfig, TableConfig
from p2pinfer.errors import ConfigError


def test_settings_that_contradict_each_other_are_refused_by_name() -> None:
    for make, message in (
        (lambda: DhtConfig(k=0), "k is 1 to"),
        (lambda: DhtConfig(k=2), "alpha is 1 to k"),
        (lambda: DhtConfig(answer=AnswerConfig(contacts_count=10)), "contacts_count"),
        (lambda: QueryConfig(timeout_s_min=2.0), "timeout_s_min"),
        (lambda: TableConfig(bucket_group_count_max=20), "bucket_group_count_max"),
        (lambda: TableConfig(bootstrap_gather_s=-1.0), "bootstrap_gather_s"),
        (lambda: TableConfig(lookup_group_count_max=0), "lookup_group_count_max"),
        (lambda: RecordConfig(republish_share=1.0), "republish_share"),
        (lambda: RecordConfig(per_group_share=0.0), "per_group_share"),
        (lambda: RecordConfig(per_owner_count_max=9000), "per_owner_count_max"),
        (lambda: RecordConfig(bytes_max=100), "bytes_max"),
        (lambda: RecordConfig(cached_s_min=7200.0), "cached_s_min"),
        (lambda: RecordConfig(forks_per_owner_count_max=200), "forks_per_owner_count_max"),
        (lambda: RecordConfig(handover_burst_bytes=100), "handover_burst_bytes"),
        (lambda: RecordConfig(handover_bytes_per_s=0.0), "handover_bytes_per_s"),
        (lambda: RecordConfig(handover_waiting_count_max=0), "handover counts"),
        (lambda: AnswerConfig(body_size_bytes_max=1300), "body_size_bytes_max"),
    ):
        with pytest.raises(ConfigError, match=message):
            make()
    assert DhtConfig.wan() == DhtConfig()
    assert DhtConfig.lan().query.timeout_initial_s < DhtConfig.wan().query.timeout_initial_s
