"""Labels of films that nobody annotated: the instruction that a film looks like the carrying out of."""

import re
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from wm_lightning.clip import Pixels
from wm_lightning.rewards.endpoint import Endpoint
from wm_lightning.rewards.frames import shown
from wm_lightning.rewards.prompt import load_prompt
from wm_lightning.rewards.questions import Question
from wm_lightning.rewards.reward import Failed
from wm_lightning.rewards.writer import read_text

LABEL = re.compile(r"\[[^\[\]]+\]: \S.*")
NOTHING = "none"  # a model's word for a film in which nothing is done that a task could ask for


@runtime_checkable
class Labeller(Protocol):
    """Writes the instruction of every film; `name` says who it is, and tells labels of one from another's."""

    name: str

    def __call__(self, films: Pixels, ids: Sequence[str]) -> Sequence[str | Failed]:
        """`[Agent]: instruction` for every film, empty where it shows nothing that a task could ask for.

        `ids` name tasks whose pictures the films begin with, which only a program that made them can look up.
        """
        ...


class EndpointLabeller:
    """Asks the model behind `endpoint`, which is shown `frames` evenly spread frames of every film and nothing else."""

    def __init__(self, *, endpoint: Endpoint, version: str, frames: int, short_side: int, words: int) -> None:
        self.endpoint, self.prompt = endpoint, load_prompt("label", version)
        self.frames, self.short_side, self.words = frames, short_side, words
        self.name = f"{endpoint.model}, {self.prompt.name}, {frames} frames of {short_side}, {words} words"

    def __call__(self, films: Pixels, ids: Sequence[str]) -> Sequence[str | Failed]:
        """Not to be called from a thread that runs an event loop."""
        questions = [Question(shown(film, self.frames, self.short_side), self.prompt.question()) for film in films]
        replies = self.endpoint.ask(questions, {"temperature": 0, "max_tokens": 4 * self.words})
        return [reply if isinstance(reply, Failed) else read_label(reply, self.words) for reply in replies]


def read_label(reply: str, words: int) -> str | Failed:
    """The label in a chat completion; empty where the model found none, a failure where it wrote something else."""
    text = read_text(reply, words)
    if isinstance(text, Failed):
        return text
    if text.strip(" .").lower() == NOTHING:
        return ""
    return text if LABEL.fullmatch(text) else Failed("no task in the grammar")


def endpoint_labeller(
    data: object, *, endpoint: Endpoint, version: str, frames: int, short_side: int, words: int
) -> EndpointLabeller:
    """A labeller for any data, which need say nothing."""
    return EndpointLabeller(endpoint=endpoint, version=version, frames=frames, short_side=short_side, words=words)
