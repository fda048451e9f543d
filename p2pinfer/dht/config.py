"""The DHT's settings, in five parts; every default has its unit and its source.

Sources by short name: [K] Kademlia, Maymounkov and Mazieres 2002; [BEP-5], [BEP-44] mainline DHT; [discv5]
Ethereum node discovery; [libp2p] go- and rust-libp2p; [hivemind] its `dht/node.py`; [RFC 6298] TCP's timer;
[OP] Optimistic Provide, INFOCOM 2024, as go-libp2p-kad-dht has it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from p2pinfer.dht.namespaces import Namespaces
from p2pinfer.errors import ConfigError
from p2pinfer.puzzle import DIFFICULTY_MAX
from p2pinfer.wire.messages.dht import CONTACTS_COUNT_MAX, PAGES_COUNT_MAX

__all__ = ["AnswerConfig", "DhtConfig", "ObservedConfig", "QueryConfig", "RecordConfig", "TableConfig"]


RECORD_SIZE_BYTES_MAX = 772
"""The largest record with its frame, as it travels; see `records.record_size_bytes`."""


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise ConfigError(f"DHT setting: {rule}")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryConfig:
    """How long a question and a lookup may take."""

    timeout_initial_s: float = 1.0
    """Wait for an answer before any round trip is known, seconds. [RFC 6298] section 2.1."""
    timeout_s_min: float = 0.05
    """Never wait less, seconds: below it a scheduler's pause looks like a loss."""
    timeout_s_max: float = 5.0
    """Never wait longer for one attempt, seconds; the whole wait of PyPI kademlia's rpcudp."""
    attempts_max: int = 3
    """Datagrams sent before a question has failed: at 10 % loss each way 3 leave 0.7 % false failures."""
    lookup_s_max: float = 30.0
    """A lookup ends after this many seconds with what it has; py-libp2p's limit ([libp2p] rust: 60)."""
    lookup_queries_max: int = 200
    """Peers asked by one lookup at most: k + O(log n) suffice (20 to 41 measured with half of all dead)."""
    lookups_count_max: int = 64
    """Lookups that run at one time; more are refused as overload."""
    keys_count_max: int = 256
    """Keys of one lookup for many."""
    quorum_count: int = 3
    """Holders that told what they have under a key of one owner before a lookup for it ends early; 0 asks all
    k nearest. One may have missed the newest; that three have is as likely as its third power. Ours."""
    sparse_factor: float = 2.5
    """How many times farther off than expected the k-th nearest may be before a lookup starts again. With a
    fifth of all peers lying it is five times; a true one with k = 20 exceeds 1.7 once in a thousand. Ours."""
    restarts_count_max: int = 2
    """... and how often it does."""
    surrounded_likelihood: float = 1e-9
    """A key is taken for surrounded when k honest peers stand as near to it less often than this. Ours."""
    early_store_likelihood: float = 0.9
    """A record is stored before the lookup is over at who is among the k nearest as likely as this. [OP]."""
    return_share: float = 0.75
    """A put is told to have ended when this share of k copies is kept. [OP]."""

    def __post_init__(self) -> None:
        _require(0 < self.timeout_s_min <= self.timeout_initial_s, "0 < timeout_s_min <= timeout_initial_s")
        _require(self.timeout_initial_s <= self.timeout_s_max, "timeout_initial_s <= timeout_s_max")
        _require(self.timeout_s_max <= self.lookup_s_max, "timeout_s_max <= lookup_s_max")
        _require(1 <= self.attempts_max <= 10, f"attempts_max is 1 to 10, not {self.attempts_max}")
        _require(self.lookup_queries_max >= 1, "lookup_queries_max is at least 1")
        _require(self.lookups_count_max >= 2, "lookups_count_max is at least 2: one is for upkeep")
        _require(self.keys_count_max >= 1, "keys_count_max is at least 1")
        _require(self.quorum_count >= 0, "quorum_count is 0 or more")
        _require(self.sparse_factor > 1, "sparse_factor is above 1")
        _require(self.restarts_count_max >= 0, "restarts_count_max is 0 or more")
        _require(0 <= self.surrounded_likelihood < 0.1, "surrounded_likelihood lies in [0, 0.1)")
        _require(0 < self.early_store_likelihood <= 1, "early_store_likelihood lies in (0, 1]")
        _require(0 < self.return_share <= 1, "return_share lies in (0, 1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableConfig:
    """Who stays in the table, and how it is kept fresh."""

    failures_replace_count: int = 2
    """Failed questions in a row after which a waiting contact takes the place; "ping twice" of [BEP-5]."""
    failures_forget_count: int = 8
    """Failed questions in a row after which a contact goes although nobody waits for its place: [K] 4.1
    keeps stale contacts of a bucket that is not full, so that a cut cable here does not empty the table."""
    backoff_s: float = 5.0
    """A contact is left alone after its first failure for this long, seconds; doubles. [hivemind]."""
    backoff_s_max: float = 600.0
    """The longest back-off, seconds."""
    check_interval_s: float = 0.05
    """At most one contact is checked with a ping in this time, seconds. [discv5]: on its own schedule, never
    as the answer to a message. Short, or a bootstrap peer has nobody to tell of while a swarm starts."""
    fresh_s: float = 900.0
    """A contact that answered within this time is not checked, seconds. [BEP-5]: 15 minutes."""
    refresh_interval_s: float = 900.0
    """A bucket without a lookup for this long is refreshed, seconds. [BEP-5]: 15 minutes ([K]: an hour)."""
    refresh_first_s: float = 5.0
    """A peer that has just joined looks for its own id again after this long, seconds; doubles up to
    `refresh_interval_s`: those who join together find each other without waiting for it. Ours."""
    bootstrap_retry_s: float = 2.0
    """Ask the bootstrap contacts again after this long without any answer, seconds; doubles up to 30 x."""
    bootstrap_gather_s: float = 0.5
    """Whoever joins waits for the other bootstrap contacts after the first answer, seconds. Ours."""
    bucket_group_count_max: int = 2
    """Contacts of one /24 (IPv4) or /48 (IPv6) in a bucket. [discv5], [libp2p]."""
    table_group_count_max: int = 10
    """Contacts of one /24 or /48 in the table. [discv5]."""
    lookup_group_count_max: int = 4
    """Contacts of one /24 or /48 among the candidates of a lookup, the nearest ones: else a few blocks of
    liars surround whoever joins. A swarm that stands in one such block keeps so many copies. [libp2p]: 2."""
    private_exempt: bool = True
    """Loopback and private addresses do not count: see `addresses.py` for why."""
    save_interval_s: float = 600.0
    """The table is written to disk at most once in this time, seconds; the first time after a tenth of it.
    The period of PyPI kademlia's `save_state_regularly`."""
    save_change_share: float = 0.125
    """... and only when this share of what was saved has changed: a quiet swarm writes nothing. Ours."""

    def __post_init__(self) -> None:
        _require(
            1 <= self.failures_replace_count <= self.failures_forget_count,
            "1 <= failures_replace_count <= failures_forget_count",
        )
        _require(0 < self.backoff_s <= self.backoff_s_max, "0 < backoff_s <= backoff_s_max")
        _require(self.check_interval_s > 0, "check_interval_s is above 0")
        _require(self.fresh_s > 0, "fresh_s is above 0")
        _require(
            0 < self.refresh_first_s <= self.refresh_interval_s, "0 < refresh_first_s <= refresh_interval_s"
        )
        _require(self.bootstrap_retry_s > 0, "bootstrap_retry_s is above 0")
        _require(self.bootstrap_gather_s >= 0, "bootstrap_gather_s is 0 or more")
        _require(self.lookup_group_count_max >= 1, "lookup_group_count_max is at least 1")
        _require(self.save_interval_s > 0, "save_interval_s is above 0")
        _require(0 < self.save_change_share <= 1, "save_change_share is above 0 and at most 1")
        _require(
            1 <= self.bucket_group_count_max <= self.table_group_count_max,
            "1 <= bucket_group_count_max <= table_group_count_max",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordConfig:
    """How much is kept for others, and how our own records stay alive."""

    ttl_s_max: float = 172_800.0
    """A record that expires later than this from now is refused, seconds. [libp2p]: 48 hours."""
    clock_skew_s: float = 3.0
    """How far the clocks of two peers may differ, seconds. [hivemind]."""
    republish_interval_s: float = 3600.0
    """Our own records are stored again after this long at most, seconds. [BEP-44]: an hour."""
    republish_share: float = 0.4
    """... and after this share of their lifetime at most: two chances before a record expires."""
    sweep_interval_s: float = 10.0
    """Expired records leave memory within this time, seconds; they are not served in between either."""
    records_count_max: int = 8192
    """Records kept in all; with what is remembered of each they take some 15 MB of Python's memory."""
    bytes_max: int = 4 << 20
    """Bytes of all records kept, as they travel: about half of what the largest would take."""
    per_key_count_max: int = 512
    """Records kept under one key: the holders of one model that this peer remembers."""
    per_owner_count_max: int = 128
    """Records kept for one owner."""
    per_group_share: float = 0.125
    """The share of all records that may come from one /24 (IPv4) or /48 (IPv6): an eighth has room for what a
    neighbour hands over, the k-th part of its records and some. Ours; the groups are those of [discv5]."""
    private_exempt: bool = True
    """Loopback and private addresses form no group: see `addresses.py` for why."""
    cached_s_max: float = 3600.0
    """A copy kept on a lookup's path lives no longer than this, seconds: by then its owner has stored the
    record again, and it may have changed. [K] section 2.3 halves a lifetime with every peer between."""
    cached_s_min: float = 1.0
    """A copy on the path that would live shorter is not kept, seconds."""
    forks_count_max: int = 128
    """Places whose two contradicting records are kept as evidence."""
    forks_per_owner_count_max: int = 4
    """... of one owner: more would prove nothing more."""
    handover_bytes_per_s: float = 32_768.0
    """Bytes of records handed to new neighbours each second, in the long run: an eighth of an upload of
    2 Mbit/s. A full store's share for one neighbour, 400 records, is through in some ten seconds. Ours."""
    handover_burst_bytes: int = 65_536
    """... and at once."""
    handover_delay_s: float = 1.0
    """Neighbours that come or go within this time are looked at together, seconds. Ours."""
    handover_waiting_count_max: int = 4096
    """Records times neighbours that wait for the budget; beyond it the owner's next store must do."""
    handover_told_count_max: int = 16_384
    """Records times neighbours that are remembered as handed over, for `republish_interval_s` each."""

    def __post_init__(self) -> None:
        _require(self.ttl_s_max > 0, "ttl_s_max is above 0")
        _require(self.clock_skew_s >= 0, "clock_skew_s is 0 or more")
        _require(self.republish_interval_s > 0, "republish_interval_s is above 0")
        _require(0 < self.republish_share < 1, "republish_share lies between 0 and 1")
        _require(self.sweep_interval_s > 0, "sweep_interval_s is above 0")
        counts = (self.per_key_count_max, self.per_owner_count_max)
        _require(
            min(counts) >= 1 and max(counts) <= self.records_count_max,
            "per_key_count_max and per_owner_count_max are 1 to records_count_max",
        )
        _require(0 < self.per_group_share <= 1, "per_group_share lies in (0, 1]")
        _require(self.bytes_max >= RECORD_SIZE_BYTES_MAX, f"bytes_max is at least {RECORD_SIZE_BYTES_MAX}")
        _require(0 < self.cached_s_min <= self.cached_s_max, "0 < cached_s_min <= cached_s_max")
        _require(
            0 <= self.forks_per_owner_count_max <= self.forks_count_max,
            "0 <= forks_per_owner_count_max <= forks_count_max",
        )
        _require(self.handover_bytes_per_s > 0, "handover_bytes_per_s is above 0")
        _require(
            self.handover_burst_bytes >= RECORD_SIZE_BYTES_MAX,
            f"handover_burst_bytes is at least {RECORD_SIZE_BYTES_MAX}: one record",
        )
        _require(self.handover_delay_s >= 0, "handover_delay_s is 0 or more")
        handover_counts = (self.handover_waiting_count_max, self.handover_told_count_max)
        _require(min(handover_counts) >= 1, "handover counts are at least 1")

    @property
    def per_group_count_max(self) -> int:
        """Records kept that came from one address group."""
        return max(1, round(self.records_count_max * self.per_group_share))


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerConfig:
    """What others can make this peer do."""

    body_size_bytes_max: int = 1000
    """Bytes of one message: 1280 of an IPv6 path's least MTU less IP, UDP and the signed envelope."""
    contacts_count: int = 30
    """Contacts in an answer: k and half as many again. With k alone, dead ones among them hide the live ones
    behind: 0.98 of the true k nearest were found with a fifth of 200 peers dead, and 1.00 with these. The
    two pages that k contacts take have room for them. Ours."""
    pages_count_max: int = 8
    """Datagrams of one answer, sent to a proved address only."""
    token_interval_s: float = 300.0
    """The token secret changes after this long, seconds, and the last is honoured as well. [BEP-5]."""
    rate_per_s: float = 50.0
    """Questions taken from one peer, each second; the rest is dropped unanswered."""
    rate_burst_count: int = 100
    """Questions taken from one peer at once."""
    rate_peers_count_max: int = 4096
    """Peers whose rate is remembered; the one silent for longest is forgotten first."""
    rate_group_per_s: float = 200.0
    """Questions taken from one /24 (IPv4) or /48 (IPv6), each second: ids cost little there. Ours."""
    rate_group_burst_count: int = 400
    """Questions taken from one /24 or /48 at once."""
    rate_private_exempt: bool = True
    """Loopback and private addresses have no limit as a group: a whole honest swarm stands in one."""

    def __post_init__(self) -> None:
        # The floor lets any single record through: it and its frame take some 800 bytes at most.
        _require(900 <= self.body_size_bytes_max <= 1200, "body_size_bytes_max is 900 to 1200")
        _require(1 <= self.pages_count_max <= PAGES_COUNT_MAX, f"pages_count_max is 1 to {PAGES_COUNT_MAX}")
        _require(self.token_interval_s > 0, "token_interval_s is above 0")
        _require(self.rate_per_s > 0, "rate_per_s is above 0")
        _require(self.rate_burst_count >= 1, "rate_burst_count is at least 1")
        _require(self.rate_peers_count_max >= 1, "rate_peers_count_max is at least 1")
        _require(self.rate_group_per_s >= self.rate_per_s, "rate_group_per_s is at least rate_per_s")
        _require(
            self.rate_group_burst_count >= self.rate_burst_count,
            "rate_group_burst_count is at least rate_burst_count",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedConfig:
    """When others' word of our own address is believed."""

    votes_min: int = 3
    """Peers that must name the same other address. discv5's implementations ask for 2 to 10."""
    majority_share: float = 0.6
    """The share of all votes that must be for it: a lead of one among few is no majority. Ours."""
    window_s: float = 900.0
    """A vote counts for this long, seconds: the time in which every contact is checked once."""
    votes_count_max: int = 64
    """Votes kept; the oldest goes first."""

    def __post_init__(self) -> None:
        _require(2 <= self.votes_min <= self.votes_count_max, "votes_min is 2 to votes_count_max")
        _require(0.5 < self.majority_share <= 1, "majority_share is above 0.5 and at most 1")
        _require(self.window_s > 0, "window_s is above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class DhtConfig:
    """All settings of the DHT."""

    k: int = 20
    """Contacts in a bucket, peers that a lookup finds, copies of a record. [K] section 2.2."""
    alpha: int = 3
    """Questions of a lookup in flight while it comes nearer. [K] section 2.3."""
    disjoint: int = 1
    """Paths of a lookup that share no peer: one liar leads one astray. S/Kademlia, section 5: 4 to 8 among
    strangers. One is enough where all are members of a closed swarm, and asks the fewest."""
    query: QueryConfig = field(default_factory=QueryConfig)
    table: TableConfig = field(default_factory=TableConfig)
    record: RecordConfig = field(default_factory=RecordConfig)
    answer: AnswerConfig = field(default_factory=AnswerConfig)
    namespaces: Namespaces = field(default_factory=Namespaces)
    """Which records may stand under which keys: the built-in namespaces, and those of the application."""
    observed: ObservedConfig = field(default_factory=ObservedConfig)
    id_difficulty: int = 0
    """The work that a peer id has in it, 0 to 24 zero bits: the swarm's, as in its invites (`puzzle.py`)."""

    def __post_init__(self) -> None:
        _require(1 <= self.k <= CONTACTS_COUNT_MAX, f"k is 1 to {CONTACTS_COUNT_MAX}, not {self.k}")
        _require(1 <= self.alpha <= self.k, f"alpha is 1 to k, not {self.alpha}")
        _require(1 <= self.disjoint <= self.k, f"disjoint is 1 to k, not {self.disjoint}")
        _require(
            0 <= self.id_difficulty <= DIFFICULTY_MAX,
            f"id_difficulty is 0 to {DIFFICULTY_MAX}, not {self.id_difficulty}",
        )
        _require(
            self.k <= self.answer.contacts_count <= CONTACTS_COUNT_MAX,
            f"answer.contacts_count is k to {CONTACTS_COUNT_MAX}, not {self.answer.contacts_count}",
        )

    @classmethod
    def lan(cls) -> DhtConfig:
        """Peers within some milliseconds of each other."""
        return cls(query=QueryConfig(timeout_initial_s=0.25, timeout_s_max=1.0, lookup_s_max=10.0))

    @classmethod
    def wan(cls) -> DhtConfig:
        """Peers all over the world: the defaults."""
        return cls()

    @classmethod
    def for_tests(cls) -> DhtConfig:
        """As `lan`, with upkeep quick enough to be seen within a minute of simulated time."""
        table = TableConfig(
            backoff_s=1.0, backoff_s_max=30.0, fresh_s=60.0, refresh_interval_s=120.0, save_interval_s=20.0
        )
        return dataclasses.replace(cls.lan(), table=table, record=RecordConfig(sweep_interval_s=1.0))
