"""`from=images`: the folder `data.root` of pictures becomes a WorldTasks set (2606.12072)."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wm_lightning.data.cache import MARKER
from wm_lightning.data.from_images.asking import Asker, require_answers
from wm_lightning.data.from_images.filters import Filters
from wm_lightning.data.from_images.findings import Findings, said_yes
from wm_lightning.data.from_images.pictures import Picture, Sources, find_pictures, splits_of
from wm_lightning.data.from_images.ranking import Ranking
from wm_lightning.data.from_images.report import Outcome
from wm_lightning.data.from_images.settings import begin, begun, binding
from wm_lightning.data.from_images.stages import GENERATION, GRAMMAR, SCREENING, Questions, Stages, formed
from wm_lightning.data.from_images.table import write_set
from wm_lightning.data.world_tasks import WorldTasksDataModule
from wm_lightning.environment import revision
from wm_lightning.rewards.prompt import load_prompt

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FromImages:
    """The settings of all stages. `words` bounds a solution; see the parts for the others.

    With `logprobs`, yes and no are weighed by so many likeliest tokens; without, the first word of an answer counts.
    """

    sources: Sources
    filters: Filters
    ranking: Ranking
    asking: Asker
    version: str
    short_side: int
    logprobs: int | None
    judging: Mapping[str, Any]
    writing: Mapping[str, Any]
    words: Sequence[int]

    def __call__(self, config: DictConfig, into: Path) -> dict[str, float]:
        """Makes the set in `into`, or goes on with what an interrupted run of the same settings left there.

        Raises ValueError before anything is begun where there are no pictures, `into` is of something else, or the
        server gives no answer; and in the end where no task is left.
        """
        data = _data_of(config)
        root = Path(str(data.root))
        if into.resolve().is_relative_to(root.resolve()):
            raise ValueError(f"task.into={into} lies in data.root={root}, among the pictures; name a folder elsewhere")
        pictures = find_pictures(root, self.sources)
        splits = splits_of({picture.source for picture in pictures}, data.shares)
        settings, questions = _binding(config, root, data.shares), self.questions
        if not begun(into, settings):
            require_answers(self.asking.endpoint, questions.prompts[SCREENING], questions.judging)
            begin(into, settings)
        try:
            with FileLock(into / "work.lock", timeout=0):
                findings = self._findings(pictures, into, data.decode_workers)
                outcome = self._outcome(findings, splits, len(pictures), (root / MARKER).is_file())
                self._keep(outcome, root, into)
        except Timeout as error:
            raise ValueError(f"task.into={into} is being written by another process; wait for it") from error
        return _said(outcome, into)

    @property
    def questions(self) -> Questions:
        """What a model is asked, by the prompts of `version`."""
        prompts = {stage: load_prompt(stage, self.version) for stage in (SCREENING, GENERATION, GRAMMAR)}
        weighed = {} if self.logprobs is None else {"logprobs": True, "top_logprobs": self.logprobs}
        return Questions(
            prompts=prompts, short_side=self.short_side, judging={**self.judging, **weighed}, writing=self.writing
        )  # fmt: skip

    def _findings(self, pictures: Sequence[Picture], into: Path, workers: int) -> Findings:
        """Runs all stages, with a bar each."""
        head = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*head, TimeElapsedColumn(), TimeRemainingColumn()) as progress:
            stages = Stages(folder=into, asking=self.asking, questions=self.questions, progress=progress)
            sifted = stages.sifted(pictures, self.filters, workers)
            best, scores = stages.ranked(sifted.kept, self.ranking)
            screened = stages.asked(SCREENING, best)
            fit = [one for one in best if said_yes(screened, one.key)]
            written = stages.asked(GENERATION, fit)
            pairs, misshapen = formed(fit, written, (self.words[0], self.words[1]))
            checked = stages.checked(pairs)
        return Findings(
            sifted=sifted, best=best, scores=scores, screened=screened, fit=fit, written=written, pairs=pairs,
            misshapen=misshapen, checked=checked,
        )  # fmt: skip

    def _outcome(self, findings: Findings, splits: Mapping[str, str], pictures: int, simulated: bool) -> Outcome:
        made_by = {
            "model": self.asking.endpoint.model, "revision": revision(), "simulated": simulated,
            "prompts": [prompt.name for prompt in self.questions.prompts.values()],
        }  # fmt: skip
        return Outcome(
            pictures=pictures, removed=findings.removed, tallies=findings.tallies,
            written=len(findings.pairs) + len(findings.misshapen), lost=findings.lost, made=findings.made(splits),
            made_by=made_by,
        )  # fmt: skip

    def _keep(self, outcome: Outcome, root: Path, into: Path) -> None:
        """The report in any case; the set where there is one. Raises ValueError where no task is left."""
        outcome.write(into)
        if (root / MARKER).is_file():  # pictures of a simulator stay such
            shutil.copyfile(root / MARKER, into / MARKER)
        if not outcome.made:
            raise ValueError(
                f"no task is left of {outcome.pictures} pictures; {into / 'report.md'} says what removed them"
            )
        write_set(into, outcome.made)


def _data_of(config: DictConfig) -> WorldTasksDataModule:
    """The data of the config. Raises ValueError where they are no WorldTasks, or name no pictures."""
    data = instantiate(config.data, _convert_="all")
    if not isinstance(data, WorldTasksDataModule):
        raise ValueError(
            f"from=images makes WorldTasks and goes with data=world_tasks, not with {config.data._target_}"
        )
    if data.root is None:
        raise ValueError("from=images needs data.root=FOLDER, one of pictures")
    return data


def _binding(config: DictConfig, root: Path, shares: Mapping[str, float]) -> dict[str, Any]:
    """All settings that what comes out hangs on, by their dotted names."""
    own = OmegaConf.to_container(config.task.images, resolve=True)
    assert isinstance(own, dict)
    settings = {str(name): value for name, value in own.items()}
    of_data = {"root": str(root.resolve()), **{f"{split}_share": share for split, share in shares.items()}}
    return {f"task.images.{name}": value for name, value in binding(settings).items()} | {
        f"data.{name}": value for name, value in of_data.items()
    }


def _said(outcome: Outcome, into: Path) -> dict[str, float]:
    tasks = sum(len(one.pairs) for one in outcome.made)
    log.info("Written: %s, %d tasks of %d pictures out of %d", into, tasks, len(outcome.made), outcome.pictures)
    if outcome.unanswered:
        log.warning("%d questions have no answer yet; the same command asks them again", outcome.unanswered)
    log.info("Train on it with data=world_tasks data.root=%s data.subset=%s", into, into.name)
    return {
        "tasks": float(tasks), "pictures": float(len(outcome.made)), "found": float(outcome.pictures),
        "unanswered": float(outcome.unanswered),
    }  # fmt: skip
