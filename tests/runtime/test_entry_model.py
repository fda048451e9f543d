"""What an entry peer asks of the swarm for a question."""

from __future__ import annotations

from pathlib import Path

from p2pinfer.runtime.entry_model import EntryModel
from p2pinfer.wire.messages.inference import Sampling
from tests.models.tiny import write_tiny_llama


def test_a_request_says_which_tokens_the_model_has(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", vocabulary=333)
    model = EntryModel.open(path, "tiny:latest", b"\x01" * 32)
    request = model.request(prompt="hello", chat=(), raw=True, sampling=Sampling(token_count_max=4))
    assert request.vocabulary_size == 333
