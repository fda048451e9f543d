"""Settings: what is read, what is refused, and that the message says enough to mend it."""

from __future__ import annotations

import dataclasses
import logging
import socket
from pathlib import Path
from typing import Any

import pytest

from p2pinfer.addresses import advertised_endpoint
from p2pinfer.cli.settings_page import settings_page
from p2pinfer.config import BALANCERS, NodeConfig, Profile, load_config, node_config
from p2pinfer.errors import ConfigError
from p2pinfer.ids import Endpoint, Span
from p2pinfer.inference import balancing
from p2pinfer.inference.standing import StandingConfig
from p2pinfer.readers import read_size_bytes

ROOT = Path(__file__).parent.parent


def test_the_defaults_are_right_and_the_object_is_frozen() -> None:
    config = NodeConfig()
    assert config.listen == Endpoint("0.0.0.0", 7946)
    assert config.identity_path.parent == config.data_dir
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.name = "x"  # type: ignore[misc]


def test_every_field_can_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(
        'name = "cellar"\nlisten = "[::1]:0"\nadvertise = "10.0.0.5:7946"\njoin = ["10.0.0.6:7946"]\n'
        'model = "smollm2:135m"\nfile = "a.gguf"\nspan = "3:9"\ndata_dir = "d"\ncache_dir = "~/c"\n'
        'threads = 2\ncache_size_bytes_max = "2GiB"\nprofile = "wan"\nengine = "numpy"\nlog_level = "debug"\n'
        'pull = false\nbalancer = "adaptive"\nbootstrap = ["peers.example:7946", "[fd00::2]:1"]\n'
        "multicast = false\n"
    )
    assert load_config(path) == NodeConfig(
        name="cellar",
        listen=Endpoint("::1", 0),
        advertise=Endpoint("10.0.0.5", 7946),
        join=("10.0.0.6:7946",),
        model="smollm2:135m",
        pull=False,
        file=Path("a.gguf"),
        span=Span(3, 9),
        data_dir=Path("d"),
        cache_dir=Path("~/c").expanduser(),
        threads=2,
        cache_size_bytes_max=2 << 30,
        profile=Profile.WAN,
        engine="numpy",
        log_level="debug",
        balancer="adaptive",
        bootstrap=(Endpoint("peers.example", 7946), Endpoint("fd00::2", 1)),
        multicast=False,
    )


def test_a_flag_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text('name = "file"\nspan = "0:2"\n')
    config = load_config(path, {"name": "flag", "model": "m"})
    assert (config.name, config.span, config.model) == ("flag", Span(0, 2), "m")


def test_an_unknown_key_names_the_nearest_known_one(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text('lisen = "0.0.0.0:1"\n')
    with pytest.raises(ConfigError, match=r"node\.toml: unknown setting 'lisen'; did you mean 'listen'\?"):
        load_config(path)
    with pytest.raises(ConfigError, match="did you mean 'data_dir'"):
        node_config({"data-dir": "x"})
    with pytest.raises(ConfigError, match="known are accuracy, advertise, balancer"):
        node_config({"zzzzzz": 1})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"listen": "7946"}, "listen: '7946' is not host:port"),
        ({"listen": 7946}, "listen: 7946 is not text"),
        ({"span": "5"}, "span: '5' is not a span"),
        ({"span": "5:5"}, "start < end"),
        ({"span": "0:5"}, r"span = .* together with model or file"),
        ({"threads": -1}, "threads: -1 is not a whole number"),
        ({"threads": 1.5}, "threads: 1.5 is not a whole number"),
        ({"threads": True}, "threads: True is not a whole number"),
        ({"threads": 5000}, "threads = '5000': it must be 0 to 1024"),
        ({"cache_size_bytes_max": "1 elephant"}, "is not a size"),
        ({"cache_size_bytes_max": "4KiB"}, "at least 1MiB"),
        ({"profile": "mars"}, "profile: 'mars' is not one of local, lan, wan"),
        ({"accuracy": "int4"}, "accuracy: 'int4' is not one of int8, int8-fast, float32"),
        ({"engine": "abacus"}, "engine: 'abacus' is not one of auto, onnx, numpy"),
        ({"log_level": "loud"}, "log_level: 'loud' is not one of"),
        ({"name": "a\nb"}, "printable"),
        ({"name": "x" * 64}, "at most 63"),
        ({"model": "é" * 65}, "at most 128 bytes"),
        ({"join": "10.0.0.1:1"}, "join: .* is not a list"),
        ({"join": ["a b"]}, "join = 'a b'"),
        ({"join": ["1.2.3.4:5"], "advertise": "1.2.3.4:5"}, "another node"),
        ({"bootstrap": "10.0.0.1:1"}, "bootstrap: .* is not a list"),
        ({"bootstrap": ["nowhere"]}, "bootstrap: 'nowhere' is not host:port"),
        ({"bootstrap": ["0.0.0.0:1"]}, "bootstrap = .* where another node listens"),
        ({"bootstrap": ["10.0.0.1:0"]}, "bootstrap = .* where another node listens"),
        ({"advertise": "0.0.0.0:1"}, "advertise = .* others can send to"),
        ({"pull": "no"}, "pull: 'no' is neither true nor false"),
        ({"file": ""}, "file: the path is empty"),
        ({"data_dir": 3}, "data_dir: 3 is not text"),
    ],
)
def test_a_wrong_value_is_refused_by_name_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        node_config(values)
    assert "\n" not in str(caught.value)


