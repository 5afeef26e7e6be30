"""Was the task done, by the right agent, in a video that holds together? Asked of pixels alone.

Each answer is a signed margin in cells (positive: yes) and from it log-odds, as a judge with probabilities gives them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wm_lightning.clip import Pixels
from wm_lightning.worlds.grid_rules import lawfulness
from wm_lightning.worlds.grid_scene import AGENTS, COLOURS, FLOOR, SIDE, WALL, Cell, shifted
from wm_lightning.worlds.grid_tasks import Task

NAMES = (*COLOURS, "wall", "floor")
MOVERS = (*AGENTS, "orange box")
NEAR = 0.75  # cells from a place that still count as there
STRIDE = 1.5  # cells a thing may move from frame to frame
CHANGE = 0.35  # of a thing's area that may be seen otherwise
SHARPNESS, MOST = 10.0, 6.0
Criterion = Literal["task", "agent", "consistency"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)


@dataclass(frozen=True)
class Margins:
    """Signed margins in cells by video; a criterion is met where its margin is positive."""

    task: Float[Tensor, "b"]
    agent: Float[Tensor, "b"]
    consistency: Float[Tensor, "b"]

    def met(self) -> dict[str, Bool[Tensor, "b"]]:
        """Every criterion as yes or no."""
        return {name: getattr(self, name) > 0 for name in CRITERIA}

    def log_odds(self) -> dict[str, Float[Tensor, "b"]]:
        """Every criterion as log p(yes) - log p(no), within ±6."""
        return {name: log_odds(getattr(self, name)) for name in CRITERIA}


@dataclass(frozen=True)
class Tracks:
    """Area (in cells) and centre (row, column in cells; NaN where nothing is seen) of everything that has a colour."""

    area: Float[Tensor, "b f things"]
    centre: Float[Tensor, "b f things 2"]

    def of(self, name: str) -> tuple[Float[Tensor, "b f"], Float[Tensor, "b f 2"]]:
        """Area and centre of one thing."""
        number = NAMES.index(name)
        return self.area[..., number], self.centre[..., number, :]


def classes(video: Pixels) -> Int[Tensor, "b f h w"]:
    """The number in `NAMES` of every pixel's nearest colour."""
    colours = torch.tensor([*COLOURS.values(), WALL, FLOOR], dtype=torch.float32, device=video.device)
    # |p - c|² without |p|², which is the same for all colours: whole numbers below 2**24, so exact.
    return (colours.square().sum(-1) - 2 * video.float().movedim(2, -1) @ colours.T).argmin(-1)


def track(video: Pixels) -> Tracks:
    """Gives every pixel to the nearest colour."""
    return _tracked(classes(video))


def judge(video: Pixels, tasks: Sequence[Task]) -> Margins:
    """Judges one video per task. Raises ValueError where their numbers differ.

    A video holds together where agents and box keep their size, nothing jumps, and the scene's rules hold from frame to
    frame: see `grid_rules`.
    """
    return Margins(**margins(video, tasks, CRITERIA))


def margins(
    video: Pixels, tasks: Sequence[Task], criteria: Sequence[Criterion], ends_alone: bool = False
) -> dict[str, Float[Tensor, "b"]]:
    """Some of the criteria of `judge`: consistency takes most of its time.

    With `ends_alone` the way to an end counts for nothing: a key that is gone was taken, whoever passed it.
    """
    if len(video) != len(tasks):
        raise ValueError(f"{len(video)} videos for {len(tasks)} tasks")
    seen = classes(video)
    tracks = _tracked(seen)
    measures = {
        "task": lambda: torch.stack([_done(_one(tracks, row), task, ends_alone) for row, task in enumerate(tasks)]),
        "agent": lambda: torch.stack([_acted(_one(tracks, row), task) for row, task in enumerate(tasks)]),
        "consistency": lambda: _of_frames(torch.minimum(_holds_together(tracks), _lawful(seen, tracks, tasks))),
    }
    return {name: measures[name]() for name in criteria}


def done(video: Pixels, tasks: Sequence[Sequence[Task]]) -> list[list[bool]]:
    """For every video, which of its tasks are fulfilled when it ends, by their agents' own doing."""
    tracks = track(video)
    return [
        [bool(torch.minimum(_done(one, task, False), _acted(one, task)) > 0) for task in own]
        for one, own in zip((_one(tracks, row) for row in range(len(video))), tasks, strict=True)
    ]


