"""What `peer.generate` returns, with the news of a session given by hand."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import trio

from p2pinfer.errors import SessionLost
from p2pinfer.ids import Contact, Endpoint, PeerId, SessionId
from p2pinfer.inference.news import GenerationFailed, PromptRead, Recovered, Sampled, SessionOpened
from p2pinfer.models.gguf import GGUFFile
from p2pinfer.models.tokenizer import TextStream, Tokenizer
from p2pinfer.runtime.answer import Answer, GeneratedToken, News, Opened, ReadingPrompt
from p2pinfer.wire.messages.inference import ChainHop
from tests.models.tiny import write_tiny_llama

SESSION = SessionId(bytes(16))
CHAIN = (ChainHop(Contact(PeerId(bytes(32)), Endpoint("10.0.0.1", 1)), 0, 4),)
STOP = 2


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    with GGUFFile.open(write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")) as file:
        return Tokenizer.from_gguf(file)


class Script:
    """An answer whose session says what the test wants."""

    def __init__(self, tokenizer: Tokenizer, *stops: str) -> None:
        self.cancelled: list[SessionId] = []
        self.tokenizer = tokenizer
        self._send, self._receive = trio.open_memory_channel[News](100)
        self.answer = Answer(self._open, self.cancelled.append).stopping_at(stops)
        self._position = 0

    async def _open(self) -> Opened:
        await trio.lowlevel.checkpoint()
        text = TextStream(self.tokenizer, at_start=False)
        return Opened(SESSION, 7, text, frozenset({STOP}), self._receive)

    def say(self, news: News) -> None:
        self._send.send_nowait(news)

    def sample(self, text: str, *, final: bool = False) -> None:
        tokens = self.tokenizer.encode(text, allow_special=False)
        for index, token in enumerate(tokens):
            self.say(Sampled(SESSION, token, self._position, final and index == len(tokens) - 1))
            self._position += 1


async def collect(answer: Answer) -> str:
    return "".join([token.text async for token in answer])


async def test_how_far_the_prompt_is_comes_before_the_tokens_for_who_wants_it(tokenizer: Tokenizer) -> None:
    told = Script(tokenizer)
    plain = Script(tokenizer)
    for script in (told, plain):
        script.say(SessionOpened(SESSION, CHAIN))
        script.say(PromptRead(SESSION, 4, 7))
        script.sample("a", final=True)
    before: list[ReadingPrompt] = []
    tokens: list[GeneratedToken] = []
    async for event in told.answer.events():
        if isinstance(event, GeneratedToken):
            tokens.append(event)
        else:
            before.append(event)
    assert before == [ReadingPrompt(0, 7), ReadingPrompt(4, 7)]
    assert tokens == [token async for token in plain.answer]
    assert told.answer.chain == CHAIN


async def test_text_and_figures_of_a_whole_answer(tokenizer: Tokenizer) -> None:
    script = Script(tokenizer)
    script.say(SessionOpened(SESSION, CHAIN))
    script.sample("Grüße 🐉")
    script.say(Recovered(SESSION, 0.25, (PeerId(bytes(32)),), CHAIN))
    script.sample("!", final=True)
    assert await collect(script.answer) == "Grüße 🐉!"
    summary = script.answer.summary
    assert summary["text"] == "Grüße 🐉!"
    assert summary["tokens"] == len(summary["token_ids"]) > 2
    assert summary["prompt_tokens"] == 7
    assert summary["finish_reason"] == "length"
    assert summary["chain"][0]["span"] == "0:4"
    assert summary["recoveries"][0]["stall_ms"] == 250.0
    assert script.cancelled == []


async def test_a_stop_token_ends_it_and_is_not_shown(tokenizer: Tokenizer) -> None:
    script = Script(tokenizer)
    script.sample("done")
    script.say(Sampled(SESSION, STOP, 9, True))
    assert await collect(script.answer) == "done"
    assert script.answer.summary["finish_reason"] == "stop"


async def test_a_stop_text_ends_it_and_cancels_the_rest(tokenizer: Tokenizer) -> None:
    script = Script(tokenizer, "END")
    script.sample("one ENtwo ENDthree")
    assert await collect(script.answer) == "one ENtwo "
    assert script.cancelled == [SESSION]
    assert script.answer.summary["finish_reason"] == "stop"


async def test_a_failure_is_raised_after_the_tokens_before_it(tokenizer: Tokenizer) -> None:
    script = Script(tokenizer)
    script.sample("half")
    script.say(GenerationFailed(SESSION, SessionLost("nobody is left: try again")))
    with pytest.raises(SessionLost):
        await collect(script.answer)
    assert script.answer.summary["text"] == "half"
    assert script.cancelled == []


async def test_closing_cancels_once_and_ends_the_iteration(tokenizer: Tokenizer) -> None:
    script = Script(tokenizer)
    script.sample("abc")
    await anext(script.answer)
    await script.answer.aclose()
    await script.answer.aclose()
    assert script.cancelled == [SESSION]
    assert [token async for token in script.answer] == []


async def test_a_forgotten_answer_cancels_itself(tokenizer: Tokenizer) -> None:
    script = Script(tokenizer)
    script.sample("abc")
    await anext(script.answer)
    del script.answer
    gc.collect()
    assert script.cancelled == [SESSION]


async def test_one_that_was_never_begun_cancels_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    script = Script(tokenizer)
    await script.answer.aclose()
    assert script.cancelled == []
    assert script.answer.summary["tokens"] == 0


async def test_the_session_is_named_once_it_is_open(tokenizer: Tokenizer) -> None:
    script = Script(tokenizer)
    assert script.answer.session is None
    script.sample("a", final=True)
    await collect(script.answer)
    assert script.answer.session == SESSION
