"""All that a node is told, checked once, then never changed.

Rules:

1. A value that is there is right: every field and every relation is checked when a `NodeConfig` is made, so
   whoever holds one need not check again. The message names the field, the value and the rule.
2. Each field carries its own text, reader and flag, so the file, the command line and `docs/settings.md`
   cannot tell three stories.

The cores have settings of their own beside them (`swim`, `dht`, ...); `profile` chooses among their presets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from p2pinfer.config.choices import (
    ACCURACIES,
    ANY_HOSTS,
    BALANCERS,
    CACHE_SIZE_BYTES_MIN,
    CHOICES,
    DEFAULT_PORT,
    ENGINES,
    ID_DIFFICULTY_MAX,
    LOG_LEVELS,
    MODEL_SIZE_BYTES_MAX,
    NAME_SIZE_BYTES_MAX,
    REUSES,
    THREADS_COUNT_MAX,
    Profile,
)
from p2pinfer.errors import ConfigError
from p2pinfer.ids import Endpoint, Span
from p2pinfer.readers import (
    one_of,
    read_count,
    read_endpoint,
    read_endpoints,
    read_path,
    read_size_bytes,
    read_span,
    read_switch,
    read_text,
    read_texts,
)

__all__ = ["NodeConfig"]


def _read_profile(value: object) -> Profile:
    return value if isinstance(value, Profile) else Profile(one_of(value, [each.value for each in Profile]))


def _read_word(name: str) -> Callable[[object], str]:
    """Return the reader of a field that takes one of a few words."""
    return lambda value: one_of(value, CHOICES[name])


def _about(read: Callable[[object], Any], text: str, *, flag: str = "", metavar: str = "") -> dict[str, Any]:
    """Return a field's metadata: how it is read, what people are told, and its flag where not `--name`."""
    return {"read": read, "help": text, "flag": flag, "metavar": metavar}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """All that a node is told. The texts in the metadata are what `--help` and `docs/settings.md` show.

    Raises:
        ConfigError: A field is wrong by itself or does not fit another; nothing was started.
    """

    name: str = field(
        default="",
        metadata=_about(read_text, "What people call this node, at most 63 bytes. Default: its id."),
    )
    listen: Endpoint = field(
        default=Endpoint("0.0.0.0", DEFAULT_PORT),
        metadata=_about(
            read_endpoint,
            "Address and port to listen on, UDP and TCP alike. 0.0.0.0 means every interface; port 0 lets "
            "the system choose a free one.",
            metavar="HOST:PORT",
        ),
    )
    advertise: Endpoint | None = field(
        default=None,
        metadata=_about(
            read_endpoint,
            "Where other peers reach this node, if that is not the listen address: behind a NAT, in a "
            "container. Port 0 stands for the port listened on. Default: the listen address, or for 0.0.0.0 "
            "the address this machine uses towards the internet.",
            metavar="HOST:PORT",
        ),
    )
    join: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            read_texts,
            "An invite of the swarm to join, or, for a node that is a member already, the address of "
            "another (HOST:PORT) or of the swarm (p2pinfer://SWARM); there may be several. None: the node "
            "goes back to the swarm of its data directory, or founds one.",
            metavar="INVITE",
        ),
    )
    id_difficulty: int = field(
        default=0,
        metadata=_about(
            read_count,
            "For a node that founds a swarm: the work in the id of every peer, 0 to 24 bits, so that nobody "
            "makes thousands of them. Making a key takes about 20 us times 2^bits, once: 1 to 2 s for 16 "
            "bits, 6 minutes for 24. Others have it from their invite.",
            metavar="BITS",
        ),
    )
    bootstrap: tuple[Endpoint, ...] = field(
        default=(),
        metadata=_about(
            read_endpoints,
            "An address, or a name with one or several, where others of the swarm may be; there may be "
            "several. Names are looked up again from time to time. It is no error if nobody is there, and "
            "an invite is needed all the same.",
            metavar="HOST:PORT",
        ),
    )
    multicast: bool = field(
        default=True,
        metadata=_about(
            read_switch,
            "Whether the node announces itself to others of its swarm on the local network, and listens for "
            "them. A node that listens on 127.0.0.1 alone stays on this machine.",
            flag="--no-multicast",
        ),
    )
    model: str = field(
        default="",
        metadata=_about(
            read_text,
            "The model to serve, as in smollm2:135m. Empty: serve no layers, only take requests.",
        ),
    )
    pull: bool = field(
        default=True,
        metadata=_about(
            read_switch,
            "Whether a model that is not on this machine is pulled. With --no-pull the node does not start "
            "then, and says how to get it.",
            flag="--no-pull",
        ),
    )
    file: Path | None = field(
        default=None,
        metadata=_about(read_path, "A GGUF file to serve, in place of a pulled model.", metavar="PATH"),
    )
    span: Span | None = field(
        default=None,
        metadata=_about(
            read_span,
            'The layers to serve: "auto" lets the peers share them out; start:end is half-open, so 0:10 '
            "means layers 0 to 9.",
            metavar="auto|START:END",
        ),
    )
    data_dir: Path = field(
        default_factory=lambda: Path(platformdirs.user_data_dir("p2pinfer", appauthor=False)),
        metadata=_about(
            read_path,
            "Where the node keeps its key, its membership and its state. Every node on a machine needs its "
            "own.",
            metavar="DIR",
        ),
    )
    cache_dir: Path = field(
        default_factory=lambda: Path(platformdirs.user_cache_dir("p2pinfer", appauthor=False)),
        metadata=_about(
            read_path,
            "Where pulled models are kept. Nodes on one machine may share it.",
            metavar="DIR",
        ),
    )
    threads: int = field(
        default=0,
        metadata=_about(
            read_count,
            "Threads that compute, 0 to 1024. 0 leaves the choice to the engine.",
            metavar="N",
        ),
    )
    cache_size_bytes_max: int = field(
        default=1 << 30,
        metadata=_about(
            read_size_bytes,
            "Memory for the key-value caches of all sessions together, at least 1MiB; what does not fit is "
            "refused before anything is computed.",
            flag="--cache-size",
            metavar="SIZE",
        ),
    )
    profile: Profile = field(
        default=Profile.LAN,
        metadata=_about(
            _read_profile,
            "How far the peers are from each other: local (one machine), lan or wan. It sets the timeouts "
            "and should be the same on every node of a swarm.",
            metavar="local|lan|wan",
        ),
    )
    engine: str = field(
        default="auto",
        metadata=_about(
            _read_word("engine"),
            "What computes the layers: onnx (onnxruntime, fast), numpy (the reference), or auto, which takes "
            "onnx where it is installed and can compute the model. The same on all holders of a model.",
            metavar="|".join(ENGINES),
        ),
    )
    reuse: str = field(
        default="all",
        metadata=_about(
            _read_word("reuse"),
            "What a chat's next turn may go on from, as far as the same nodes still keep it: all that was "
            "computed, prompts only (the last answer is read again, and no text depends on what was kept), "
            "or off.",
            metavar="|".join(REUSES),
        ),
    )
    balancer: str = field(
        default="power_of_two",
        metadata=_about(
            _read_word("balancer"),
            "Who of equal holders takes a session that is asked for here: "
            f"{', '.join(BALANCERS)}. client_address keeps a client's requests on one holder, "
            "consistent_hash those whose prompts begin alike. While holders do not tell their resources, "
            "resource_aware is weighted_round_robin.",
            metavar="NAME",
        ),
    )
    accuracy: str = field(
        default="int8",
        metadata=_about(
            _read_word("accuracy"),
            "How the engine onnx multiplies: int8 rounds activations to eight bits in blocks, as llama.cpp "
            "does; float32 does not: tokens take 1.7 times as long, prompts two thirds, and several requests "
            "gain nothing from being computed at once. int8-fast is int8 without the promise that a node "
            "that takes over gives the same last bits: a quarter faster for a single request on x86 without "
            "AVX-512, the same elsewhere. The same on all holders of a model.",
            metavar="|".join(ACCURACIES),
        ),
    )
    log_level: str = field(
        default="info",
        metadata=_about(
            _read_word("log_level"),
            f"How much is logged to the error output: {', '.join(LOG_LEVELS)}.",
            metavar="LEVEL",
        ),
    )

    def __post_init__(self) -> None:
        self._check_fields()
        self._check_relations()

    def _check_fields(self) -> None:
        """Check each field by itself, however the object was made."""
        if len(self.name.encode()) > NAME_SIZE_BYTES_MAX or not self.name.isprintable():
            raise _wrong("name", self.name, f"at most {NAME_SIZE_BYTES_MAX} bytes of printable text")
        if len(self.model.encode()) > MODEL_SIZE_BYTES_MAX or not self.model.isprintable():
            raise _wrong("model", self.model, f"at most {MODEL_SIZE_BYTES_MAX} bytes of printable text")
        for entry in self.join:
            if not entry or not entry.isprintable() or " " in entry:
                raise _wrong("join", entry, "an invite or an address as in 192.168.1.5:7946, without spaces")
        for endpoint in self.bootstrap:
            if not endpoint.port or endpoint.host in ANY_HOSTS:
                raise _wrong("bootstrap", endpoint, "where another node listens, with its port")
        if not 0 <= self.id_difficulty <= ID_DIFFICULTY_MAX:
            raise _wrong("id_difficulty", self.id_difficulty, f"0 to {ID_DIFFICULTY_MAX}")
        if not 0 <= self.threads <= THREADS_COUNT_MAX:
            raise _wrong("threads", self.threads, f"0 to {THREADS_COUNT_MAX}")
        if self.cache_size_bytes_max < CACHE_SIZE_BYTES_MIN:
            raise _wrong("cache_size_bytes_max", self.cache_size_bytes_max, "at least 1MiB")
        for name, words in CHOICES.items():
            if getattr(self, name) not in words:
                raise _wrong(name, getattr(self, name), f"one of {', '.join(words)}")

    def _check_relations(self) -> None:
        """Check what only two fields together can get wrong."""
        if self.advertise is not None and self.advertise.host in ANY_HOSTS:
            raise _wrong(
                "advertise", self.advertise, "an address that others can send to, not every interface"
            )
        if self.span is not None and not self.model and self.file is None:
            raise _wrong("span", self.span, "given together with model or file, whose layers it names")
        for entry in self.join:
            if self.advertise is not None and entry == str(self.advertise):
                raise _wrong("join", entry, "the address of another node, not this node's own")

    @property
    def identity_path(self) -> Path:
        """The file with this node's own key."""
        return self.data_dir / "identity.key"

    @property
    def node_path(self) -> Path:
        """The file a running node leaves for the command line: {pid, endpoint, peer_id, swarm}."""
        return self.data_dir / "node.json"

    @property
    def models_dir(self) -> Path:
        """Where the model store lies."""
        return self.cache_dir / "models"


def _wrong(name: str, value: object, rule: str) -> ConfigError:
    return ConfigError(f"{name} = {str(value)!r}: it must be {rule}")
