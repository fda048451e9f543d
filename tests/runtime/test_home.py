"""A peer's home: founding, joining, coming back, and what is refused."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from p2pinfer.errors import ConfigError
from p2pinfer.identity import Verifier
from p2pinfer.ids import Endpoint
from p2pinfer.membership import check_membership
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
