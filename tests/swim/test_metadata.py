"""What peers say beyond their records: carried by reference, read over a stream."""

from __future__ import annotations

import pytest

from p2pinfer.effects import Misbehaved, Notify
from p2pinfer.errors import LocalProtocolError, Overloaded, PeerUnreachable
from p2pinfer.swim.core import SwimCore
from p2pinfer.swim.metadata import ANSWER_TIMEOUT_S, KEPT_SIZE_BYTES_MAX, MetadataBook, digest_of
from p2pinfer.swim.news import MetadataFailed, MetadataRead
from p2pinfer.wire.codec import encoded_size
from p2pinfer.wire.messages.records import METADATA_SIZE_BYTES_MAX
from p2pinfer.wire.messages.swim import Gossip, MetadataReply, MetadataRequest
from tests.swim.swarm import contact, make_core, news, peer_id, record, sent

LARGE = bytes(range(256)) * 200  # 51,200 bytes: a hundred times what memberlist takes


def pair() -> tuple[SwimCore, SwimCore]:
    reader, owner = make_core(0), make_core(1)
    owner.set_metadata(LARGE, 0.0)
    owner.tick(5.0)
    reader.receive(contact(1), Gossip(records=(owner.record,)), 5.0)
    return reader, owner


def test_metadata_larger_than_512_bytes_is_read_over_a_stream() -> None:
    # memberlist #191: there it is refused. The record grows by its digest alone.
    reader, owner = pair()
    assert encoded_size(owner.record) < encoded_size(make_core(1).record) + 40
    [(to, request)] = sent(reader.read_metadata(peer_id(1), 5.0), MetadataRequest)
    [(back, reply)] = sent(owner.receive(contact(0), request, 5.0), MetadataReply)
    assert (to, back) == (contact(1), contact(0))
    assert news(reader.receive(contact(1), reply, 5.1)) == [MetadataRead(peer_id(1), LARGE)]
    again = reader.read_metadata(peer_id(1), 5.2)
    assert again == [Notify(MetadataRead(peer_id(1), LARGE))], "it is kept: nobody is asked again"


def test_other_metadata_than_was_signed_is_misbehaviour() -> None:
    reader, owner = pair()
    reader.read_metadata(peer_id(1), 5.0)
    false = MetadataReply(digest=owner.record.metadata_digest, data=b"something else")
    effects = reader.receive(contact(1), false, 5.1)
    assert [type(each) for each in effects if isinstance(each, Misbehaved)] == [Misbehaved]
    assert [type(each) for each in news(effects)] == [MetadataFailed]


def test_answers_that_nobody_asked_for_are_ignored() -> None:
    reader, owner = pair()
    reply = MetadataReply(digest=owner.record.metadata_digest, data=LARGE)
    assert reader.receive(contact(1), reply, 5.0) == []
    reader.read_metadata(peer_id(1), 5.0)
    assert reader.receive(contact(2), reply, 5.1) == []


def test_an_owner_that_changed_its_mind_or_is_silent_or_gone_is_told() -> None:
    reader, owner = pair()
    [(_, request)] = sent(reader.read_metadata(peer_id(1), 5.0), MetadataRequest)
    owner.set_metadata(b"new", 6.0)
    [(_, reply)] = sent(owner.receive(contact(0), request, 6.0), MetadataReply)
    assert [type(each) for each in news(reader.receive(contact(1), reply, 6.0))] == [MetadataFailed]
    book = MetadataBook()
    book.read(owner.record, 10.0)
    assert book.deadline == 10.0 + ANSWER_TIMEOUT_S
    assert book.tick(10.0) == []
    assert [type(each) for each in news(book.tick(10.0 + ANSWER_TIMEOUT_S))] == [MetadataFailed]
    book.read(owner.record, 30.0)
    assert [type(each) for each in news(book.lost(peer_id(1)))] == [MetadataFailed]
    assert book.deadline is None


def test_what_is_not_there_needs_no_question_and_who_is_not_there_gets_none() -> None:
    core = make_core(0)
    core.receive(contact(1), Gossip(records=(record(1),)), 0.0)
    assert news(core.read_metadata(peer_id(1), 0.0)) == [MetadataRead(peer_id(1), b"")]
    core.set_metadata(b"mine", 0.0)
    assert news(core.read_metadata(peer_id(0), 0.0)) == [MetadataRead(peer_id(0), b"mine")]
    with pytest.raises(PeerUnreachable):
        core.read_metadata(peer_id(9), 0.0)


def test_what_is_too_large_is_refused_and_nothing_changes() -> None:
    core = make_core(0)
    core.set_metadata(b"small", 0.0)
    with pytest.raises(LocalProtocolError, match="65536"):
        core.set_metadata(bytes(METADATA_SIZE_BYTES_MAX + 1), 0.0)
    assert news(core.read_metadata(peer_id(0), 0.0)) == [MetadataRead(peer_id(0), b"small")]


def test_questions_and_what_is_kept_are_bounded() -> None:
    book = MetadataBook()
    for index in range(1, 65):
        book.read(record(index, metadata_digest=digest_of(bytes([index]))), 0.0)
    with pytest.raises(Overloaded):
        book.read(record(99, metadata_digest=digest_of(b"x")), 0.0)
    for index in range(1, 65):
        data = bytes([index]) * METADATA_SIZE_BYTES_MAX
        book.read(record(index, metadata_digest=digest_of(data)), 0.0)
        book.on_reply(contact(index), MetadataReply(digest=digest_of(data), data=data))
    assert book._kept_size_bytes <= KEPT_SIZE_BYTES_MAX
    assert sum(map(len, book._kept.values())) == book._kept_size_bytes