def test_a_config_made_in_code_is_checked_as_well() -> None:
    with pytest.raises(ConfigError, match="threads"):
        NodeConfig(threads=-1)
    with pytest.raises(ConfigError, match="engine"):
        NodeConfig(engine="abacus")
    with pytest.raises(ConfigError, match="accuracy"):
        NodeConfig(accuracy="int4")
    with pytest.raises(ConfigError, match="log_level"):
        NodeConfig(log_level="loud")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot read the settings"), (b"name = ", "not a TOML file"), (b"\xff", "not a TOML file")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "node.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"node\.toml: {message}"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("0", 0), ("512", 512), ("1KiB", 1024), ("1.5 GiB", 3 << 29), ("2gb", 2 * 10**9), (7, 7), ("3 B", 3)],
)
def test_sizes_are_read(text: object, size_bytes: int) -> None:
    assert read_size_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "1e9", "1.2.3MB", "٣MB", "1GiBs", True, 1.5j])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        read_size_bytes(text)


def test_what_is_set_is_advertised() -> None:
    config = NodeConfig(advertise=Endpoint("example.org", 0))
    assert advertised_endpoint(config, 4000) == Endpoint("example.org", 4000)
    config = NodeConfig(listen=Endpoint("127.0.0.1", 0))
    assert advertised_endpoint(config, 4000) == Endpoint("127.0.0.1", 4000)
    config = NodeConfig(listen=Endpoint("127.0.0.1", 7946))
    assert advertised_endpoint(config, 7946) == Endpoint("127.0.0.1", 7946)


def test_every_interface_is_never_advertised() -> None:
    assert advertised_endpoint(NodeConfig(), 4000).host not in ("0.0.0.0", "::")


@pytest.mark.parametrize(("any_host", "local"), [("0.0.0.0", "127.0.0.1"), ("::", "::1")])
def test_without_a_route_outwards_it_is_this_machine_with_a_warning(
    any_host: str, local: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_route(*_: object) -> socket.socket:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "socket", no_route)
    with caplog.at_level(logging.WARNING):
        assert advertised_endpoint(NodeConfig(listen=Endpoint(any_host, 1)), 4000) == Endpoint(local, 4000)
    assert "--advertise" in caplog.text


def test_the_page_of_settings_is_up_to_date() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == settings_page(), "run make docs"


def test_every_balancer_can_be_chosen_and_no_other() -> None:
    assert tuple(balancing.BALANCERS) == BALANCERS
    assert NodeConfig().balancer == StandingConfig().balancer
    assert node_config({"balancer": "adaptive"}).balancer == "adaptive"
    with pytest.raises(ConfigError, match=r"balancer.*'best' is not one of round_robin"):
        node_config({"balancer": "best"})
    with pytest.raises(ConfigError, match=r"balancer = 'best': it must be one of round_robin"):
        NodeConfig(balancer="best")
