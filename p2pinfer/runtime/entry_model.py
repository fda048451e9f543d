"""What an entry peer needs of a model: its tokenizer, its chat template and its size, not its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from p2pinfer.errors import PromptTooLong
from p2pinfer.inference.generation import Request
from p2pinfer.models.architectures import ModelConfig
from p2pinfer.models.chat_template import ChatTemplate
from p2pinfer.models.gguf import GGUFFile
from p2pinfer.models.tokenizer import Tokenizer
from p2pinfer.wire.messages.client import ChatMessage
from p2pinfer.wire.messages.inference import Sampling

__all__ = ["EntryModel"]


@dataclass(frozen=True, slots=True)
class EntryModel:
    """A model as its entry peer uses it. Immutable."""

    name: str
    digest: bytes
    config: ModelConfig
    tokenizer: Tokenizer
    template: ChatTemplate

    @classmethod
    def open(cls, path: Path, name: str, digest: bytes) -> EntryModel:
        """Read the parts from a GGUF file; some tenths of a second.

        Raises:
            ModelError: The file cannot be used; the message says why.
        """
        with GGUFFile.open(path) as file:
            config = ModelConfig.from_gguf(file)
            return cls(name, digest, config, Tokenizer.from_gguf(file), ChatTemplate.from_gguf(file))

    def request(self, *, prompt: str, chat: Sequence[ChatMessage], raw: bool, sampling: Sampling) -> Request:
        """Turn a question into a request for the swarm.

        Args:
            prompt: Used as it is if `raw`, else as one user turn after `chat`.
            chat: The conversation so far.
            raw: Whether the chat template is left out; control tokens are then not recognised.
            sampling: Its stop tokens are the model's if it names none.

        Raises:
            PromptTooLong: Prompt and answer do not fit into the model's context.
        """
        if raw:
            tokens = self.tokenizer.encode(prompt, allow_special=False, with_bos=True)
        else:
            turns = [*chat, *([ChatMessage("user", prompt)] if prompt else [])]
            tokens = self.tokenizer.encode(self.template.render(turns), allow_special=True, with_bos=True)
        if not tokens:
            raise PromptTooLong("the prompt is empty: give at least one character")
        context = self.config.context_length
        if len(tokens) + sampling.token_count_max > context:
            raise PromptTooLong(
                f"the prompt has {len(tokens)} tokens and the answer may have {sampling.token_count_max}, "
                f"but the context of {self.name} holds {context}: shorten the prompt or lower --max-tokens"
            )
        if not sampling.stop_tokens:
            sampling = replace(sampling, stop_tokens=tuple(sorted(self.tokenizer.stop_tokens)))
        return Request(
            digest=self.digest,
            layer_count=self.config.layer_count,
            prompt=tuple(tokens),
            sampling=sampling,
            vocabulary_size=self.config.vocabulary_size,
        )
