"""Key pairs, their files, and the checking of signatures."""

from __future__ import annotations

import copy
import dataclasses
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from p2pinfer.errors import ConfigError, LocalProtocolError, SignatureError, StorageError
from p2pinfer.identity import Identity, Verifier, verify
from p2pinfer.ids import Endpoint, PeerId
from p2pinfer.wire.codec import encode
from p2pinfer.wire.messages.records import PeerRecord

ALICE = Identity.from_seed(b"a" * 32)
BOB = Identity.from_seed(b"b" * 32)
needs_posix = pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX")


def record_of(identity: Identity) -> PeerRecord:
    return PeerRecord(
        public_key=identity.public_key, endpoint=Endpoint("192.0.2.1", 7946), incarnation=3, expires_ms=9
    )


def test_keys_are_those_of_rfc_8032() -> None:
    """Section 7.1, test 2: a known seed, key and signature."""
    identity = Identity.from_seed(
        bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    )
    assert identity.public_key.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert identity.sign(b"\x72").hex().startswith("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223")
    assert identity.peer_id == PeerId.from_public_key(identity.public_key)


def test_a_seed_gives_one_identity_and_generate_gives_new_ones() -> None:
    assert Identity.from_seed(b"a" * 32) == ALICE != BOB
    assert hash(Identity.from_seed(b"a" * 32)) == hash(ALICE)
    assert Identity.generate() != Identity.generate()
    with pytest.raises(LocalProtocolError, match="32 bytes"):
        Identity.from_seed(b"short")


