"""A model asked about many pictures or texts, every answer kept as it comes."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from wm_lightning.data.from_images.verdicts import Verdicts
from wm_lightning.rewards.endpoint import Endpoint
from wm_lightning.rewards.log_odds import NO, YES, read_log_odds, word_of
from wm_lightning.rewards.prompt import Prompt
from wm_lightning.rewards.questions import Question
from wm_lightning.rewards.reward import Failed
from wm_lightning.rewards.writer import content_of

NO_PICTURE = np.zeros((0, 1, 1, 3), np.uint8)
PROBE = np.full((1, 64, 64, 3), 128, np.uint8)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked about a key, with which options of a chat completion, and how the reply's body is read."""

    question: Callable[[str], Question]
    read: Callable[[str], Any]
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Asker:
    """How patiently: `tries` in one run for what cannot be read, `batch` questions at a time; `stop_after` failures in
    a row end the run, for then it is the server that is wrong."""

    endpoint: Endpoint
    tries: int
    stop_after: int
    batch: int

    def __call__(self, keys: Sequence[str], verdicts: Verdicts, asked: Asked, report: Callable[[int], None]) -> None:
        """Asks about all keys that have no answer. Raises ValueError where nothing is answered any more."""
        report(len(keys) - len(verdicts.missing(keys)))
        row: list[str] = []  # failures since the last answer
        for _ in range(self.tries):
            left = verdicts.missing(keys)
            for start in range(0, len(left), self.batch):
                self._ask(left[start : start + self.batch], verdicts, asked, row, report)

    def _ask(
        self, keys: Sequence[str], verdicts: Verdicts, asked: Asked, row: list[str], report: Callable[[int], None]
    ) -> None:
        def hear(place: int, reply: str | Failed) -> None:
            found = reply if isinstance(reply, Failed) else asked.read(reply)
            verdicts.add(keys[place], found)
            if not isinstance(found, Failed):
                row.clear()
                report(1)
                return
            row.append(found.reason)
            if len(row) >= self.stop_after:
                raise ValueError(self._ended(row))

        with ThreadPoolExecutor() as pool:  # a server waits while pictures are decoded
            questions = [*pool.map(asked.question, keys)]
        self.endpoint.ask(questions, self._options(keys, verdicts, asked.options), hear)

    def _options(self, keys: Sequence[str], verdicts: Verdicts, options: Mapping[str, Any]) -> dict[str, Any]:
        """The seed, where there is one, is another one with every try: the same would be answered the same."""
        again = max(len(verdicts.failed.get(key, ())) for key in keys)
        return {**options, "seed": options["seed"] + again} if "seed" in options else dict(options)

    def _ended(self, row: Sequence[str]) -> str:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in Counter(row).most_common())
        return (
            f"{len(row)} questions in a row got no answer from {self.endpoint.url} (model {self.endpoint.model}): "
            f"{reasons}. Once the server is well, the same command goes on from here; with failures of single pictures "
            f"it goes on with a larger task.images.asking.stop_after"
        )


def yes_or_no(prompt: Prompt, options: Mapping[str, Any]) -> Callable[[str], Any]:
    """Reads an answer: by log-probabilities where `options` ask for them, else by its first word.

    Raises ValueError where the prompt is not answered so.
    """
    if not prompt.yes_or_no:
        raise ValueError(f"{prompt.name} is not answered by yes or no")
    return _by_log_odds if options.get("logprobs") else _by_word


def _by_log_odds(reply: str) -> dict[str, Any] | Failed:
    found = read_log_odds(reply)
    return found if isinstance(found, Failed) else {"yes": found > 0, "log_odds": round(found, 4)}


def _by_word(reply: str) -> dict[str, Any] | Failed:
    content = content_of(reply)
    if isinstance(content, Failed):
        return content
    word = word_of((content.split() or [""])[0].strip(".,:;!*\"'"))
    return {"yes": word == YES} if word in (YES, NO) else Failed("neither yes nor no")


def require_answers(endpoint: Endpoint, prompt: Prompt, options: Mapping[str, Any]) -> None:
    """Asks about a grey picture. Raises ValueError where the server does not answer as this work needs it to."""
    (reply,) = endpoint.ask([Question(PROBE, prompt.question())], options)
    found = reply if isinstance(reply, Failed) else yes_or_no(prompt, options)(reply)
    if not isinstance(found, Failed) or found.reason == "neither yes nor no":  # who answers something, answers
        return
    advice = {
        "no log-probabilities": "have its words read with task.images.logprobs=null task.images.judging.max_tokens=4",
        "no connection": "start a server there, or name another with task.images.asking.endpoint.url=URL",
        "http 400": "if it knows no chat_template_kwargs, ~task.images.asking.endpoint.extra.chat_template_kwargs",
        "http 401": "name the variable that holds its key with task.images.asking.endpoint.key_variable=NAME",
        "http 404": "name a model that it serves with task.images.asking.endpoint.model=NAME",
    }
    raise ValueError(
        f"{endpoint.url} was asked about one picture and gave no answer that can be used ({found.reason}), expected "
        f"yes or no by the model {endpoint.model}; {advice.get(found.reason, 'its own log may tell why')}"
    )
