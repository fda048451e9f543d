"""A peer's home: its key, its swarm and its membership, in the data directory.

identity.key      this peer's own key; never leaves the machine
owner.key         only where the swarm was founded: whoever has it decides who is a member and which keys
                  seal the datagrams
swarm.json        which swarm, what it asks of peer ids, and the addresses in its invite
peers.json        the members lately alive, to come back through (`discovery/peer_cache.py`)
membership        the certificates that show that this peer was admitted
state/             what the cores keep (`runtime/disk.py`), the newest keyring among it
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from p2pinfer.config import NodeConfig
from p2pinfer.errors import ConfigError, RemoteProtocolError, StorageError, UnfitId
from p2pinfer.files import replace_file
from p2pinfer.identity import Identity, Verifier
from p2pinfer.ids import Endpoint, SwarmId
from p2pinfer.membership import (
    ADDRESS_PREFIX,
    BACKDATE_S,
    INVITE_PREFIX,
    Invite,
    SwarmAddress,
    SwarmPolicy,
    check_id,
    issue_certificate,
    load_membership,
)
from p2pinfer.swim.rotation import first_keyring
from p2pinfer.wire.codec import decode_signed, encode
from p2pinfer.wire.messages.keyring import Keyring
from p2pinfer.wire.messages.membership import Membership

__all__ = [
    "ADMITTED_S",
    "Home",
    "client_home",
    "invited_client",
    "load_client",
    "load_keyring",
    "load_owner",
    "make_invite",
    "open_home",
    "open_home_in_thread",
]

_log = logging.getLogger(__name__)

ADMITTED_S = 10 * 365 * 86400.0
"""How long the founder admits itself for. Others are members as long as their invite is good."""

_LAST_FILE_S = 2.0
"""How long a start that is cancelled waits for the file that is being written."""
_IDENTITY = "identity.key"
_OWNER = "owner.key"
_SWARM = "swarm.json"
_MEMBERSHIP = "membership"
_CLIENT_KEY = "client.key"
_CLIENT_MEMBERSHIP = "client.membership"
_FIRST_KEY = b"p2pinfer first sealing key v1"
_SLOW_DIFFICULTY = 15
"""From here on people are told that a key takes a while: about a second."""
_KEY_S = 22e-6
"""What making and trying one key takes, measured on one core of 2.5 GHz."""


@dataclass(frozen=True, slots=True)
class Home:
    """What a peer is when it starts."""

    directory: Path
    identity: Identity
    swarm: SwarmPolicy
    membership: Membership
    addresses: tuple[Endpoint, ...]
    """Where to enter the swarm; empty for its founder."""


def open_home(directory: Path, join: Sequence[str], now: float, id_difficulty: int = 0) -> Home:
    """Read the data directory; join the swarm of an invite, come back to the one known, or found one.

    Args:
        directory: Made if it is not there.
        join: Invites, addresses of the swarm (`p2pinfer://...`) and `host:port` addresses. An address alone
            serves where this peer is a member already.
        now: Seconds since the Unix epoch.
        id_difficulty: The work that peer ids have in them, in bits, where a swarm is founded; 0 elsewhere, or
            what the swarm has.

    Raises:
        ConfigError: An invite is damaged or has run out, two invites name two swarms, the directory belongs
            to another swarm than the invite, or its key or `id_difficulty` does not fit the swarm.
        StorageError: The directory cannot be used.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{directory}: {error.strerror}; name another with --data-dir") from error
    named = [SwarmAddress.parse(text) for text in join if text.startswith(ADDRESS_PREFIX)]
    others = [text for text in join if not text.startswith(ADDRESS_PREFIX)]
    invites = [Invite.parse(text) for text in others if text.startswith(INVITE_PREFIX)]
    plain = tuple(_read_address(text) for text in others if not text.startswith(INVITE_PREFIX))
    plain += tuple(place for address in named for place in address.places)
    known = _read_swarm(directory)
    if invites or known is not None:
        swarm, addresses = known or (invites[0].swarm, ())
        for address in named:
            address.check(invites[0].swarm.id if invites else swarm.id)
        if id_difficulty not in (0, swarm.difficulty):
            raise ConfigError(
                f"id_difficulty = {id_difficulty}: swarm {swarm.id.short} was founded with "
                f"{swarm.difficulty}; leave the setting out"
            )
        if invites:
            return _join(directory, invites, plain, known, now)
        identity = _fitting_identity(directory, swarm, is_member=True)
        places = (*plain, *addresses) if named else plain or addresses
        return Home(directory, identity, swarm, _read_membership(directory / _MEMBERSHIP, swarm), places)
    if plain or named:
        raise ConfigError(
            f"{named[0] if named else plain[0]} is an address, but this peer is a member of no swarm yet: "
            "join with an invite, which `p2pinfer invite` prints on a peer of the swarm"
        )
    return _found(directory, id_difficulty, now)


