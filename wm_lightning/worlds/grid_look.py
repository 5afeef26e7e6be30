"""Tasks of looking: the picture is a part of a board, and the camera shall bring a thing that it sees to its middle.

WorldTasks' perception, in first person: nothing on the board moves, the view does, a cell a frame. The program that
verifies a video asks pixels alone, as `grid_judge` does.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from wm_lightning.clip import Pixels
from wm_lightning.randomness import generator
from wm_lightning.worlds.grid_judge import NAMES, STRIDE, Margins, Tracks, track
from wm_lightning.worlds.grid_planner import listed
from wm_lightning.worlds.grid_scene import AGENTS, COLOURS, MOVES, SIDE, Board, Cell, State, render
from wm_lightning.worlds.grid_tasks import SPLITS, GridTasks, drawn, from_json

VIEW = SIDE // 2  # cells across the picture
MIDDLE = (VIEW - 1) // 2, VIEW // 2  # the first and the last cell that count as such
AGENT = "Camera"
WORDINGS = ("look at the {thing}", "turn the view to the {thing}", "bring the {thing} to the middle of the picture")
END = "It ends with the {thing} in the middle of the picture, and nothing on the floor moves."


@dataclass(frozen=True)
class LookTask:
    """An instruction to the camera, its solution in words and moves. `view` is the picture's upper left cell."""

    board: Board
    state: State
    view: Cell
    target: str
    instruction: str
    solution: str
    moves: tuple[str, ...]
    frames: int

    agent = AGENT
    category = "perception"

    @property
    def prompt(self) -> str:
        """`[Agent]: instruction`, WorldTasks' grammar."""
        return f"[{self.agent}]: {self.instruction}"

    def telling(self, moves: Sequence[str]) -> str:
        """A solution in words that makes these moves."""
        return solution_of(self.view, self.target, moves, self.frames)

    def fulfilled(self, view: Cell) -> bool:
        """Whether the target stands in the middle of this view."""
        place = things(self.board, self.state)[self.target]
        return all(here - start in MIDDLE for here, start in zip(place, view, strict=True))

    def picture(self, cell: int) -> UInt8[np.ndarray, "h w 3"]:
        """The first frame, as large as a picture of a whole board with `cell` pixels a cell."""
        return self.film((), 1, cell)[0]

    def film(self, moves: Sequence[str], frames: int, cell: int) -> UInt8[np.ndarray, "f h w 3"]:
        """What is seen when the camera makes these moves."""
        size = cell * SIDE // VIEW
        floor = render(self.board, self.state, size)
        views = course(self.view, moves, frames)
        return np.stack([floor[r * size :, c * size :][: VIEW * size, : VIEW * size] for r, c in views])


def things(board: Board, state: State) -> dict[str, Cell]:
    """Where everything stands that has a colour."""
    places = {
        "green circle": board.circle, "brown door": board.door, "yellow key": state.key, "orange box": state.box,
        AGENTS[0]: state.agents[0], AGENTS[1]: state.agents[1],
    }  # fmt: skip
    return {name: place for name, place in places.items() if place is not None}


def course(view: Cell, moves: Sequence[str], frames: int) -> list[Cell]:
    """The views of `frames` frames: one move a frame, then rest; the board's border stops the camera."""
    views = [view]
    for number in range(frames - 1):
        step = MOVES[moves[number]] if number < len(moves) else (0, 0)
        row, column = (min(max(a + b, 0), SIDE - VIEW) for a, b in zip(views[-1], step, strict=True))
        views.append((row, column))
    return views


def plan(view: Cell, target: Cell) -> tuple[str, ...] | None:
    """The fewest moves after which the target is in the middle; None where the border forbids it."""
    moves: list[str] = []
    for start, place, (less, more) in zip(view, target, (("up", "down"), ("left", "right")), strict=True):
        low, high = max(0, place - MIDDLE[1]), min(SIDE - VIEW, place - MIDDLE[0])
        if low > high:
            return None
        moves += [less] * max(0, start - high) + [more] * max(0, low - start)
    return tuple(moves)


def look_tasks(world: GridTasks, split: str, number: int) -> list[LookTask]:
    """The tasks of one scene, at least one: for each thing in view that is not in its middle and can come there.

    Raises ValueError for a split there is not.
    """
    if split not in SPLITS:
        raise ValueError(f"{split=} is not one of {SPLITS}")
    source = generator(world.seed, f"grid looks {split}", number)
    while True:
        board, state = drawn(source, world.most_walls)
        view = (int(source.integers(SIDE - VIEW + 1)), int(source.integers(SIDE - VIEW + 1)))
        if tasks := list(looks_of(board, state, view, source, world.frames)):
            return tasks


