"""What a peer is made of: home, planes, driver, engine and core, wired once."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, replace

from p2pinfer.addresses import advertised_endpoint
from p2pinfer.config import NodeConfig, Profile
from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.remembered import CONTACTS_KEY
from p2pinfer.identity import Verifier
from p2pinfer.ids import Contact, Endpoint
from p2pinfer.inference.config import EntryConfig, HopConfig
from p2pinfer.inference.standing import StandingConfig
from p2pinfer.models.store import ModelStore
from p2pinfer.peer_core import PeerConfig, PeerCore
from p2pinfer.runtime.client_service import renew_node_file
from p2pinfer.runtime.clock import Clock
from p2pinfer.runtime.datagrams import Datagrams
from p2pinfer.runtime.discovery.setup import Search, make_search
from p2pinfer.runtime.disk import Disk
from p2pinfer.runtime.driver import Driver
from p2pinfer.runtime.handshake import Credentials
from p2pinfer.runtime.home import Home, load_keyring
from p2pinfer.runtime.own_address import OwnAddress
from p2pinfer.runtime.planes import Inputs, Planes
from p2pinfer.runtime.sockets import Sockets
from p2pinfer.runtime.streams import Streams, StreamsEvents
from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.keyring import KEYRING_KEY
from p2pinfer.wire.envelope import Envelopes

__all__ = ["Parts", "compose"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a peer is made of."""

    config: NodeConfig
    home: Home
    clock: Clock
    core: PeerCore
    driver: Driver[PeerCore]
    planes: Planes
    streams: Streams
    datagrams: Datagrams
    store: ModelStore
    search: Search
    own_address: OwnAddress


def compose(config: NodeConfig, home: Home, clock: Clock, disk: Disk, sockets: Sockets) -> Parts:
    """Make all parts of a peer and wire them; nothing runs yet.

    Args:
        config: The node's settings.
        home: Who the peer is, and its swarm.
        clock: The peer's.
        disk: What survives a crash.
        sockets: Bound already, since the port that is advertised may be the system's choice.
    """
    endpoint = advertised_endpoint(config, sockets.endpoint.port)
    verifier = Verifier()
    core_config = _core_config(config)
    dht = replace(core_config.dht, id_difficulty=home.swarm.difficulty)
    core_config = replace(core_config, owner=b"" if home.swarm.is_open else home.swarm.id, dht=dht)
    kept = disk.load()
    core = PeerCore(
        public_key=home.identity.public_key,
        endpoint=endpoint,
        config=core_config,
        rng=random.Random(os.urandom(32)),
        sign=home.identity.sign_statement,
        now=clock.now(),
    )
    envelopes = Envelopes(home.identity, home.swarm, home.membership, verifier)
    if CONTACTS_KEY in kept:
        core.dht.restore(kept[CONTACTS_KEY], clock.now())
    keyring = load_keyring(home, kept.get(KEYRING_KEY), verifier)
    if keyring is not None:
        core.keyring.restore(keyring)
        envelopes.use_keyring(keyring)
    events = StreamsEvents()
    credentials = Credentials(home.identity, home.swarm, home.membership, verifier)
    streams = Streams(credentials, endpoint, clock=clock, events=events)
    inputs: list[Inputs] = []  # the planes want somebody to tell before the driver is there
    datagrams = Datagrams(
        sockets.datagrams,
        envelopes,
        clock,
        lambda sender, message: inputs[0].on_datagram(sender, message),
        lambda sender: inputs[0].on_unopened(sender),
    )
    planes = Planes(datagrams, streams, disk)
    driver = Driver(core, clock=clock, performer=planes)
    inputs.append(Inputs(driver))
    events.on_messages = inputs[0].on_messages
    events.on_disconnect = inputs[0].on_disconnect
    store = ModelStore(config.models_dir)
    hosts = tuple(str(sock.getsockname()[0]) for sock in sockets.datagrams)
    search = make_search(config, home, clock, driver, hosts, core_config.swim.probe_interval_s)

    def move(to: Endpoint) -> None:
        driver.put(lambda core, now: core.set_endpoint(to, now))
        streams.set_endpoint(to)
        search.move(Contact(home.identity.peer_id, to))
        renew_node_file(config.node_path, to, home)

    own_address = OwnAddress(config, endpoint, move)
    planes.on_address_seen = own_address.seen
    return Parts(config, home, clock, core, driver, planes, streams, datagrams, store, search, own_address)


def _core_config(config: NodeConfig) -> PeerConfig:
    hop = HopConfig(memory_size_bytes_max=config.cache_size_bytes_max)
    kept_count = 0 if config.reuse == "off" else EntryConfig().parked_count_max
    entry = EntryConfig(
        parked_count_max=kept_count,
        reuse_answers=config.reuse == "all",
        standing=StandingConfig(balancer=config.balancer),
    )
    match config.profile:
        case Profile.LOCAL:
            return PeerConfig(swim=SwimConfig.local(), dht=DhtConfig.lan(), hop=hop, entry=entry)
        case Profile.LAN:
            return PeerConfig(swim=SwimConfig.lan(), dht=DhtConfig.lan(), hop=hop, entry=entry)
        case Profile.WAN:
            # Around the world a round trip takes up to a second, and a dial several of them.
            entry = replace(entry, open_timeout_s=6.0, step_timeout_min_s=3.0, probe_timeout_s=3.0)
            return PeerConfig(swim=SwimConfig.wan(), dht=DhtConfig.wan(), hop=hop, entry=entry)
