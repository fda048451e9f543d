"""What an owner may make of a keyring, one version after the other."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies

from p2pinfer.errors import ConfigError
from p2pinfer.swim.rotation import first_keyring, install_key, remove_key, use_key
from p2pinfer.wire.codec import decode, encode
from p2pinfer.wire.messages.keyring import KEYS_COUNT_MAX, Keyring, key_id
from tests.swim.swarm import key, sign

OWNER = key(99)
KEYS = [bytes((number,)) * 32 for number in range(8)]
IDS = [key_id(each) for each in KEYS]


def first() -> Keyring:
    return first_keyring(OWNER, KEYS[0], sign)


def test_a_rotation_is_three_versions() -> None:
    installed = install_key(first(), KEYS[1], sign)
    used = use_key(installed, IDS[1], sign)
    removed = remove_key(used, IDS[0], sign)
    assert [each.version for each in (installed, used, removed)] == [2, 3, 4]
    assert [each.notice.primary for each in (installed, used, removed)] == [IDS[0], IDS[1], IDS[1]]
    assert [each.key_ids for each in (installed, used, removed)] == [(*IDS[:2],), (*IDS[:2],), (IDS[1],)]
    assert all(each.is_sound(OWNER) for each in (first(), installed, used, removed))


def test_what_is_refused_names_the_remedy() -> None:
    ring = first()
    with pytest.raises(ConfigError, match="is in use: use another one first"):
        remove_key(ring, IDS[0], sign)
    with pytest.raises(ConfigError, match="in use already"):
        use_key(ring, IDS[0], sign)
    for change in (use_key, remove_key):
        with pytest.raises(
            ConfigError, match=f"no key {IDS[5].hex()} in the keyring, which has {IDS[0].hex()}"
        ):
            change(ring, IDS[5], sign)
    with pytest.raises(ConfigError, match="a key of that id"):
        install_key(ring, KEYS[0], sign)
    for number in range(1, KEYS_COUNT_MAX):
        ring = install_key(ring, KEYS[number], sign)
    with pytest.raises(ConfigError, match="has 4 keys already: remove one first"):
        install_key(ring, KEYS[5], sign)


def test_a_keyring_shows_no_key_to_people() -> None:
    ring = install_key(first(), KEYS[1], sign)
    for text in (repr(ring), str(ring), f"{ring!r}"):
        assert all(each.hex() not in text and repr(each)[2:-1] not in text for each in KEYS[:2])


@pytest.mark.parametrize("what", ["key", "order", "primary", "owner", "twice", "none"])
def test_parts_that_do_not_belong_together_are_no_keyring(what: str) -> None:
    ring = install_key(first(), KEYS[1], sign)
    notice, keys = ring.notice, ring.keys
    changed = {
        "key": Keyring(notice=notice, keys=(KEYS[0], KEYS[2])),
        "order": Keyring(notice=notice, keys=(KEYS[1], KEYS[0])),
        "primary": first_keyring(OWNER, KEYS[3], sign),
        "owner": ring,
        "twice": Keyring(notice=notice, keys=(*keys, KEYS[0])),
        "none": Keyring(notice=notice, keys=()),
    }[what]
    if what == "primary":
        changed = Keyring(notice=changed.notice, keys=keys)
    assert not changed.is_sound(key(98) if what == "owner" else OWNER)


@hypothesis.given(
    strategies.lists(
        strategies.tuples(strategies.sampled_from(["install", "use", "remove"]), strategies.integers(0, 7)),
        max_size=30,
    )
)
@hypothesis.settings(max_examples=200, derandomize=True, deadline=None)
def test_whatever_the_owner_does_neighbours_understand_each_other(steps: list[tuple[str, int]]) -> None:
    """What one version seals with, the version before and the one after it open: no step makes a gap."""
    ring = first()
    for what, number in steps:
        before = ring
        try:
            if what == "install":
                ring = install_key(ring, KEYS[number], sign)
            elif what == "use":
                ring = use_key(ring, IDS[number], sign)
            else:
                ring = remove_key(ring, IDS[number], sign)
        except ConfigError:
            continue
        assert ring.version == before.version + 1
        assert ring.is_sound(OWNER)
        assert before.notice.primary in ring.key_ids
        assert ring.notice.primary in before.key_ids
        assert 1 <= len(ring.keys) <= KEYS_COUNT_MAX
        assert decode(encode(ring)) == ring
