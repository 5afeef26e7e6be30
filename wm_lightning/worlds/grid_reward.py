"""The grid's own judges as rewards: no model and no server, and never wrong about what they measure."""

from collections.abc import Callable

from wm_lightning.clip import Pixels, Texts
from wm_lightning.data.formats.world_tasks import TaskRow
from wm_lightning.rewards.reward import Failed, Verdict
from wm_lightning.worlds.grid_judge import Criterion, log_odds, margins
from wm_lightning.worlds.grid_look import LookTask, judge_looks, look_from_json
from wm_lightning.worlds.grid_tasks import Task, from_json

READERS = {"grid_tasks": from_json, "grid_looks": look_from_json}
UNKNOWN = Failed("no verifier of the grid")


class GridReward:
    """Pseudo log-odds of one criterion, within ±6 and positive where it is met: ten times the margin in cells.

    `row` gives the row of a task's id (`WorldTasksDataModule.row`), whose verifier says what to look for; a task
    without a verifier of the grid cannot be judged.
    """

    def __init__(self, *, criterion: Criterion, row: Callable[[str], TaskRow]) -> None:
        self.criterion: Criterion = criterion
        self.row = row

    def __call__(self, videos: Pixels, texts: Texts) -> Verdict:
        """One judgement a video. Raises ValueError where texts and videos differ in number."""
        if len(videos) != len(texts):
            raise ValueError(f"{len(videos)} videos come with {len(texts)} texts")
        tasks = dict(enumerate(task_of(self.row(name)) for name in texts.ids))
        boards = {place: task for place, task in tasks.items() if isinstance(task, Task)}
        looks = {place: task for place, task in tasks.items() if isinstance(task, LookTask)}
        found: dict[int, float] = {}
        if boards:
            margin = margins(videos[[*boards]], [*boards.values()], (self.criterion,))[self.criterion]
            found |= zip(boards, log_odds(margin).tolist(), strict=True)
        if looks:
            margin = getattr(judge_looks(videos[[*looks]], [*looks.values()]), self.criterion)
            found |= zip(looks, log_odds(margin).tolist(), strict=True)
        return Verdict.of([found.get(place, UNKNOWN) for place in tasks])


def task_of(row: TaskRow) -> Task | LookTask | None:
    """The task of a row; None where no program of the grid can verify it."""
    verifier = row.verifier or {}
    read = READERS.get(str(verifier.get("world")))
    return None if read is None else read(verifier, row.task, row.solution)