async def open_home_in_thread(config: NodeConfig, now: float) -> Home:
    """Open a node's home as `open_home` does, beside the event loop: making a key may take its time.

    When cancelled it lets go of the thread, but not in the middle of a file: a key with work in it may take
    minutes, all else a moment.
    """
    finished = threading.Event()

    def run() -> Home:
        try:
            return open_home(config.data_dir, config.join, now, config.id_difficulty)
        finally:
            finished.set()

    try:
        return await trio.to_thread.run_sync(run, abandon_on_cancel=True)
    except BaseException:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(finished.wait, _LAST_FILE_S)
        raise


def client_home(directory: Path) -> Home:
    """Read what the command line proves itself with to the swarm of this data directory.

    Raises:
        ConfigError: No node was ever started with this directory.
    """
    known = _read_swarm(directory)
    if known is None:
        raise ConfigError(
            f"{directory} belongs to no swarm: start a node first (python -m p2pinfer.node), "
            "or give an invite with --join"
        )
    identity = load_client(directory)
    membership = _read_membership(directory / _CLIENT_MEMBERSHIP, known[0])
    return Home(directory, identity, known[0], membership, known[1])


def invited_client(text: str, now: float) -> Home:
    """Make a passing identity for the command line from an invite; nothing is written.

    Raises:
        ConfigError: The invite is damaged or has run out.
    """
    invite = Invite.parse(text)
    _say_how_long("a key for this command", invite.swarm)
    identity = Identity.generate(invite.swarm.difficulty)
    return Home(
        Path(), identity, invite.swarm, invite.admit(identity, now, ADMITTED_S), tuple(invite.addresses)
    )


def make_invite(directory: Path, addresses: Sequence[Endpoint], valid_s: float, now: float) -> Invite:
    """Make an invite to the swarm that was founded in this data directory.

    Raises:
        ConfigError: The swarm was founded elsewhere, or the addresses or the time are wrong.
    """
    path = directory / _OWNER
    known = _read_swarm(directory)
    if known is None or not path.exists():
        raise ConfigError(f"{directory} holds no owner's key: make invites where the swarm was founded")
    swarm = known[0]
    return Invite.create(
        Identity.load(path), addresses, valid_s, now, is_open=swarm.is_open, difficulty=swarm.difficulty
    )


def load_owner(directory: Path) -> Identity:
    """Return the key of the swarm's owner.

    Raises:
        ConfigError: The swarm was founded elsewhere.
    """
    path = directory / _OWNER
    if not path.exists():
        raise ConfigError(f"{directory} holds no owner's key: change the keyring where the swarm was founded")
    return Identity.load(path)


def load_client(directory: Path) -> Identity:
    """Return the key of the command line of this data directory.

    Raises:
        ConfigError: There is none.
    """
    return Identity.load(directory / _CLIENT_KEY)


def load_keyring(home: Home, stored: bytes | None, verifier: Verifier) -> Keyring | None:
    """Return the keyring that the disk has, or the first one where the swarm was founded and it has none.

    The first key follows from the owner's, so that the first version is the same however often it is made.

    Args:
        home: Who the peer is, and its swarm.
        stored: What the core kept.
        verifier: Checks the owner's signature.
    """
    if home.swarm.is_open:
        return None  # everybody could fetch it
    if stored is not None:
        try:
            keyring, statements = decode_signed(stored)
            for statement in statements:
                verifier.verify_statement(statement)
            if isinstance(keyring, Keyring) and keyring.is_sound(home.swarm.id):
                return keyring
            _log.warning("the keyring on disk is not this swarm's: it is fetched anew")
        except RemoteProtocolError as error:
            _log.warning("the keyring on disk is damaged (%s): it is fetched anew", error)
    if not (home.directory / _OWNER).exists():
        return None
    owner = load_owner(home.directory)
    return first_keyring(owner.public_key, owner.derive(_FIRST_KEY), owner.sign_statement)


def _found(directory: Path, id_difficulty: int, now: float) -> Home:
    owner = Identity.load_or_create(directory / _OWNER)
    swarm = SwarmPolicy(SwarmId(owner.public_key), difficulty=id_difficulty)
    identity = _fitting_identity(directory, swarm, is_member=False)

    def admit(key: Identity) -> Membership:
        certificate = issue_certificate(
            owner, swarm.id, key.public_key, not_before=now - BACKDATE_S, not_after=now + ADMITTED_S
        )
        return Membership(swarm=swarm.id, chain=(certificate,))

    membership = _admit_both(directory, identity, swarm, admit)
    _write_swarm(directory, swarm, ())
    return Home(directory, identity, swarm, membership, ())


