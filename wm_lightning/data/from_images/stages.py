"""The stages in which pictures become tasks, each going on from what its own file of verdicts holds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from wm_lightning.clip import Pixels, Texts
from wm_lightning.data.formats.picture_files import from_bytes
from wm_lightning.data.from_images.asking import NO_PICTURE, Asked, Asker, yes_or_no
from wm_lightning.data.from_images.filters import Filters
from wm_lightning.data.from_images.looking import Seen, Sifted, look_at_all, sift
from wm_lightning.data.from_images.pictures import Picture
from wm_lightning.data.from_images.ranking import Ranking
from wm_lightning.data.from_images.verdicts import Verdicts
from wm_lightning.data.from_images.writing import Pair, faults_of, pairs_of, read_tasks_written
from wm_lightning.rewards.frames import shown
from wm_lightning.rewards.prompt import Prompt
from wm_lightning.rewards.questions import Question
from wm_lightning.rewards.reward import Failed

SCREENING, GENERATION, GRAMMAR = "screening", "generation", "grammar"
UNANSWERED = "no answer yet"
Scores = dict[str, dict[str, float | None]]  # of a picture by its key, by name


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What a model is asked: a prompt a stage, on pictures whose short side is at most `short_side` pixels.

    `judging` and `writing` are options of chat completions, for yes or no and for tasks.
    """

    prompts: Mapping[str, Prompt]
    short_side: int
    judging: Mapping[str, Any]
    writing: Mapping[str, Any]

    def about(self, stage: str, seen: Mapping[str, Seen]) -> Asked:
        """A question about a picture by its key."""
        text = self.prompts[stage].question()
        if stage == GENERATION:
            read, options = read_tasks_written, self.writing
        else:
            read, options = yes_or_no(self.prompts[stage], self.judging), self.judging
        return Asked(
            question=lambda key: Question(shown(pixels(seen[key])[0], 1, self.short_side), text), read=read,
            options=options,
        )  # fmt: skip

    def about_pairs(self, pairs: Mapping[str, Pair]) -> Asked:
        """A question about the texts of a pair by its key."""
        prompt = self.prompts[GRAMMAR]

        def question(key: str) -> Question:
            return Question(NO_PICTURE, prompt.question(pairs[key].prompt, pairs[key].solution))

        return Asked(question=question, read=yes_or_no(prompt, self.judging), options=self.judging)


@dataclass(frozen=True, kw_only=True)
class Stages:
    """All stages of one folder, their verdicts and a bar each."""

    folder: Path
    asking: Asker
    questions: Questions
    progress: Progress

    def verdicts(self, stage: str) -> Verdicts:
        """Those of a stage so far."""
        (self.folder / "verdicts").mkdir(exist_ok=True)
        return Verdicts(self.folder / "verdicts" / f"{stage}.jsonl")

    def sifted(self, pictures: Sequence[Picture], filters: Filters, workers: int) -> Sifted:
        """The pictures that pixels alone say nothing against."""
        verdicts = self.verdicts("looks")
        report = self._bar("looking at pictures", len(pictures))
        look_at_all(pictures, verdicts, filters, workers, self.asking.batch, report)
        return sift(pictures, verdicts, filters)

    def ranked(self, seen: Sequence[Seen], ranking: Ranking) -> tuple[list[Seen], Scores]:
        """The best, and the scores of all by key."""
        measured = ("sharpness", "luminance", "contrast", "black", "white")
        scores: Scores = {one.key: {name: getattr(one.measures, name) for name in measured} for one in seen}
        names = ["sharpness", "contrast"]
        if ranking.scorer is not None:
            names.append("aesthetic")
            verdicts, report = self.verdicts("scores"), self._bar("scoring pictures", len(seen))
            for one in seen:
                if one.key not in verdicts.answers:
                    text = Texts((one.key,), (ranking.text,), ("",))
                    found = ranking.scorer(pixels(one), text)
                    verdicts.add(one.key, float(found.value[0]) if found.valid[0] else Failed(found.reasons[0]))
                scores[one.key]["aesthetic"] = verdicts.answers.get(one.key)
                report(1)
        if not seen:
            return [], scores
        table = {name: [_number(scores[one.key][name]) for one in seen] for name in names}
        return [seen[place] for place in ranking.best(table)], scores

    def asked(self, stage: str, seen: Sequence[Seen]) -> Verdicts:
        """What the model says about every picture."""
        by_key = {one.key: one for one in seen}
        verdicts, report = self.verdicts(stage), self._bar(f"{stage} of pictures", len(seen))
        self.asking([*by_key], verdicts, self.questions.about(stage, by_key), report)
        return verdicts

    def checked(self, pairs: Mapping[str, Pair]) -> Verdicts:
        """What the model says about the texts of every pair."""
        verdicts, report = self.verdicts(GRAMMAR), self._bar("grammar of tasks", len(pairs))
        self.asking([*pairs], verdicts, self.questions.about_pairs(pairs), report)
        return verdicts

    def _bar(self, what: str, total: int) -> Callable[[int], None]:
        return partial(self.progress.advance, self.progress.add_task(what, total=total))


def formed(seen: Sequence[Seen], written: Verdicts, words: tuple[int, int]) -> tuple[dict[str, Pair], dict[str, str]]:
    """Pairs by `KEY_PLACE`: those of the right form, and what the others lack."""
    pairs: dict[str, Pair] = {}
    removed: dict[str, str] = {}
    for one in seen:
        own = pairs_of(written.answers.get(one.key, ()))
        for place, (pair, fault) in enumerate(zip(own, faults_of(own, words), strict=True)):
            if fault is None:
                pairs[f"{one.key}_{place}"] = pair
            else:
                removed[f"{one.key}_{place}"] = fault
    return pairs, removed


def pixels(one: Seen) -> Pixels:
    """The picture as a video of one frame. Raises ValueError, naming the file, where it is gone or damaged by now."""
    path = one.picture.path
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} was there when it was looked at and cannot be read now ({error})") from error
    return torch.from_numpy(from_bytes(path, data).copy()).permute(2, 0, 1)[None, None]


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
