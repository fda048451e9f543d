"""The bookkeeping of probes and errands."""

from __future__ import annotations

from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.probe import Errand, Probe, Prober
from tests.swim.swarm import contact, peer_id

LAN = SwimConfig.lan()


def begun(prober: Prober, index: int, now: float, *, blames: bool = True) -> Probe:
    probe = prober.begin(contact(index), 1, now, blames=blames)
    assert probe is not None
    return probe


def test_helpers_are_due_after_the_timeout_and_failure_after_the_interval() -> None:
    prober = Prober(LAN, 0)
    probe = begun(prober, 1, 10.0)
    assert prober.deadline == 10.5
    assert prober.due_for_helpers(10.4) == []
    assert prober.due_for_helpers(10.5) == [probe]
    probe.helpers = [peer_id(2)]
    assert prober.due_for_helpers(10.6) == []
    assert prober.deadline == 10.75
    assert prober.due_for_stream(10.74) == []
    assert prober.due_for_stream(10.75) == [probe]
    assert prober.due_for_stream(10.8) == []
    assert prober.deadline == 11.0
    assert prober.take_failed(10.9) == []
    assert prober.take_failed(11.0) == [probe]
    assert prober.deadline is None


def test_an_ack_counts_only_from_the_target_and_once() -> None:
    prober = Prober(LAN, 0)
    probe = begun(prober, 1, 0.0)
    assert prober.on_ack(probe.sequence, peer_id(2)) is None
    assert prober.on_ack(probe.sequence + 1, peer_id(1)) is None
    assert prober.on_ack(probe.sequence, peer_id(1)) is probe
    assert prober.on_ack(probe.sequence, peer_id(1)) is None


def test_indirect_acks_and_nacks_count_only_from_helpers_that_were_asked() -> None:
    prober = Prober(LAN, 0)
    probe = begun(prober, 1, 0.0)
    assert prober.on_indirect_ack(probe.sequence, peer_id(2)) is None
    assert not prober.on_nack(probe.sequence, peer_id(2))
    probe.helpers = [peer_id(2), peer_id(3)]
    assert prober.on_nack(probe.sequence, peer_id(3))
    assert not prober.on_nack(probe.sequence, peer_id(4))
    assert probe.nacks == {peer_id(3)}
    assert prober.on_indirect_ack(probe.sequence, peer_id(2)) is probe
    assert prober.take_failed(9.0) == []


def test_a_target_is_not_probed_twice_at_once_and_probes_are_bounded() -> None:
    prober = Prober(LAN, 0)
    begun(prober, 1, 0.0)
    assert prober.begin(contact(1), 1, 0.1) is None
    started = [prober.begin(contact(index), 1, 0.0) for index in range(2, 200)]
    assert sum(probe is not None for probe in started) == 63


def test_a_probe_without_blame_asks_no_helpers() -> None:
    prober = Prober(LAN, 0)
    begun(prober, 1, 0.0, blames=False)
    assert prober.due_for_helpers(0.6) == []
    assert prober.deadline == 1.0


def test_an_errand_ends_with_an_ack_or_is_nacked_once() -> None:
    prober = Prober(LAN, 0)
    answered = prober.begin_errand(contact(1), 77, peer_id(2), 0.0)
    silent = prober.begin_errand(contact(1), 78, peer_id(3), 0.0)
    assert answered is not None
    assert silent is not None
    done = prober.on_ack(answered, peer_id(2))
    assert isinstance(done, Errand)
    assert (done.requester, done.requester_sequence) == (contact(1), 77)
    assert prober.on_ack(silent, peer_id(2)) is None
    assert prober.deadline == 0.4
    assert [each.requester_sequence for each in prober.due_for_nack(0.4)] == [78]
    assert prober.due_for_nack(0.5) == []
    assert isinstance(prober.on_ack(silent, peer_id(3)), Errand), "a late answer still helps"


def test_errands_are_bounded_and_forgotten() -> None:
    prober = Prober(LAN, 0)
    begun_count = sum(
        prober.begin_errand(contact(1), index, peer_id(2), 0.0) is not None for index in range(1000)
    )
    assert begun_count == prober.errand_count == 256
    prober.due_for_nack(1.0)
    assert prober.errand_count == 0


def test_abandoned_probes_blame_nobody() -> None:
    prober = Prober(LAN, 0)
    begun(prober, 1, 0.0)
    prober.abandon()
    assert prober.take_failed(99.0) == []
