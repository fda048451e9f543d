"""How an answer is cut into pages, each of which fits one datagram.

Sizes are counted, not tried: every part is measured once with the codec and the sum is kept below the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from p2pinfer.ids import Contact, Endpoint
from p2pinfer.wire.codec import encoded_size
from p2pinfer.wire.messages.dht import RECORDS_COUNT_MAX, DhtRecord
from p2pinfer.wire.scalars import packed_host

__all__ = ["Page", "contact_size_bytes", "frame_size_bytes", "pack", "question_padding", "record_groups"]

_FRAME_SIZE_BYTES = 37
"""An upper bound on the encoding of a FoundNodes without contacts, records and the asker's host."""
_KEY_SIZE_BYTES = 34
_STORE_FRAME_SIZE_BYTES = 34
"""An upper bound on the encoding of a StoreRecords without records."""
_CONTACT_FRAME_SIZE_BYTES = 40
"""The encoding of a contact without its host: peer id, port and headers."""


@dataclass(slots=True)
class Page:
    """What one datagram of an answer carries."""

    contacts: list[Contact] = field(default_factory=list)
    records: list[DhtRecord] = field(default_factory=list)
    size_bytes: int = 0


def contact_size_bytes(contact: Contact) -> int:
    """An upper bound on the bytes a contact takes in a message: 44 with an address of IPv4."""
    host = packed_host(contact.endpoint.host)
    return _CONTACT_FRAME_SIZE_BYTES + (len(host) if isinstance(host, bytes) else _text_size_bytes(host))


def frame_size_bytes(asker: Endpoint) -> int:
    """An upper bound on the bytes of a FoundNodes that carries nothing."""
    return _FRAME_SIZE_BYTES + _text_size_bytes(asker.host)


def pack(
    contacts: Sequence[Contact],
    records: Sequence[DhtRecord],
    size_bytes_max: int,
    pages_count_max: int,
    *,
    records_first: bool = False,
) -> tuple[list[Page], bool]:
    """Cut an answer into pages: contacts first, nearest first, since a lookup cannot go on without them.

    Args:
        contacts: Nearest first.
        records: In any order.
        size_bytes_max: Room for both on one page, its frame not counted.
        pages_count_max: At least 1.
        records_first: The asker wants the records and no more pages than they take.

    Returns:
        At least one page, and whether something did not fit.
    """
    pages = [Page()]

    def page_for(size_bytes: int) -> Page | None:
        page = pages[-1]
        if page.size_bytes + size_bytes > size_bytes_max:
            if len(pages) == pages_count_max or size_bytes > size_bytes_max:
                return None
            pages.append(page := Page())
        page.size_bytes += size_bytes
        return page

    def add_contacts() -> bool:
        fit = [(contact, page_for(contact_size_bytes(contact))) for contact in contacts]
        for contact, page in fit:
            if page is not None:
                page.contacts.append(contact)
        return all(page is not None for _, page in fit)

    def add_records() -> bool:
        fit = [(record, page_for(encoded_size(record) + 2)) for record in records]
        for record, page in fit:
            if page is not None:
                page.records.append(record)
        return all(page is not None for _, page in fit)

    if records_first:
        has_all, has_everybody = add_records(), add_contacts()
    else:
        has_everybody, has_all = add_contacts(), add_records()
    return pages, not (has_all and has_everybody)


def _text_size_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def question_padding(size_bytes_max: int, keys_count: int) -> bytes:
    """The zeros that let an answer to a peer without a token take a whole datagram."""
    # 46: what the rest of the question takes, and a little more.
    return bytes(max(0, size_bytes_max - 46 - _KEY_SIZE_BYTES * keys_count))


def record_groups(records: Sequence[DhtRecord], size_bytes_max: int) -> list[list[DhtRecord]]:
    """Cut records into groups that one StoreRecords takes each; a single record always fits."""
    groups: list[list[DhtRecord]] = []
    room_bytes = 0
    for record in records:
        size_bytes = encoded_size(record) + 2
        if not groups or size_bytes > room_bytes or len(groups[-1]) == RECORDS_COUNT_MAX:
            groups.append([])
            room_bytes = size_bytes_max - _STORE_FRAME_SIZE_BYTES
        groups[-1].append(record)
        room_bytes -= size_bytes
    return groups
