"""The grid's own judges as rewards: no model and no server, and never wrong about what they measure."""

from collections.abc import Callable, Mapping
from typing import Protocol, cast, runtime_checkable

from wm_lightning.clip import Pixels, Texts
from wm_lightning.data.formats.world_tasks import TaskRow
from wm_lightning.rewards.bus import RewardBus, Weighted
from wm_lightning.rewards.reward import Failed, Verdict
from wm_lightning.worlds.grid_judge import CRITERIA, Criterion, log_odds, margins
from wm_lightning.worlds.grid_look import LookTask, judge_looks, look_from_json
from wm_lightning.worlds.grid_tasks import Task, from_json

READERS = {"grid_tasks": from_json, "grid_looks": look_from_json}
UNKNOWN = Failed("no verifier of the grid")


class GridReward:
    """Pseudo log-odds of one criterion, within ±6 and positive where it is met: ten times the margin in cells.

    `row` gives the row of a task's id (`WorldTasksDataModule.row`), whose verifier says what to look for; a task
    without a verifier of the grid cannot be judged. One that is `hackable` sees picture and last frame alone, where
    what jumped is as good as what walked. Raises ValueError for a criterion there is not.
    """

    def __init__(self, *, criterion: str, row: Callable[[str], TaskRow], hackable: bool = False) -> None:
        if criterion not in CRITERIA:
            raise ValueError(
                f"{criterion=} is not one of {', '.join(CRITERIA)}; the grid's programs judge nothing else"
            )
        self.criterion: Criterion = cast(Criterion, criterion)
        self.row, self.hackable = row, hackable

    def __call__(self, videos: Pixels, texts: Texts) -> Verdict:
        """One judgement a video. Raises ValueError where texts and videos differ in number."""
        if len(videos) != len(texts):
            raise ValueError(f"{len(videos)} videos come with {len(texts)} texts")
        if self.hackable:
            videos = videos[:, [0, -1]]
        tasks = dict(enumerate(task_of(self.row(name)) for name in texts.ids))
        boards = {place: task for place, task in tasks.items() if isinstance(task, Task)}
        looks = {place: task for place, task in tasks.items() if isinstance(task, LookTask)}
        found: dict[int, float] = {}
        if boards:
            margin = margins(videos[[*boards]], [*boards.values()], (self.criterion,), self.hackable)[self.criterion]
            found |= zip(boards, log_odds(margin).tolist(), strict=True)
        if looks:
            margin = getattr(judge_looks(videos[[*looks]], [*looks.values()]), self.criterion)
            found |= zip(looks, log_odds(margin).tolist(), strict=True)
        return Verdict.of([found.get(place, UNKNOWN) for place in tasks])


@runtime_checkable
class HasRows(Protocol):
    """Data whose tasks can be looked up."""

    def row(self, task: str) -> TaskRow:
        """The task of that id."""
        ...


def grid_judges(data: HasRows, *, weights: Mapping[str, float], hackable: bool, max_invalid: float) -> RewardBus:
    """The grid's judges of the criteria named, with what each weighs; of those that are `hackable` the task's alone is,
    so that what repairs it can be seen.
    """
    rewards: dict[str, Weighted] = {
        name: Weighted(GridReward(criterion=name, row=data.row, hackable=hackable and name == "task"), weight)
        for name, weight in weights.items()
    }
    judge = "the grid's programs, the task by the last frame alone" if hackable else "the grid's programs"
    return RewardBus(rewards=rewards, max_invalid=max_invalid, judge=judge)


def task_of(row: TaskRow) -> Task | LookTask | None:
    """The task of a row; None where no program of the grid can verify it."""
    verifier = row.verifier or {}
    read = READERS.get(str(verifier.get("world")))
    return None if read is None else read(verifier, row.task, row.solution)