def looks_of(board: Board, state: State, view: Cell, source: np.random.Generator, frames: int) -> Iterator[LookTask]:
    """All that can be asked of the camera and be done in a film of so many frames."""
    for name, place in things(board, state).items():
        inside = all(0 <= here - start < VIEW for here, start in zip(place, view, strict=True))
        moves = plan(view, place)
        if inside and moves and len(moves) < frames:
            instruction = str(source.choice(WORDINGS)).format(thing=name)
            solution = solution_of(view, name, moves, frames)
            yield LookTask(board, state, view, name, instruction, solution, moves, frames)


def solution_of(view: Cell, target: str, moves: Sequence[str], frames: int) -> str:
    """In words, what a film of the camera's moves towards a thing shows: how far it has gone, a word a frame."""
    turned = [(row - view[0], column - view[1]) for row, column in course(view, moves, frames)]
    return f"The camera has gone {listed(map(_turned, turned))}. {END.format(thing=target)}"


def _turned(by: Cell) -> str:
    (row, column), words = by, ("up", "down", "left", "right")
    parts = [(words[0], -row), (words[1], row), (words[2], -column), (words[3], column)]
    return "".join(f"{word}{count}" for word, count in parts if count > 0) or "nowhere"


def judge_looks(video: Pixels, tasks: Sequence[LookTask]) -> Margins:
    """Judges one video per task. Raises ValueError where their numbers differ.

    Task: the target ends in the middle. Agent: the camera moved, and it alone: all that stays in view shifts by one and
    the same way. Consistency: the view never jumps, the target keeps its size, nothing vanishes inside the picture.
    """
    if len(video) != len(tasks):
        raise ValueError(f"{len(video)} videos for {len(tasks)} tasks")
    seen = track(video)
    scale = VIEW / SIDE
    tracks = Tracks(seen.area * scale**2, (seen.centre + 0.5) * scale - 0.5)
    found = [_judged(tracks, row, task.target) for row, task in enumerate(tasks)]
    return Margins(*(torch.stack(margins) for margins in zip(*found, strict=True)))


def _judged(tracks: Tracks, row: int, target: str) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    number, solid = NAMES.index(target), list(range(len(COLOURS)))
    area, centre = tracks.area[row][:, solid], tracks.centre[row][:, solid]
    there = area > 0.3  # a key is a ring
    own, own_area = centre[:, number].nan_to_num(-VIEW), area[:, number]
    middle = 1.0 - (own[-1] - (VIEW - 1) / 2).abs().max()
    task = torch.where(there[-1, number], middle, -torch.ones(()))
    shift = own.diff(dim=0)
    both = there[:-1] & there[1:]
    others = (centre.diff(dim=0) - shift[:, None]).norm(dim=-1).nan_to_num(0.0)
    apart = torch.where(both, others, torch.zeros_like(others)).max()
    moved = torch.where(there[:, number], (own - own[:1]).norm(dim=-1), torch.zeros(())).max()
    ahead = centre[:-1] + shift[:, None]
    stays = there[:-1] & (ahead > -0.4).all(-1) & (ahead < VIEW - 0.6).all(-1)
    lost = (stays & ~there[1:]).any().float()
    change = (own_area - own_area[0]).abs().max() / own_area[0].clamp_min(0.3)
    jump = STRIDE - shift.abs().sum(-1).max()  # rows and columns together: two moves at once are a jump
    return task, torch.minimum(moved - 0.5, 0.5 - apart), torch.stack([jump, 0.35 - change, 0.5 - lost]).min()


def look_to_json(task: LookTask) -> dict[str, Any]:
    """The verifier: scene, view, target and the planner's moves, as plain JSON values."""
    board, state = task.board, task.state
    return {
        "world": "grid_looks", "walls": sorted(board.walls), "circle": board.circle, "door": board.door,
        "agents": state.agents, "box": state.box, "key": state.key, "view": task.view, "target": task.target,
        "moves": task.moves, "frames": task.frames,
    }  # fmt: skip


def look_from_json(values: Mapping[str, Any], instruction: str, solution: str) -> LookTask:
    """Inverse of `look_to_json`. Raises ValueError where the verifier is another world's."""
    if values.get("world") != "grid_looks":
        raise ValueError(f"a verifier of {values.get('world')!r} is not one of grid_looks")
    scene = from_json({**values, "world": "grid_tasks", "kind": "reach", "agent": 0, "side": None}, "", "")
    row, column = values["view"]
    view, target = (int(row), int(column)), str(values["target"])
    return LookTask(scene.board, scene.state, view, target, instruction, solution, scene.moves, scene.frames)