def _join(
    directory: Path,
    invites: Sequence[Invite],
    plain: tuple[Endpoint, ...],
    known: tuple[SwarmPolicy, tuple[Endpoint, ...]] | None,
    now: float,
) -> Home:
    swarm = invites[0].swarm
    if any(invite.swarm != swarm for invite in invites):
        raise ConfigError("the invites name different swarms: join one")
    if known is not None and known[0].id != swarm.id:
        raise ConfigError(
            f"{directory} belongs to swarm {known[0].id.short}, the invite to {swarm.id.short}: "
            "name another directory with --data-dir"
        )
    identity = _fitting_identity(directory, swarm, is_member=known is not None)
    membership = _admit_both(directory, identity, swarm, lambda key: invites[0].admit(key, now, ADMITTED_S))
    addresses = (*plain, *(address for invite in invites for address in invite.addresses))
    _write_swarm(directory, swarm, addresses)
    return Home(directory, identity, swarm, membership, addresses)


def _fitting_identity(directory: Path, swarm: SwarmPolicy, *, is_member: bool) -> Identity:
    """Return the peer's key, made where there is none; one that does not fit the swarm makes way if it may.

    It may while it was admitted nowhere: then nobody knows the peer by it. It is set aside, not removed.
    """
    identity = _load_or_make(directory / _IDENTITY, swarm)
    try:
        check_id(swarm, identity.peer_id)
    except UnfitId as error:
        if is_member or (directory / _MEMBERSHIP).exists():
            raise ConfigError(
                f"{directory / _IDENTITY} lacks the work that swarm {swarm.id.short} asks for "
                f"({swarm.difficulty} bits), and this node is known by it: join with an invite and another "
                "--data-dir, as another node"
            ) from error
        return _make_instead(directory / _IDENTITY, identity, swarm)
    return identity


def _load_or_make(path: Path, swarm: SwarmPolicy) -> Identity:
    if not path.exists():
        _say_how_long(path.name, swarm)
    return Identity.load_or_create(path, swarm.difficulty)


def _say_how_long(what: str, swarm: SwarmPolicy) -> None:
    if swarm.difficulty >= _SLOW_DIFFICULTY:
        wait_s = _KEY_S * 2**swarm.difficulty
        _log.info(
            "making %s, %d bits of work as the swarm asks: about %.0f s", what, swarm.difficulty, wait_s
        )


def _make_instead(path: Path, unfit: Identity, swarm: SwarmPolicy) -> Identity:
    """Set a key aside under the name of its id, and make one that fits."""
    aside = path.with_name(f"{path.stem}.{unfit.peer_id.short}{path.suffix}")
    try:
        path.rename(aside)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}; check the disk and its permissions") from error
    _log.warning("%s lacks the work that the swarm asks for: it is now %s", path.name, aside)
    return _load_or_make(path, swarm)


def _admit_both(
    directory: Path, identity: Identity, swarm: SwarmPolicy, admit: Callable[[Identity], Membership]
) -> Membership:
    """Admit this peer and the command line of its data directory; returns the peer's membership."""
    client = _load_or_make(directory / _CLIENT_KEY, swarm)
    try:
        check_id(swarm, client.peer_id)
    except UnfitId:  # nobody knows the command line by its id
        client = _make_instead(directory / _CLIENT_KEY, client, swarm)
    replace_file(directory / _CLIENT_MEMBERSHIP, encode(admit(client)))
    membership = admit(identity)
    replace_file(directory / _MEMBERSHIP, encode(membership))
    return membership


def _read_address(text: str) -> Endpoint:
    try:
        return Endpoint.parse(text)
    except ValueError as error:
        raise ConfigError(f"join: {error}, and no invite, which begins with p2pinfer:") from error


def _read_membership(path: Path, swarm: SwarmPolicy) -> Membership:
    try:
        membership = load_membership(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; join again with an invite") from error
    if membership.swarm != swarm.id:
        raise ConfigError(f"{path}: the membership is of another swarm; join again with an invite")
    return membership


def _read_swarm(directory: Path) -> tuple[SwarmPolicy, tuple[Endpoint, ...]] | None:
    path = directory / _SWARM
    try:
        content = json.loads(path.read_text())
        swarm_id, difficulty = SwarmId(bytes.fromhex(content["swarm"])), content.get("difficulty", 0)
        policy = SwarmPolicy(swarm_id, bool(content["open"]), int(difficulty))
        return policy, tuple(Endpoint.parse(text) for text in content["addresses"])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}; check the disk and its permissions") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is damaged ({error}): remove it and join again with an invite") from error


def _write_swarm(directory: Path, swarm: SwarmPolicy, addresses: Sequence[Endpoint]) -> None:
    content = {
        "swarm": str(swarm.id),
        "open": swarm.is_open,
        "difficulty": swarm.difficulty,
        "addresses": [str(address) for address in addresses],
    }
    replace_file(directory / _SWARM, json.dumps(content, indent=1).encode() + b"\n")
