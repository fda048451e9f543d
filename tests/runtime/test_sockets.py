from __future__ import annotations

import socket

import pytest

from p2pinfer.errors import ConfigError
from p2pinfer.ids import Endpoint
from p2pinfer.runtime.sockets import open_sockets, split_address
from tests.runtime.swarm import LOOPBACK


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_both_planes_have_one_port() -> None:
    sockets = open_sockets(LOOPBACK)
    ports = {sock.getsockname()[1] for sock in (*sockets.listeners, *sockets.datagrams)}
    assert ports == {sockets.endpoint.port}
    assert sockets.endpoint.port > 0
    sockets.close()


def test_a_port_that_is_taken_is_named_and_nothing_stays_open() -> None:
    taken = open_sockets(LOOPBACK)
    with pytest.raises(ConfigError, match=f"cannot listen on {taken.endpoint}: .*choose"):
        open_sockets(taken.endpoint)
    taken.close()
    open_sockets(taken.endpoint).close()


def test_a_port_that_only_datagrams_have_taken_is_refused_as_well() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigError):
            open_sockets(Endpoint("127.0.0.1", taken.getsockname()[1]))


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_of_another_machine_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*rest: object, **named: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    if host.endswith("invalid"):
        monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ConfigError, match=f"cannot listen on {host}"):
        open_sockets(Endpoint(host, 0))


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_the_unspecified_address_of_ipv6_serves_ipv4_too() -> None:
    sockets = open_sockets(Endpoint("::", 0))
    with socket.create_connection(("127.0.0.1", sockets.endpoint.port)) as client:
        own, _ = sockets.listeners[0].accept()
        assert split_address(own.getpeername()) == Endpoint("127.0.0.1", client.getsockname()[1])
        own.close()
    sockets.close()


def test_addresses_of_either_family_become_endpoints() -> None:
    assert split_address(("10.0.0.1", 5)) == Endpoint("10.0.0.1", 5)
    assert split_address(("::1", 5, 0, 0)) == Endpoint("::1", 5)
    assert split_address(("fe80::1%eth0", 5, 0, 2)) == Endpoint("fe80::1", 5)
    assert split_address(("::ffff:10.0.0.1", 5, 0, 0)) == Endpoint("10.0.0.1", 5)