def log_odds(margin: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """A margin in cells as log p(yes) - log p(no), within ±6."""
    return (SHARPNESS * margin).clamp(-MOST, MOST)


def _of_frames(margins: Float[Tensor, "b f"]) -> Float[Tensor, "b"]:
    """The worst frame's margin where all hold; else what falls short on average, of a frame no more than counts at all.

    So a video of one bad frame, however bad, is told from one that is all bad, though neither holds together.
    """
    worst = margins.amin(1)
    return torch.where(worst > 0, worst, margins.clamp(-MOST / SHARPNESS, 0).mean(1))


def _lawful(seen: Int[Tensor, "b f h w"], tracks: Tracks, tasks: Sequence[Task]) -> Float[Tensor, "b f"]:
    movers = [NAMES.index(name) for name in MOVERS]
    margin = [
        lawfulness(task.board, task.state, seen[row], tracks.centre[row][:, movers], NAMES, CHANGE)
        for row, task in enumerate(tasks)
    ]
    return torch.tensor(margin, device=seen.device)


def _tracked(seen: Int[Tensor, "b f h w"]) -> Tracks:
    height, width = seen.shape[-2:]
    shown = torch.nn.functional.one_hot(seen, len(NAMES)).float()
    rows = (torch.arange(height, device=seen.device) + 0.5) * SIDE / height
    columns = (torch.arange(width, device=seen.device) + 0.5) * SIDE / width
    count = shown.sum((2, 3))
    row = (shown * rows[:, None, None]).sum((2, 3)) / count
    column = (shown * columns[None, :, None]).sum((2, 3)) / count
    return Tracks(count * SIDE * SIDE / (height * width), torch.stack([row, column], dim=-1) - 0.5)


def _one(tracks: Tracks, row: int) -> Tracks:
    return Tracks(tracks.area[row : row + 1], tracks.centre[row : row + 1])


def _there(tracks: Tracks, name: str, cell: Cell | None, frame: int | None = -1) -> Float[Tensor, ""]:
    """How far inside `NEAR` a thing is from a cell, in a frame or (None) at its closest."""
    area, centre = tracks.of(name)
    place = torch.tensor([float("nan")] * 2 if cell is None else [float(c) for c in cell], device=area.device)
    distance = (centre[0] - place).norm(dim=-1).nan_to_num(SIDE)
    distance = torch.where(area[0] > 0.5, distance, torch.full_like(distance, float(SIDE)))
    return NEAR - (distance.min() if frame is None else distance[frame])


def _done(tracks: Tracks, task: Task, ends_alone: bool) -> Float[Tensor, ""]:
    name, board, state = AGENTS[task.goal.agent], task.board, task.state
    # Taken: the agent was where the key lay, and the key is no longer seen.
    left = tracks.of("yellow key")[0][0]
    gone = 0.5 - left[-1] / left[0].clamp_min(1e-3)
    taken = gone if ends_alone else torch.minimum(_there(tracks, name, state.key, None), gone)
    match task.goal.kind:
        case "reach":
            return _there(tracks, name, board.circle)
        case "beside":
            box = tracks.of("orange box")[1][0, -1]
            cell = None if bool(box.isnan().any()) else (int(box[0].round()), int(box[1].round()))
            return _there(tracks, name, None if cell is None else shifted(cell, str(task.goal.side)))
        case "take":
            return taken
        case "push":
            return _there(tracks, "orange box", board.circle)
        case "open":
            return torch.minimum(taken, _there(tracks, name, board.door))
    return torch.minimum(taken, _there(tracks, name, board.circle))


def _acted(tracks: Tracks, task: Task) -> Float[Tensor, ""]:
    """The named agent moved and is there at the end, the other one did not move; whoever vanishes has done wrong."""

    def moved(name: str, lost: float) -> Float[Tensor, ""]:
        area, centre = tracks.of(name)
        path = (centre[0] - centre[0, :1]).norm(dim=-1).nan_to_num(lost)
        return torch.where(area[0] > 0.5, path, torch.full_like(path, lost)).max()

    own, other = (AGENTS[number] for number in (task.goal.agent, 1 - task.goal.agent))
    left = tracks.of(own)[0][0, -1]
    return torch.stack([moved(own, 0.0) - 0.5, 0.5 - moved(other, float(SIDE)), left - 0.5]).min()


def _holds_together(tracks: Tracks) -> Float[Tensor, "b f"]:
    """Agents and box keep their size, and nothing jumps."""
    margins = []
    for name in MOVERS:
        area, centre = tracks.of(name)
        there = area[:, :1] > 0.5
        change = (area - area[:, :1]).abs() / area[:, :1].clamp_min(1.0)
        margins.append(torch.where(there, CHANGE - change, CHANGE - area))
        # Rows and columns together: two moves at once are a jump, and could pass between two walls.
        stride = centre.diff(dim=1, prepend=centre[:, :1]).abs().sum(-1).nan_to_num(0.0)
        margins.append(torch.where(there, STRIDE - stride, torch.full_like(stride, STRIDE)))
    return torch.stack(margins).amin(0)
