"""The codec's rules, one by one; what holds for all messages is in tests/properties/test_wire_codec.py."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import msgpack
import pytest

from p2pinfer.effects import Message
from p2pinfer.errors import DecodeError, LocalProtocolError
from p2pinfer.ids import Contact, Endpoint, PeerId, SessionId, Span, SwarmId
from p2pinfer.wire import codec, schema
from p2pinfer.wire.codec import decode, decode_signed, encode, signed_parts, signing_bytes, size_bytes_max_of
from p2pinfer.wire.messages.inference import Step, Tensor
from p2pinfer.wire.messages.raft import MemberRecord
from p2pinfer.wire.messages.records import Holding, PeerRecord, Signed
from p2pinfer.wire.messages.swim import Gossip, Ping
from p2pinfer.wire.schema import Count, Size, registered

SESSION = SessionId(bytes(16))
RECORD = PeerRecord(
    public_key=bytes(32),
    endpoint=Endpoint("192.0.2.1", 7946),
    incarnation=1,
    expires_ms=2,
    holding=Holding(model="m", digest=bytes(32), layer_count=2, start=0, end=1, step_us=0),
    signature=bytes(64),
)


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    """Types that a test registers are forgotten with it."""
    types, codecs, tags = dict(schema._TYPES), dict(codec._CODECS), dict(codec._BY_TAG)
    yield
    for known, before in ((schema._TYPES, types), (codec._CODECS, codecs), (codec._BY_TAG, tags)):
        known.clear()
        known.update(before)  # type: ignore[arg-type]


class Colour(enum.IntEnum):
    RED = 1


@dataclass(frozen=True, slots=True)
class Places(Message):
    TAG: ClassVar[int] = 13

    peer: PeerId
    swarm: SwarmId
    endpoint: Endpoint
    contact: Contact
    span: Span | None
    spans: tuple[Span, ...] = ()
    one_of: Ping | Gossip | None = None
    words: Annotated[tuple[Annotated[str, Size(3)], ...], Count(2)] = ()
    weight: float = 0.5


PLACES = Places(
    PeerId(bytes(32)),
    SwarmId(bytes(32)),
    Endpoint("::1", 0),
    Contact(None, Endpoint("a", 65535)),
    Span(0, 1),
    (Span(3, 9),),
    Gossip(records=(RECORD,)),
    ("abc", "äx"),
    -1e300,
)


def changed(message: Message, index: int, value: Any) -> bytes:
    array = msgpack.unpackb(encode(message))
    array[index] = value
    data: bytes = msgpack.packb(array)
    return data


def test_every_kind_of_field_comes_back() -> None:
    registered(Places)
    back = decode(encode(PLACES))
    assert back == PLACES
    assert isinstance(back, Places)
    assert type(back.peer) is PeerId
    assert type(back.contact.endpoint) is Endpoint
    assert signed_parts(back) == (RECORD,)


def test_the_bytes_of_a_message_are_an_array_with_its_tag_and_fields_in_order() -> None:
    assert msgpack.unpackb(encode(Ping(sequence=3, gossip=Gossip()))) == [18, 3, [17, [], [], []]]


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (1, b"short"),
        (1, "t" * 32),
        (3, ["h"]),
        (3, ["h", 65536]),
        (3, ["h", -1]),
        (3, ["h", True]),
        (3, ["h\n", 1]),
        (3, ["h h", 1]),
        (3, ["hö", 1]),
        (3, ["h" * 257, 1]),
        (3, [b"h", 1]),
        (4, [b"short", "h", 1]),
        (4, [None, "h", None]),
        (4, None),
        (5, [1, 1]),
        (5, [2, 1]),
        (5, [-1, 1]),
        (5, [0, 1 << 40]),
        (5, [0, 1, 2]),
        (5, [False, True]),
        (6, [None]),
        (6, [[0, 1]] * 65),
        (7, [19, 3, [17, [], []]]),
        (7, []),
        (7, [True]),
        (8, ["abcd"]),
        (8, ["ää"]),
        (8, ["a", "b", "c"]),
        (8, "ab"),
        (9, 1),
        (9, float("nan")),
        (9, float("inf")),
        (9, "0.5"),
    ],
)
def test_a_field_out_of_its_type_or_bounds_is_refused(index: int, value: Any) -> None:
    registered(Places)
    with pytest.raises(DecodeError):
        decode(changed(PLACES, index, value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("peer", bytes(32)),
        ("peer", SwarmId(bytes(32))),
        ("endpoint", ("h", 1)),
        ("endpoint", Endpoint("h h", 1)),
        ("endpoint", Endpoint("h", 1 << 20)),
        ("contact", Contact(bytes(32), Endpoint("h", 1))),  # type: ignore[arg-type]
        ("contact", Contact(None, Endpoint("\x00", 1))),
        ("span", Span(0, 1 << 40)),
        ("spans", [Span(0, 1)]),
        ("one_of", RECORD),
        ("words", ("ab", "cd", "ef")),
        ("words", ("\ud800",)),
        ("weight", float("nan")),
        ("weight", True),
        ("weight", "1"),
    ],
)
def test_what_no_peer_would_take_is_not_sent(name: str, value: Any) -> None:
    registered(Places)
    bad = decode(encode(PLACES))
    object.__setattr__(bad, name, value)
    with pytest.raises(LocalProtocolError):
        encode(bad)


def test_numbers_that_are_whole_may_be_written_as_floats_and_enumerations_as_numbers() -> None:
    registered(Places)
    message = decode(encode(PLACES))
    object.__setattr__(message, "weight", 2)
    assert decode(encode(message)).weight == 2.0  # type: ignore[attr-defined]
    ping = Ping(sequence=Colour.RED, gossip=Gossip())
    assert encode(ping) == encode(Ping(sequence=1, gossip=Gossip()))


def test_an_older_senders_missing_fields_take_their_defaults() -> None:
    array = msgpack.unpackb(encode(Step(session=SESSION, step=1, base=2)))
    for kept in (4, 5, 6):
        assert decode(msgpack.packb(array[:kept])) == Step(session=SESSION, step=1, base=2)
    with pytest.raises(DecodeError, match="Step has 6 fields, not 2"):
        decode(msgpack.packb(array[:3]))


def test_a_default_that_is_made_is_made_anew() -> None:
    @registered
    @dataclass(frozen=True, slots=True)
    class Made(Message):
        TAG: ClassVar[int] = 14
        span: Span = field(default_factory=lambda: Span(1, 2))

    assert decode(b"\x91\x0e") == Made()


def test_a_class_that_checks_itself_is_heard() -> None:
    @registered
    @dataclass(frozen=True, slots=True)
    class Picky(Message):
        TAG: ClassVar[int] = 14
        number: int = 5

        def __post_init__(self) -> None:
            if self.number % 5:
                raise ValueError("number is a multiple of 5")

    assert decode(encode(Picky(10))) == Picky(10)
    assert decode(b"\x91\x0e") == Picky()
    with pytest.raises(DecodeError, match="multiple of 5"):
        decode(b"\x92\x0e\x07")


def test_a_signed_structure_has_its_fields_exactly() -> None:
    array = msgpack.unpackb(encode(RECORD))
    for wrong in (array[:-1], [*array, None]):
        with pytest.raises(DecodeError, match="PeerRecord has 10 fields"):
            decode(msgpack.packb(wrong))


@pytest.mark.parametrize("depth", [7, 8])
def test_what_a_newer_sender_adds_is_nested_eight_deep_at_most(depth: int) -> None:
    surplus: Any = bytes(600)
    for _ in range(depth):
        surplus = [surplus]
    array = msgpack.unpackb(encode(Step(session=SESSION, step=1, base=2)))
    if depth == 7:
        assert decode(msgpack.packb([*array, surplus])) == Step(session=SESSION, step=1, base=2)
    else:
        with pytest.raises(DecodeError, match="more than 8 arrays"):
            decode(msgpack.packb([*array, surplus]))


def test_a_tag_of_two_bytes_is_read_and_has_one_encoding() -> None:
    member = MemberRecord(node=5, contact=Contact(None, Endpoint("h", 1)), roles=1)
    data = encode(member)
    assert data[:3] == b"\x94\xcc" + bytes([MemberRecord.TAG])
    assert decode(data) == member
    for begin in (b"\x94\xcc", b"\x94\xcc\x05", b"\x94\xcd\x00\x84", b"\x94\xff"):
        with pytest.raises(DecodeError):
            decode(begin + data[3:])
        with pytest.raises(DecodeError):
            decode(begin)


def test_an_exact_structure_has_its_fields_exactly_and_tags_go_up_to_255() -> None:
    @registered
    @dataclass(frozen=True, slots=True)
    class Replicated(schema.Exact):
        TAG: ClassVar[int] = 255
        number: int = 5

    assert encode(Replicated(7)) == b"\x92\xcc\xff\x07"
    assert decode(encode(Replicated(7))) == Replicated(7)
    for wrong in (b"\x91\xcc\xff", b"\x93\xcc\xff\x07\x07"):
        with pytest.raises(DecodeError, match="Replicated has 1 fields"):
            decode(wrong)


def test_true_is_not_the_tag_one() -> None:
    array = msgpack.unpackb(encode(RECORD))
    assert array[6][0] == 1
    array[6][0] = True
    with pytest.raises(DecodeError, match="begins with 1"):
        decode(msgpack.packb(array))


def test_signed_parts_are_found_at_any_depth() -> None:
    message = Ping(sequence=1, gossip=Gossip(records=(RECORD, RECORD)))
    assert decode_signed(encode(message)) == (message, (RECORD, RECORD))
    assert signed_parts(RECORD) == (RECORD,)
    assert signed_parts(Step(session=SESSION, step=0, base=0)) == ()


def test_signing_bytes_leave_the_signature_out_and_keep_domains_apart() -> None:
    bare = dataclasses.replace(RECORD, signature=b"")
    assert signing_bytes(RECORD) == signing_bytes(bare)
    assert signing_bytes(RECORD) != encode(bare)
    assert signing_bytes(RECORD).endswith(encode(bare))


def test_size_is_refused_before_anything_is_read() -> None:
    data = encode(Ping(sequence=1, gossip=Gossip(records=(RECORD,))))
    with pytest.raises(DecodeError, match="at most 10 bytes"):
        decode(data, size_bytes_max=10)
    with pytest.raises(DecodeError, match="does not have"):
        decode(b"\x93\x16\x01\xc6" + bytes(5000))
    assert size_bytes_max_of(Step) <= codec.MESSAGE_SIZE_BYTES_MAX


def test_a_large_tensor_travels_and_a_larger_one_does_not() -> None:
    step = Step(session=SESSION, step=0, base=0, hidden=Tensor("f4", (4096, 576), bytes(4096 * 576 * 4)))
    assert decode(encode(step)) == step
    with pytest.raises(LocalProtocolError, match=r"Tensor\.data"):
        encode(Tensor("f4", (1,), bytes((64 << 20) + 1)))


def test_long_prompts_have_every_token_checked() -> None:
    tokens = tuple(range(4096))
    step = Step(session=SESSION, step=0, base=0, tokens=tokens)
    assert decode(encode(step)) == step
    for wrong in (True, 1.0, -1, None):
        array = msgpack.unpackb(encode(step))
        array[4][2000] = wrong
        with pytest.raises(DecodeError, match=r"Step\.tokens"):
            decode(msgpack.packb(array))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x90", b"\x91", b"\xdc\x00", b"\x80", b"\x91\xcc\x12", b"\x91\xcc", b"\x91\xff",
        b"\x91\xcd\x00\x10", b"\x91\xe0", b"\xdc\x00\x01\xcc\x10",
    ],
)  # fmt: skip
def test_what_does_not_begin_like_a_message_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(data)


def test_messages_that_the_schema_cannot_bound_are_a_bug_of_the_class() -> None:
    @dataclass(frozen=True, slots=True)
    class Unregistered(Message):
        TAG: ClassVar[int] = 14

    with pytest.raises(LocalProtocolError, match="not a registered message"):
        encode(Unregistered())

    for hint, reason in (
        (dict[str, int], "no fields of type"),
        (tuple[int, str], "one kind of item"),
        (int | str, "only registered structures"),
        (Signed, "not a registered message"),
    ):
        kind = type("Odd", (Message,), {"TAG": 15, "__annotations__": {"x": hint}, "__module__": __name__})
        schema._TYPES.pop(15, None)
        odd: Any = registered(dataclass(frozen=True, slots=True)(kind))
        with pytest.raises((TypeError, LocalProtocolError), match=reason):
            encode(odd(x=0))


@pytest.mark.parametrize(
    ("host", "packed"),
    [
        ("127.0.0.1", b"\x7f\x00\x00\x01"),
        ("::1", bytes(15) + b"\x01"),
        ("a.example", "a.example"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("::ffff:1.2.3.4", "::ffff:1.2.3.4"),
        ("0:0::1", "0:0::1"),
    ],
)
def test_a_contacts_address_travels_packed_and_in_one_way(host: str, packed: str | bytes) -> None:
    registered(Places)
    message = dataclasses.replace(PLACES, contact=Contact(None, Endpoint(host, 7)))
    data = encode(message)
    assert msgpack.unpackb(data)[4] == [None, packed, 7]
    assert decode(data) == message
    if host != packed:
        with pytest.raises(DecodeError, match="contact is"):
            decode(changed(message, 4, [None, host, 7]))


@pytest.mark.parametrize("host", [b"", b"abc", bytes(5), bytes(10) + b"\xff\xff\x01\x02\x03\x04"])
def test_a_packed_address_of_another_kind_is_refused(host: bytes) -> None:
    registered(Places)
    with pytest.raises(DecodeError, match="contact is"):
        decode(changed(PLACES, 4, [None, host, 7]))
