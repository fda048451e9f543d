"""What a key means, and who may write there."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.keyspace import key_of
from p2pinfer.dht.namespaces import BUILT_IN, Namespace, Namespaces, endpoint_of, endpoint_value, own_key
from p2pinfer.dht.store import RecordStore
from p2pinfer.errors import LocalProtocolError
from p2pinfer.ids import Endpoint
from p2pinfer.wire.codec import encode
from p2pinfer.wire.messages.dht import DhtPing, DhtRecord
from tests.dht.peers import contact, in_namespace, peer_id, public_key, record

KNOWN = Namespaces()


def test_in_own_nobody_else_can_write_there() -> None:
    """BEP-44, mutable items: the target is the hash of public key and salt."""
    key = own_key(public_key(1), b"salt")
    assert KNOWN.check(in_namespace("own", record(1, key=key, subkey=b"salt"))) == ""
    assert "owner" in KNOWN.check(in_namespace("own", record(2, key=key, subkey=b"salt")))
    assert "owner" in KNOWN.check(in_namespace("own", record(1, key=key, subkey=b"other")))
    assert own_key(public_key(1)) == key_of("own", public_key(1))


def test_in_content_the_key_is_the_hash_of_the_value() -> None:
    """BEP-44, immutable items: the target is the hash of the value."""
    key = key_of("content", b"bytes")
    assert KNOWN.check(in_namespace("content", record(key=key, value=b"bytes"))) == ""
    assert "hash" in KNOWN.check(in_namespace("content", record(key=key, value=b"others")))
    assert "sub-key" in KNOWN.check(in_namespace("content", record(key=key, value=b"bytes", subkey=b"s")))


@pytest.mark.parametrize(
    ("value", "is_sound"),
    [
        (b"", True),
        (b"10.0.0.1:7946", True),
        (b"[2001:db8::1]:7946", True),
        (b"127.0.0.1:1", True),
        (b"10.0.0.1:0", False),
        (b"0.0.0.0:7946", False),
        (b"224.0.0.1:7946", False),
        (b"somewhere.example:7946", False),
        (b"10.0.0.1:07946", False),
        (b"10.0.0.1", False),
        (b"\xff\xfe:1", False),
        (b"junk", False),
    ],
)
def test_a_provider_says_where_it_is_or_nothing(value: bytes, is_sound: bool) -> None:
    assert (KNOWN.check(in_namespace("provider", record(value=value))) == "") == is_sound
    assert "sub-key" in KNOWN.check(in_namespace("provider", record(value=value, subkey=b"s")))
    assert (KNOWN.check(in_namespace("swarm", record(value=value))) == "") == (is_sound and value != b"")


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.ip_addresses(), st.integers(1, 65535))
def test_an_endpoint_comes_back_as_it_went(host: object, port: int) -> None:
    endpoint = Endpoint(str(host), port)
    assert endpoint_of(endpoint_value(endpoint)) in (endpoint, None)
    assert len(endpoint_value(endpoint)) <= 64


@pytest.mark.parametrize(
    ("subkey", "is_span"),
    [
        (b"0:10", True),
        (b"7:8", True),
        (b"00:10", False),
        (b"0:010", False),
        (b"5:5", False),
        (b"9:3", False),
        (b"", False),
        (b"a:b", False),
        (b"\xff", False),
        (b" 0:1", False),
    ],
)
def test_a_holder_names_a_span_in_one_way(subkey: bytes, is_span: bool) -> None:
    value = encode(DhtPing(1))
    assert (KNOWN.check(in_namespace("holders", record(subkey=subkey, value=value))) == "") == is_span
    assert (KNOWN.check(in_namespace("holders", record(subkey=subkey, value=b""))) == "") == is_span
    assert KNOWN.check(in_namespace("holders", record(subkey=subkey, value=b"\xc1")))


def test_any_value_may_stand_in_value_and_in_a_namespace_that_is_not_known_yet() -> None:
    for name in ("value", "of tomorrow", ""):
        assert KNOWN.check(in_namespace(name, record(value=bytes(512), subkey=bytes(64)))) == ""
        assert not KNOWN.is_bound(in_namespace(name, record()))


def test_an_application_adds_its_own_and_wrong_values_are_refused_by_its_words() -> None:
    numbers = Namespace("numbers", lambda each: "" if each.value.isdigit() else "not a number")
    more = Namespaces([numbers])
    assert "numbers" in more
    assert "numbers" not in KNOWN
    assert more.check(in_namespace("numbers", record(value=b"12"))) == ""
    assert KNOWN.check(in_namespace("numbers", record(value=b"twelve"))) == ""
    with pytest.raises(LocalProtocolError, match="namespace 'numbers' is refused: not a number"):
        more.check_put(in_namespace("numbers", record(value=b"twelve")))
    store = RecordStore(peer_id(0), DhtConfig(namespaces=more))
    put = in_namespace("numbers", record(value=b"twelve"))
    assert store.put(put, contact(1), 0.0).code == "invalid"
    assert store.put(dataclasses.replace(put, value=b"12"), contact(1), 0.0).code == "stored"
    assert len(store) == 1


def test_names_are_bounded_and_unique() -> None:
    for name in ("", "n" * 17, "a\0b"):
        with pytest.raises(LocalProtocolError, match="namespace"):
            Namespace(name, lambda each: "")
        with pytest.raises(LocalProtocolError, match="namespace"):
            KNOWN.check_put(in_namespace(name, record()))
    with pytest.raises(LocalProtocolError, match="'own' is there already"):
        Namespaces([Namespace("own", lambda each: "")])


def test_the_registry_is_a_value() -> None:
    assert Namespaces() == Namespaces()
    assert hash(Namespaces()) == hash(Namespaces())
    assert Namespaces([Namespace("more", lambda each: "")]) != Namespaces()
    assert tuple(Namespaces()) == BUILT_IN
    assert "content" in repr(Namespaces())


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    st.sampled_from([each.name for each in BUILT_IN]),
    st.binary(max_size=64) | st.from_regex(rb"[0-9]{1,3}:[0-9]{1,3}", fullmatch=True),
    st.binary(max_size=512),
)
def test_no_check_raises_on_anything(namespace: str, subkey: bytes, value: bytes) -> None:
    each: DhtRecord = in_namespace(namespace, record(subkey=subkey, value=value))
    assert isinstance(KNOWN.check(each), str)
