"""Turns a conversation into the text that a model was trained on.

Rules:

1. The template comes out of the model file: it runs in a sandbox with a budget (`template_sandbox`).
2. What people wrote cannot become a control token (`guard`): tokenise the result with `allow_special`.
3. A file without a template gets one by name: `chatml` where the vocabulary has its two control tokens, else
   `plain`, which writes the roles as words. `source` says which, so that nobody is answered by a format that
   was guessed without being told. Joining the messages bare would look right and answer badly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jinja2

from p2pinfer.errors import ConfigError, ModelError, PromptTooLong, UnsupportedModel
from p2pinfer.models.fields import text as text_field
from p2pinfer.models.gguf import GGUFFile
from p2pinfer.models.guard import ControlGuard
from p2pinfer.models.template_sandbox import (
    VALUE_SIZE_MAX,
    TemplateRefusal,
    compile_template,
    render_template,
)
from p2pinfer.models.vocabulary import TokenKind, Vocabulary
from p2pinfer.wire.messages.client import ChatMessage

__all__ = ["ChatTemplate"]

_KEY = "tokenizer.chat_template"
TEMPLATE_SIZE_MAX = 1 << 17  # characters; the longest published ones have some 20,000
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN = (
    "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
# what Python raises at a template that is nonsense: a type that does not fit, a missing key, too deep a nest
_BROKEN = (
    *(jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError),
    *(RecursionError, SyntaxError, MemoryError),
)


class ChatTemplate:
    """The chat template of one model. Immutable: it may be used from several threads."""

    def __init__(
        self,
        template: str,
        *,
        guard: ControlGuard,
        bos: str,
        eos: str,
        source: Literal["file", "chatml", "plain"],
    ) -> None:
        if len(template) > TEMPLATE_SIZE_MAX:
            raise UnsupportedModel(
                f"the chat template has {len(template)} characters, not {TEMPLATE_SIZE_MAX}"
            )
        try:
            self._template = compile_template(template)
        except _BROKEN as error:
            raise UnsupportedModel(f"the chat template cannot be used: {_line(error)}") from error
        self._guard = guard
        self._bos, self._eos = bos, eos
        self.source = source

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> ChatTemplate:
        """Take the file's template, or the one named in `source` if it has none.

        Raises:
            UnsupportedModel: The template is broken or asks for what is not there.
            DamagedModel: The vocabulary is missing or contradicts itself.
        """
        try:
            vocabulary = Vocabulary.from_metadata(file.metadata)
            controls = vocabulary.texts_of(TokenKind.CONTROL, TokenKind.UNKNOWN)
            source: Literal["file", "chatml", "plain"] = "file"
            template = text_field(file.metadata, _KEY, "")
            if not template:
                source = "chatml" if {"<|im_start|>", "<|im_end|>"} <= controls.keys() else "plain"
                template = CHATML if source == "chatml" else PLAIN
            return cls(
                template,
                guard=ControlGuard(controls),
                bos=_token(vocabulary, vocabulary.bos),
                eos=_token(vocabulary, vocabulary.eos),
                source=source,
            )
        except ModelError as error:
            raise type(error)(f"{file.path.name}: {error}") from error

    def render(self, messages: Sequence[ChatMessage], *, add_generation_prompt: bool = True) -> str:
        """Return the conversation as text, to be tokenised with `allow_special=True`.

        Control texts in the messages are broken by an invisible character that the tokenizer removes.

        Raises:
            ConfigError: The template does not take this conversation, and says why.
            PromptTooLong: The messages are longer than any model's context.
            UnsupportedModel: The template fails, or does too much.
        """
        if sum(len(message.role) + len(message.content) for message in messages) > VALUE_SIZE_MAX:
            raise PromptTooLong(f"the messages have more than {VALUE_SIZE_MAX} characters: shorten them")
        guard = self._guard.guard
        turns = [{"role": guard(message.role), "content": guard(message.content)} for message in messages]
        variables = {
            "messages": turns,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self._bos,
            "eos_token": self._eos,
            "tools": None,
            "documents": None,
        }
        try:
            return render_template(self._template, variables)
        except TemplateRefusal as error:
            raise ConfigError(
                f"the model's chat template refuses this conversation: {_line(error)}"
            ) from error
        except _BROKEN as error:
            raise UnsupportedModel(f"the model's chat template failed: {_line(error)}") from error


def _token(vocabulary: Vocabulary, index: int | None) -> str:
    return "" if index is None else vocabulary.tokens[index]


def _line(error: BaseException) -> str:
    """The error as one short line, whatever a template put into it."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
