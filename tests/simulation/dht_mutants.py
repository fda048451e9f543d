"""Small faults for the DHT: each must be noticed by a test of it."""

from __future__ import annotations

from tests.simulation.mutants import Mutant

__all__ = ["DHT_MUTANTS"]

_ADDRESSES = "p2pinfer/dht/addresses.py"
_ANSWERS = "p2pinfer/dht/answers.py"
_ASKING = "p2pinfer/dht/asking.py"
_COPIES = "p2pinfer/dht/copies.py"
_CONTACTS = "p2pinfer/dht/contacts.py"
_CORE = "p2pinfer/dht/core.py"
_GATHERING = "p2pinfer/dht/gathering.py"
_LOOKUP = "p2pinfer/dht/lookup.py"
_QUERIES = "p2pinfer/dht/queries.py"
_QUOTAS = "p2pinfer/dht/quotas.py"
_RECORDS = "p2pinfer/dht/records.py"
_SEARCHES = "p2pinfer/dht/searches.py"
_SIZE = "p2pinfer/dht/network_size.py"
_STORE = "p2pinfer/dht/store.py"
_STORING = "p2pinfer/dht/storing.py"
_TABLE = "p2pinfer/dht/table.py"
_TOKENS = "p2pinfer/dht/tokens.py"
_UPKEEP = "p2pinfer/dht/upkeep.py"

