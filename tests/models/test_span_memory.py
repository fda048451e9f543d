"""A peer's memory grows with its span: measured in a process of its own, page by page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models.real_model import real_model_path
from tests.models.tiny import write_tiny_llama

PROGRAM = """
import json, sys
from p2pinfer.ids import Span
from p2pinfer.models.architectures import ModelConfig, span_size_bytes, span_tensor_names
from p2pinfer.models.gguf import GGUFFile

def resident_bytes(path):
    total, ours = 0, False
    for line in open("/proc/self/smaps"):
        fields = line.split()
        if "-" in fields[0]:
            ours = fields[-1] == path
        elif ours and fields[0] == "Rss:":
            total += int(fields[1]) * 1024
    return total

path = sys.argv[1]
for text in sys.argv[2:]:
    span = Span.parse(text)
    with GGUFFile.open(path) as file:
        config = ModelConfig.from_gguf(file)
        header = resident_bytes(path)
        for name in span_tensor_names(config, span):
            file.read_raw(name).sum()
        size = span_size_bytes(file, span)
        print(json.dumps({"span": text, "size": size, "header": header, "resident": resident_bytes(path)}))
"""
SLACK_BYTES = 4 * (64 << 10)
"""The system maps 64 kB around a page that is touched: at both ends of the two stretches that a span has."""


def measure(path: Path, spans: list[str]) -> list[dict[str, int]]:
    command = [sys.executable, "-c", PROGRAM, str(path), *spans]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    print(output)
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.skipif(
    not Path("/proc/self/smaps").exists(), reason="the system does not tell which pages are resident"
)
def test_only_the_span_is_resident(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "a.gguf", layers=12, hidden=160, heads=4, kv_heads=2)
    figures = measure(path, ["1:2", "4:7", "2:10", "0:12"])
    for figure in figures:
        assert figure["size"] <= figure["resident"] <= figure["size"] + figure["header"] + SLACK_BYTES, figure
    one, three, eight, whole = (figure["resident"] for figure in figures)
    assert one < three / 2 < eight / 4 < whole / 4


@pytest.mark.e2e
@pytest.mark.skipif(
    not Path("/proc/self/smaps").exists(), reason="the system does not tell which pages are resident"
)
def test_only_the_span_of_the_real_model_is_resident() -> None:
    figures = measure(real_model_path(), ["10:13", "10:20", "0:30"])
    three, ten, whole = (figure["resident"] for figure in figures)
    assert three < 12e6 < ten < 30e6 < 90e6 < whole
