"""Namespaces: what a key means, and which records may stand under it.

Rules:

1. A record names its namespace, and its key is `key_of(namespace, name)`. Holders and readers apply the
   namespace's check alike: a holder that does not is harmless, because readers refuse what it tells.
2. Where the key follows from the record itself, it is bound, and no record that is not belongs there: the key
   is a hash of the namespace and what the record says, so it can be that of no other namespace or name.
3. An unknown namespace is treated as `value` is, so that an application can use one before all peers know it.

Source: validators by namespace as in go-libp2p's `record`; `own` and `content` are BEP-44's mutable and
immutable items; `provider` is libp2p's provider record, BEP-5's announce.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from p2pinfer.dht.addresses import Reach, reach
from p2pinfer.dht.keyspace import key_of
from p2pinfer.errors import DecodeError, LocalProtocolError
from p2pinfer.ids import Endpoint, Span
from p2pinfer.wire.codec import decode
from p2pinfer.wire.messages.dht import NAMESPACE_SIZE_BYTES_MAX, DhtRecord

__all__ = ["BUILT_IN", "Namespace", "Namespaces", "endpoint_of", "endpoint_value", "own_key"]


@dataclass(frozen=True, slots=True)
class Namespace:
    """A kind of records.

    `check` returns "" for a record that may stand there, or in a few words why it may not. It must be a pure
    function that raises on nothing a record can hold, and must not depend on sequence, expiry or signature.
    """

    name: str
    """1 to 16 bytes, without NUL."""
    check: Callable[[DhtRecord], str]
    is_bound: bool = False
    """Whether `check` makes the key follow from the record: then nothing else belongs under that key, and
    neither holders nor readers let anything stand beside such a record."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.name.encode()) <= NAMESPACE_SIZE_BYTES_MAX or "\0" in self.name:
            raise LocalProtocolError(
                f"namespace {self.name!r}: give 1 to {NAMESPACE_SIZE_BYTES_MAX} bytes without NUL"
            )


def own_key(public_key: bytes, subkey: bytes = b"") -> bytes:
    """The key in `own` of an owner's sub-key: only that owner can write there."""
    return key_of("own", public_key + subkey)


def endpoint_value(endpoint: Endpoint) -> bytes:
    """The value that says where somebody listens, for `provider` and `swarm`: `host:port`, `[v6]:port`."""
    return str(endpoint).encode()


def endpoint_of(value: bytes) -> Endpoint | None:
    """Read such a value; None where it is no IP address that somebody can listen at, with its port."""
    try:
        endpoint = Endpoint.parse(value.decode())
    except ValueError:
        return None
    is_sound = endpoint.port > 0 and reach(endpoint.host) is not Reach.NOWHERE
    return endpoint if is_sound and endpoint_value(endpoint) == value else None


def _check_value(record: DhtRecord) -> str:
    return ""


def _check_own(record: DhtRecord) -> str:
    is_own = record.key == own_key(record.public_key, record.subkey)
    return "" if is_own else "its key is not that of its owner and sub-key"


def _check_content(record: DhtRecord) -> str:
    if record.subkey:
        return "what is named by its content has no sub-key"
    return "" if record.key == key_of("content", record.value) else "its key is not the hash of its value"


def _check_provider(record: DhtRecord) -> str:
    if record.subkey:
        return "a provider has one record, without a sub-key"
    is_sound = not record.value or endpoint_of(record.value) is not None
    return "" if is_sound else "its value is not empty and no endpoint"


def _check_holders(record: DhtRecord) -> str:
    try:
        text = record.subkey.decode()
        is_span = str(Span.parse(text)) == f"[{text.replace(':', ',')})"  # as 01:2 is not
    except ValueError:
        is_span = False
    if not is_span:
        return "its sub-key is no span start:end"
    if record.value:  # empty where the owner holds the span no longer
        try:
            decode(record.value)
        except DecodeError:
            return "its value is not empty and no structure"
    return ""


def _check_swarm(record: DhtRecord) -> str:
    if record.subkey:
        return "a member has one record, without a sub-key"
    return "" if endpoint_of(record.value) is not None else "its value is no endpoint"


BUILT_IN = (
    Namespace("value", _check_value),
    Namespace("own", _check_own, is_bound=True),
    Namespace("content", _check_content, is_bound=True),
    Namespace("provider", _check_provider),
    Namespace("holders", _check_holders),
    Namespace("swarm", _check_swarm),
)
"""`value`: any value of any owner under a shared key. `own`: key and owner belong together, BEP-44 mutable.
`content`: the key is the hash of the value, BEP-44 immutable. `provider`: its owner can hand out what the key
names, at the endpoint in the value or, if that is empty, where the owner is found. `holders`: the span in
the sub-key, of the model whose digest is the key's name; an empty value takes it back. `swarm`: where a
member listens."""


class Namespaces:
    """The namespaces that a peer knows; a value, a part of `DhtConfig`.

    Args:
        more: Those of the application, beside the built-in ones.

    Raises:
        LocalProtocolError: Two have one name.
    """

    __slots__ = ("_by_name",)

    def __init__(self, more: Iterable[Namespace] = ()) -> None:
        self._by_name: dict[str, Namespace] = {}
        for namespace in (*BUILT_IN, *more):
            if namespace.name in self._by_name:
                raise LocalProtocolError(f"namespace {namespace.name!r} is there already: take another name")
            self._by_name[namespace.name] = namespace

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Namespaces) and self._by_name == other._by_name

    def __hash__(self) -> int:
        return hash(tuple(self._by_name))

    def __repr__(self) -> str:
        return f"Namespaces({', '.join(self._by_name)})"

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[Namespace]:
        return iter(self._by_name.values())

    def check(self, record: DhtRecord) -> str:
        """Return "" for a record that may stand under its key, or why it may not."""
        namespace = self._by_name.get(record.namespace)
        return namespace.check(record) if namespace is not None else ""

    def is_bound(self, record: DhtRecord) -> bool:
        """Whether the key of a record that passed `check` can have no other owner's or no other value's."""
        namespace = self._by_name.get(record.namespace)
        return namespace is not None and namespace.is_bound

    def check_put(self, record: DhtRecord) -> None:
        """Refuse to put what no holder would keep.

        Raises:
            LocalProtocolError: Names the namespace and what is wrong.
        """
        Namespace(record.namespace, _check_value)  # for the name's own bounds
        reason = self.check(record)
        if reason:
            raise LocalProtocolError(f"a record in namespace {record.namespace!r} is refused: {reason}")