def test_the_secret_is_in_no_text_and_no_copy(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("test").warning("%s %r %s", ALICE, ALICE, [ALICE])
    shown = caplog.text + f"{ALICE}{ALICE!r}"
    assert "61616161" not in shown
    assert "aaaa" not in shown
    leaks: list[Callable[[Identity], object]] = [copy.copy, copy.deepcopy, Identity.__reduce__]
    for leak in leaks:
        with pytest.raises(TypeError, match="not pickled"):
            leak(ALICE)
    assert not hasattr(ALICE, "__dict__")


def test_verify_takes_the_right_signature_alone() -> None:
    signature = ALICE.sign(b"data")
    verify(ALICE.public_key, b"data", signature)
    flipped = bytes((signature[0] ^ 1,)) + signature[1:]
    for key, data, tried in (
        (BOB.public_key, b"data", signature),
        (ALICE.public_key, b"date", signature),
        (ALICE.public_key, b"", signature),
        (ALICE.public_key, b"data", flipped),
        (ALICE.public_key, b"data", b""),
        (ALICE.public_key, b"data", signature + b"\x00"),
        (b"", b"data", signature),
        (bytes(32), b"data", bytes(64)),  # a key of small order, which fits any message
        (b"\x01" + bytes(31), b"data", b"\x01" + bytes(63)),
    ):
        with pytest.raises(SignatureError):
            verify(key, data, tried)


def test_a_statement_is_its_owners() -> None:
    signed = ALICE.sign_statement(record_of(ALICE))
    verifier = Verifier()
    verifier.verify_statement(signed)
    with pytest.raises(LocalProtocolError, match="another key"):
        BOB.sign_statement(record_of(ALICE))
    for forged in (
        record_of(ALICE),
        dataclasses.replace(signed, incarnation=4),
        dataclasses.replace(signed, leaving=True),
        dataclasses.replace(signed, public_key=BOB.public_key),
        dataclasses.replace(signed, signature=bytes(64)),
    ):
        with pytest.raises(SignatureError):
            verifier.verify_statement(forged)


def test_a_statements_signature_is_no_signature_of_other_bytes() -> None:
    bare = record_of(ALICE)
    with pytest.raises(SignatureError):
        Verifier().verify_statement(dataclasses.replace(bare, signature=ALICE.sign(encode(bare))))


def test_nothing_good_is_checked_twice_and_nothing_bad_is_remembered() -> None:
    verifier = Verifier(cache_count_max=2)
    first, second, third = (dataclasses.replace(record_of(ALICE), incarnation=i) for i in range(3))
    signed = [ALICE.sign_statement(each) for each in (first, second, third)]
    for _ in range(3):
        verifier.verify_statement(signed[0])
    assert (verifier.hit_count, verifier.miss_count) == (2, 1)
    for each in signed:
        verifier.verify_statement(each)
    verifier.verify_statement(signed[0])
    assert verifier.miss_count == 4, "the oldest of three was forgotten"
    for _ in range(2):
        with pytest.raises(SignatureError):
            verifier.verify_statement(first)
    assert verifier.miss_count == 4, "a signature of the wrong size is not even looked up"
    for _ in range(2):
        with pytest.raises(SignatureError):
            verifier.verify_statement(dataclasses.replace(first, signature=bytes(64)))
    assert verifier.miss_count == 6
    with pytest.raises(ConfigError, match="cache_count_max"):
        Verifier(0)


def test_the_signature_asked_for_least_recently_is_forgotten_first() -> None:
    verifier = Verifier(cache_count_max=2)
    signed = [ALICE.sign_statement(dataclasses.replace(record_of(ALICE), incarnation=i)) for i in range(3)]
    for index in (0, 1, 0, 2, 0):
        verifier.verify_statement(signed[index])
    assert (verifier.hit_count, verifier.miss_count) == (2, 3)


def test_key_and_data_cannot_be_shifted_against_each_other() -> None:
    """The cache joins key, signature and data: another split of the same bytes is no hit."""
    verifier = Verifier()
    signature = ALICE.sign(b"data")
    verifier.verify(ALICE.public_key, b"data", signature)
    joined = ALICE.public_key + signature + b"data"
    for cut_at in (31, 33):
        with pytest.raises(SignatureError):
            verifier.verify(joined[:cut_at], joined[cut_at + 64 :], joined[cut_at : cut_at + 64])
    with pytest.raises(SignatureError):
        verifier.verify(joined[:32], joined[95:], joined[32:95])


@needs_posix
def test_a_key_file_is_private_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "identity"
    created = Identity.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert Identity.load(path) == created
    assert Identity.load_or_create(str(path)) == created
    assert os.listdir(path.parent) == ["identity"], "no draft stays behind"


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    path.write_bytes(b"precious")
    with pytest.raises(ConfigError, match="not overwritten"):
        Identity.create(path)
    assert path.read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["identity"]


def test_load_or_create_creates_once(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    assert Identity.load_or_create(path) == Identity.load_or_create(path)


def test_load_or_create_uses_the_key_of_a_faster_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "identity"
    winner = Identity.create(path)
    answers = iter([False, True])
    monkeypatch.setattr(os.path, "lexists", lambda _: next(answers))
    assert Identity.load_or_create(path) == winner


def test_there_is_no_identity_to_load(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        Identity.load(tmp_path / "identity")


@needs_posix
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_can_read_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity"
    Identity.create(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=rf"chmod 600 {path}"):
        Identity.load(path)


def test_a_damaged_key_file_is_refused_whatever_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    Identity.create(path)
    good = path.read_bytes()
    damages = [b"", b"\n\n\n", b"\xff" * 200, good[:-1], good[:60], good + b"x", good * 20]
    damages += [good.replace(b"identity", b"id"), bytes(len(good))]
    for place in range(0, len(good), 7):
        changed = bytearray(good)
        changed[place] ^= 1
        damages.append(bytes(changed))
    for damaged in damages:
        path.write_bytes(damaged)
        with pytest.raises(ConfigError) as caught:
            Identity.load(path)
        assert "\n" not in str(caught.value)
        assert good.split(b"\n")[1].decode() not in str(caught.value), "the secret is not in the message"
    path.write_bytes(good.replace(b"version 1", b"version 2"))
    with pytest.raises(ConfigError, match="newer p2pinfer"):
        Identity.load(path)


def test_a_disk_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="No space left"):
        Identity.create(tmp_path / "identity")
    assert os.listdir(tmp_path) == []
    with pytest.raises(StorageError, match="cannot be read"):
        Identity.load(tmp_path)
