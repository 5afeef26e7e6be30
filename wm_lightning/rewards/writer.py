"""A vision-language model that writes how an instruction is done, for a demonstrator without an annotated solution."""

import json
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from wm_lightning.clip import Pixels, Texts
from wm_lightning.rewards.endpoint import Endpoint
from wm_lightning.rewards.frames import shown
from wm_lightning.rewards.prompt import load_prompt
from wm_lightning.rewards.questions import Question
from wm_lightning.rewards.reward import Failed


@runtime_checkable
class Writer(Protocol):
    """Writes the solution of every task from its picture and its instruction; `name` says who it is, for tables."""

    name: str

    def __call__(self, pictures: Pixels, texts: Texts) -> Sequence[str | Failed]:
        """One text a picture (`b 1 c h w`), in their order."""
        ...


class EndpointWriter:
    """Asks the model behind `endpoint` for a description of at most `words` words; longer ones lose sentences."""

    def __init__(self, *, endpoint: Endpoint, version: str, short_side: int, words: int) -> None:
        self.endpoint, self.prompt = endpoint, load_prompt("solution", version)
        self.name = f"{endpoint.model}, {self.prompt.name}"
        self.short_side, self.words = short_side, words

    def __call__(self, pictures: Pixels, texts: Texts) -> Sequence[str | Failed]:
        """Not to be called from a thread that runs an event loop."""
        questions = [
            Question(shown(picture, 1, self.short_side), self.prompt.question(instruction))
            for picture, instruction in zip(pictures, texts.instruction, strict=True)
        ]
        replies = self.endpoint.ask(questions, {"temperature": 0, "max_tokens": 4 * self.words})
        return [reply if isinstance(reply, Failed) else read_text(reply, self.words) for reply in replies]


def read_text(reply: str, words: int) -> str | Failed:
    """The text of a chat completion in one line, without the sentences that begin beyond `words` words.

    One that was cut short counts as none: nobody knows what it would have come to.
    """
    content = content_of(reply)
    if isinstance(content, Failed):
        return content
    if json.loads(reply)["choices"][0].get("finish_reason") == "length":
        return Failed("cut short")
    text = " ".join(content.split())
    kept: list[str] = []
    for sentence in text.replace("! ", "!\n").replace("? ", "?\n").replace(". ", ".\n").split("\n"):
        if kept and len(" ".join([*kept, sentence]).split()) > words:
            break
        kept.append(sentence)
    return " ".join(kept) if any(kept) else Failed("no text")


def endpoint_writer(data: object, *, endpoint: Endpoint, version: str, short_side: int, words: int) -> EndpointWriter:
    """A writer for any data, which need say nothing."""
    return EndpointWriter(endpoint=endpoint, version=version, short_side=short_side, words=words)


def content_of(reply: str) -> str | Failed:
    """What the model wrote behind its thoughts, from the body of a chat completion; empty where it wrote nothing."""
    try:
        choice = json.loads(reply)["choices"][0]
        if choice.get("finish_reason") == "content_filter" or choice["message"].get("refusal"):
            return Failed("refused")
        # Of a model that thinks first, only what it says then: thoughts without an end are no answer.
        said = str(choice["message"]["content"] or "")
        return "" if "<think>" in said and "</think>" not in said else said.rsplit("</think>", 1)[-1]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Failed("malformed reply")