DHT_MUTANTS = (
    Mutant(
        "an answer counts from anybody",
        _ASKING,
        "or query.to.peer not in (None, sender.peer):",
        "or False:",
    ),
    Mutant(
        "an answer may have more pages than it says",
        _ASKING,
        "if message.page >= message.page_count:",
        "if False:",
    ),
    Mutant(
        "an answer may tell of any number",
        _ASKING,
        "told = message.contacts[: max(0, count_max - query.contacts_count)]",
        "told = message.contacts",
    ),
    Mutant(
        "records of other keys are taken",
        _ASKING,
        "tuple(record for record in message.records if record.key in query.keys)",
        "tuple(message.records)",
    ),
    Mutant(
        "a question is never given up",
        _ASKING,
        "if query.attempts >= self._config.query.attempts_max:",
        "if False:",
    ),
    Mutant(
        "repetitions follow as quickly as the first",
        _QUERIES,
        "query.timeout_s * 2.0 ** (query.attempts - 1)",
        "query.timeout_s",
    ),
    Mutant(
        "private addresses are believed from afar",
        _ADDRESSES,
        "and how_far >= teller_reach",
        "",
    ),
    Mutant(
        "an unproved address gets whole answers",
        _ANSWERS,
        "size_bytes_max = min(size_bytes_max, encoded_size(message))",
        "pass",
    ),
    Mutant(
        "everybody tells of the same contacts",
        _ANSWERS,
        "        self._rng.shuffle(rest)\n",
        "",
    ),
    Mutant(
        "records are kept for whoever shows no token",
        _ANSWERS,
        "if not self._issuer.is_good(message.token, sender, now):",
        "if False:",
    ),
    Mutant(
        "a token is good for any address",
        _TOKENS,
        '(contact.peer or b"") + str(contact.endpoint).encode()',
        '(contact.peer or b"")',
    ),
    Mutant(
        "token secrets never change",
        _TOKENS,
        "self._last_secret, self._secret = self._secret, self._rng.randbytes(32)",
        "pass",
    ),
    Mutant("a failed peer is taken back", _LOOKUP, "        self._failed.add(peer)\n", ""),
    Mutant(
        "any number of peers is believed at one address",
        _LOOKUP,
        "if peer not in ids and len(ids) >= _IDS_PER_ENDPOINT_MAX:",
        "if False:",
    ),
    Mutant(
        "those that did not answer are found",
        _LOOKUP,
        "for node in nodes if self._asked.get(node.id) is _Asked.ANSWERED)",
        "for node in nodes)",
    ),
    Mutant(
        "a lookup ends with the nearest answer",
        _LOOKUP,
        "for path in self._paths for node in path.candidates.nearest\n",
        "for path in self._paths for node in path.candidates.nearest[:1]\n",
    ),
    Mutant(
        "a path believes what another was told",
        _LOOKUP,
        "path = self._asked_by.get(teller) if teller is not None else None",
        "path = self._paths[0]",
    ),
    Mutant("a slow peer holds up the others", _LOOKUP, "self._settle(peer, _Asked.SLOW)", "pass"),
    Mutant("stalled lookups stay narrow", _LOOKUP, "window = config.k if has_stalled else", "window ="),
    Mutant(
        "hidden neighbourhoods are not looked for again",
        _SEARCHES,
        "if not lookup.is_sparse(expected):",
        "if True:",
    ),
    Mutant(
        "surrounded keys are taken as they are",
        _SEARCHES,
        "or not self._is_surrounded(lookup):",
        "or True:",
    ),
    Mutant(
        "a search has no end",
        _SEARCHES,
        "if running.give_up_at > now:",
        "if True:",
    ),
    Mutant(
        "untimely records are found",
        _SEARCHES,
        "[each for each in page.records if is_timely(each, config.record, now)]",
        "list(page.records)",
    ),
    Mutant(
        "a putter near the key keeps no copy",
        _STORING,
        "return nearer < self._config.k",
        "return False",
    ),
    Mutant(
        "refused copies count as kept",
        _COPIES,
        'if code == "stored":',
        "if True:",
    ),
    Mutant(
        "the far future is near enough", _RECORDS, " and record.expires_ms <= (now + longest_s) * 1000", ""
    ),
    Mutant(
        "the first record of a get stands",
        _GATHERING,
        "newest(under_key, record)",
        "pass",
    ),
    Mutant(
        "one lookup tells the size of the network",
        _SIZE,
        "_READY_COUNT = 5",
        "_READY_COUNT = 1",
    ),
    Mutant(
        "whoever asks is taken for a contact unproved",
        _CORE,
        "if self._answers.is_proved(sender, message, now):",
        "if True:",
    ),
    Mutant(
        "a peer that joined asks its entries no more",
        _UPKEEP,
        "self._bootstrap_at = now + (self._config.refresh_interval_s if self.is_joined else retry_s)",
        "self._bootstrap_at = None",
    ),
    Mutant("untimely records are kept", _STORE, "if not is_timely(record, self._config, now):", "if False:"),
    Mutant(
        "an old record replaces a new one",
        _RECORDS,
        "return Standing.NEWER if record.sequence > known.sequence else Standing.OLDER",
        "return Standing.NEWER",
    ),
    Mutant(
        "one network block may fill a bucket",
        _TABLE,
        "bucket.groups[group] < limits.bucket_group_count_max",
        "True",
    ),
    Mutant(
        "one network block may fill a table",
        _TABLE,
        "and self._groups[group] < limits.table_group_count_max",
        "",
    ),
    Mutant(
        "working contacts give way to new ones",
        _TABLE,
        "return contact.answered_at is None or contact.is_stale or has_failed",
        "return True",
    ),
    Mutant(
        "questions that fail together all count",
        _TABLE,
        "if known is None or now < known.retry_at or",
        "if known is None or",
    ),
    Mutant(
        "a wrong address told of a contact pushes it out",
        _TABLE,
        " or known.contact.endpoint != contact.endpoint:",
        ":",
    ),
    Mutant(
        "others are told of those that never answered",
        _CONTACTS,
        "return self.answered_at is not None and not self.failures",
        "return not self.failures",
    ),
    Mutant(
        "one network block may fill a store",
        _QUOTAS,
        "(grouped, limits.per_group_count_max)",
        "(grouped, 1 << 60)",
    ),
)
"""Names say what goes wrong; `old` is there exactly once."""
