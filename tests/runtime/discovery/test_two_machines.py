"""Multicast between two machines, as far as network namespaces are machines; the cable is changed once."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest


def have_namespaces() -> bool:
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    trial = ["unshare", "-n", "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"]
    return subprocess.run(trial, check=False, capture_output=True).returncode == 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("host", ["0.0.0.0", "fe80::1"])
def test_two_machines_hear_each_other_again_after_their_network_was_away(host: str) -> None:
    """Each family by itself: of an address with fe80 every link takes part, and IPv6 alone."""
    if not have_namespaces():
        pytest.skip("network namespaces need Linux, root, unshare and ip")
    command = ["unshare", "-n", sys.executable, "-m", "tests.runtime.discovery.two_machines", host]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=55)
    assert done.stdout.splitlines()[-1:] == ["heard twice"], done.stderr
