"""A peer's home: founding, joining, coming back, and what is refused."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from p2pinfer.errors import ConfigError
from p2pinfer.identity import Identity, Verifier
from p2pinfer.ids import Endpoint
from p2pinfer.membership import Invite, check_membership
from p2pinfer.puzzle import zero_bits
from p2pinfer.runtime.home import client_home, invited_client, make_invite, open_home

NOW = 1_800_000_000.0
ADDRESS = Endpoint("10.0.0.1", 7946)
DAY_S = 86400.0


def invite(directory: Path, valid_s: float = DAY_S) -> str:
    return str(make_invite(directory, [ADDRESS], valid_s, NOW))


def test_a_founder_and_who_it_invites_are_members(tmp_path: Path) -> None:
    founder = open_home(tmp_path / "a", [], NOW)
    joiner = open_home(tmp_path / "b", [invite(tmp_path / "a")], NOW)
    assert founder.swarm == joiner.swarm
    assert founder.addresses == ()
    assert joiner.addresses == (ADDRESS,)
    for home in (founder, joiner, client_home(tmp_path / "a"), client_home(tmp_path / "b")):
        check_membership(founder.swarm, home.identity.public_key, home.membership, NOW, Verifier())
    guest = invited_client(invite(tmp_path / "a"), NOW)
    check_membership(founder.swarm, guest.identity.public_key, guest.membership, NOW, Verifier())


def test_a_peer_comes_back_as_itself_through_the_addresses_of_its_invite(tmp_path: Path) -> None:
    open_home(tmp_path / "a", [], NOW)
    first = open_home(tmp_path / "b", [invite(tmp_path / "a")], NOW)
    again = open_home(tmp_path / "b", [], NOW)
    assert again.identity == first.identity
    assert again.membership == first.membership
    assert again.addresses == (ADDRESS,)
    assert open_home(tmp_path / "b", ["10.0.0.7:1"], NOW).addresses == (Endpoint("10.0.0.7", 1),)


def test_every_file_is_its_owners_alone(tmp_path: Path) -> None:
    open_home(tmp_path / "a", [], NOW)
    for path in (tmp_path / "a").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_what_is_refused_names_the_remedy(tmp_path: Path) -> None:
    open_home(tmp_path / "a", [], NOW)
    open_home(tmp_path / "b", [], NOW)
    with pytest.raises(ConfigError, match="name another directory with --data-dir"):
        open_home(tmp_path / "b", [invite(tmp_path / "a")], NOW)
    with pytest.raises(ConfigError, match="different swarms"):
        open_home(tmp_path / "c", [invite(tmp_path / "a"), invite(tmp_path / "b")], NOW)
    with pytest.raises(ConfigError, match="run out"):
        open_home(tmp_path / "d", [invite(tmp_path / "a", valid_s=1.0)], NOW + 2)
    with pytest.raises(ConfigError, match="join with an invite"):
        open_home(tmp_path / "e", ["10.0.0.1:1"], NOW)
    with pytest.raises(ConfigError, match="no invite"):
        open_home(tmp_path / "e", ["nonsense"], NOW)
    with pytest.raises(ConfigError, match="start a node first"):
        client_home(tmp_path / "nobody")
    with pytest.raises(ConfigError, match="where the swarm was founded"):
        make_invite(tmp_path / "nobody", [ADDRESS], DAY_S, NOW)


def test_a_failed_join_leaves_nothing_that_hinders_the_next(tmp_path: Path) -> None:
    open_home(tmp_path / "a", [], NOW)
    with pytest.raises(ConfigError):
        open_home(tmp_path / "d", [invite(tmp_path / "a", valid_s=1.0)], NOW + 2)
    assert open_home(tmp_path / "d", [invite(tmp_path / "a")], NOW).addresses == (ADDRESS,)


@pytest.mark.parametrize(
    "damage", [b"", b"{", b'{"swarm": 1}', b'{"swarm": "00", "open": 0, "addresses": []}']
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: bytes) -> None:
    open_home(tmp_path / "a", [], NOW)
    (tmp_path / "a" / "swarm.json").write_bytes(damage)
    with pytest.raises(ConfigError, match=r"swarm\.json is damaged"):
        open_home(tmp_path / "a", [], NOW)


def test_a_missing_membership_is_named(tmp_path: Path) -> None:
    open_home(tmp_path / "a", [], NOW)
    (tmp_path / "a" / "membership").unlink()
    with pytest.raises(ConfigError, match="membership"):
        open_home(tmp_path / "a", [], NOW)


def unfit(path: Path, difficulty: int) -> Identity:
    """A key file whose id does not have that much work in it."""
    while True:
        identity = Identity.create(path)
        if zero_bits(identity.peer_id) < difficulty:
            return identity
        path.unlink()


def test_a_swarm_founded_with_a_puzzle_has_it_in_its_invites_and_all_its_keys_fit(tmp_path: Path) -> None:
    founder = open_home(tmp_path / "a", [], NOW, 8)
    text = invite(tmp_path / "a")
    assert Invite.parse(text).swarm.difficulty == 8
    joiner = open_home(tmp_path / "b", [text], NOW)
    homes = (founder, joiner, client_home(tmp_path / "a"), client_home(tmp_path / "b"))
    for home in (*homes, invited_client(text, NOW)):
        assert zero_bits(home.identity.peer_id) >= 8
        check_membership(founder.swarm, home.identity.public_key, home.membership, NOW, Verifier())
    again = open_home(tmp_path / "a", [], NOW)
    assert (again.identity, again.swarm) == (founder.identity, founder.swarm)
    assert open_home(tmp_path / "b", [], NOW, 8).swarm.difficulty == 8


def test_a_key_that_was_admitted_nowhere_makes_way_for_one_that_fits(tmp_path: Path) -> None:
    open_home(tmp_path / "a", [], NOW, 10)
    old = unfit(tmp_path / "b" / "identity.key", 10)
    client = unfit(tmp_path / "b" / "client.key", 10)
    joiner = open_home(tmp_path / "b", [invite(tmp_path / "a")], NOW)
    assert joiner.identity != old
    assert zero_bits(joiner.identity.peer_id) >= 10
    assert zero_bits(client_home(tmp_path / "b").identity.peer_id) >= 10
    for kept in (old, client):
        name = "identity" if kept is old else "client"
        assert Identity.load(tmp_path / "b" / f"{name}.{kept.peer_id.short}.key") == kept, "nothing is lost"


def test_a_key_that_others_know_is_left_and_the_remedy_is_named(tmp_path: Path) -> None:
    open_home(tmp_path / "a", [], NOW, 10)
    open_home(tmp_path / "b", [invite(tmp_path / "a")], NOW)
    (tmp_path / "b" / "identity.key").unlink()
    old = unfit(tmp_path / "b" / "identity.key", 10)
    for join in ([], [invite(tmp_path / "a")]):
        with pytest.raises(ConfigError, match=r"lacks the work .* another --data-dir"):
            open_home(tmp_path / "b", join, NOW)
    assert Identity.load(tmp_path / "b" / "identity.key") == old


def test_the_difficulty_is_set_once_where_the_swarm_is_founded(tmp_path: Path) -> None:
    open_home(tmp_path / "a", [], NOW, 4)
    text = invite(tmp_path / "a")
    for directory, join in ((tmp_path / "a", []), (tmp_path / "c", [text])):
        with pytest.raises(ConfigError, match="was founded with 4; leave the setting out"):
            open_home(directory, join, NOW, 5)


def test_a_swarm_file_of_before_means_no_difficulty(tmp_path: Path) -> None:
    home = open_home(tmp_path / "a", [], NOW)
    path = tmp_path / "a" / "swarm.json"
    path.write_text(path.read_text().replace(' "difficulty": 0,\n', ""))
    assert "difficulty" not in path.read_text()
    assert open_home(tmp_path / "a", [], NOW).swarm == home.swarm


def test_a_swarms_address_leads_back_and_gives_no_right(tmp_path: Path) -> None:
    founder = open_home(tmp_path / "a", [], NOW)
    open_home(tmp_path / "b", [invite(tmp_path / "a")], NOW)
    bare = f"p2pinfer://{str(founder.swarm.id)[:8]}"
    assert open_home(tmp_path / "b", [bare], NOW).addresses == (ADDRESS,)
    moved = Endpoint("10.0.0.7", 1)
    assert open_home(tmp_path / "b", [f"{bare}@{moved}"], NOW).addresses == (moved, ADDRESS)
    with pytest.raises(ConfigError, match="a member of no swarm yet: join with an invite"):
        open_home(tmp_path / "c", [bare], NOW)
    with_both = open_home(tmp_path / "d", [invite(tmp_path / "a"), f"{bare}@{moved}"], NOW)
    assert with_both.addresses == (moved, ADDRESS), "an old invite with a fresh address"
    with pytest.raises(ConfigError, match="the address is that of swarm 00000000"):
        open_home(tmp_path / "b", ["p2pinfer://00000000"], NOW)
    with pytest.raises(ConfigError, match="the address is that of swarm 00000000"):
        open_home(tmp_path / "e", [invite(tmp_path / "a"), "p2pinfer://00000000"], NOW)
