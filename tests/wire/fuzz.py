"""A longer hunt than the tests: `python -m tests.wire.fuzz --seconds 60 --seed 1`.

Inputs that reach a new place, which is the line that raised and its message without numbers, or the type that
was decoded, join the corpus and are damaged further. Anything but a message or a RemoteProtocolError is
printed with the bytes that caused it, and ends the run with 1.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections.abc import Callable

from p2pinfer.errors import RemoteProtocolError
from p2pinfer.identity import Identity, Verifier
from p2pinfer.ids import SwarmId
from p2pinfer.membership import SwarmPolicy
from p2pinfer.wire.codec import decode, encode
from p2pinfer.wire.envelope import Envelopes
from p2pinfer.wire.framing import Assembler, FrameReader, FramingLimits, cut
from p2pinfer.wire.messages.membership import Membership
from p2pinfer.wire.messages.swim import Gossip, Ping
from tests.wire.mutation import mutate
from tests.wire.strategies import all_types, smallest

SLOW_S = 0.25
CORPUS_COUNT_MAX = 4000
Target = Callable[[bytes], str]


def targets() -> dict[str, tuple[Target, list[bytes]]]:
    """What is fuzzed, and the valid bytes to begin with."""
    identity = Identity.from_seed(bytes(32))
    swarm = SwarmPolicy(SwarmId(identity.public_key))
    envelopes = Envelopes(identity, swarm, Membership(swarm=swarm.id), Verifier())
    limits = FramingLimits(frame_size_bytes_max=512, message_size_bytes_max=2048, total_size_bytes_max=4096)

    def take_message(data: bytes) -> str:
        message = decode(data)
        if decode(encode(message)) != message:
            raise AssertionError("a message does not come back as it went")
        return type(message).__name__

    def take_datagram(data: bytes) -> str:
        return type(envelopes.open(data, 100.0).message).__name__

    def take_stream(data: bytes) -> str:
        reader, assembler = FrameReader(limits), Assembler(limits)
        whole = [assembler.add(frame) for frame in reader.feed(data)]
        return f"{len(whole)} frames, {sum(each is not None for each in whole)} messages"

    messages = [encode(smallest(kind)) for kind in all_types()]
    datagrams = [envelopes.seal(Ping(sequence=i, gossip=Gossip()), 100.0) for i in range(3)]
    streams = [b"".join(cut(1, 2, bytes(300), 100)) + b"".join(cut(2, 1, b"xy"))]
    return {
        "message": (take_message, messages),
        "datagram": (take_datagram, datagrams),
        "stream": (take_stream, streams),
    }


def place_of(error: RemoteProtocolError) -> str:
    """Where it was raised and why, without the numbers in it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    line = trace.tb_lineno if trace else 0
    return f"{type(error).__name__}:{line}:{re.sub(r'[0-9]+', '', str(error))}"


def hunt(name: str, target: Target, corpus: list[bytes], seconds: float, rng: random.Random) -> int:
    """Fuzz one target; return how many inputs did what they must not."""
    places: set[str] = set()
    findings = runs = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end and findings < 5:
        data = mutate(rng.choice(corpus), corpus, rng)[:100_000]
        started = time.monotonic()
        try:
            place = target(data)
        except RemoteProtocolError as error:
            place = place_of(error)
        except Exception as error:  # noqa: BLE001  (the very thing that is looked for)
            place, findings = repr(error), findings + 1
            print(f"{name}: {error!r} from {data[:2000].hex()}")
        if time.monotonic() - started > SLOW_S:
            findings += 1
            print(f"{name}: {time.monotonic() - started:.2f} s for {data[:200].hex()}... ({len(data)} bytes)")
        runs += 1
        if place not in places and len(corpus) < CORPUS_COUNT_MAX:
            places.add(place)
            corpus.append(data)
    print(f"{name}: {runs} inputs, {len(places)} places, {findings} findings")
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"seed {options.seed}")
    rng, share = random.Random(options.seed), options.seconds / 3
    findings = sum(hunt(name, *each, share, rng) for name, each in targets().items())
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
