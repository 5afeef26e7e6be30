"""The DataModule of the pusher's clips as tasks: the goal in hindsight, in words, and the actions that reached it."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from wm_lightning.clip import Clip, Condition, Texts
from wm_lightning.data.datamodule import SPLITS
from wm_lightning.data.formats.episode import Episode
from wm_lightning.data.formats.store_reader import StoreReader
from wm_lightning.data.formats.world_tasks import TaskRow
from wm_lightning.data.rt1 import RT1DataModule
from wm_lightning.data.task_datamodule import TaskDataModule
from wm_lightning.networks.prompt import Prompter
from wm_lightning.worlds.pusher_goals import cell_of, task_told

KINDS = ("stay", "near", "far")  # the gripper ends in the cell where it is first, in one beside it, further away


class GoalReader(StoreReader):
    """The episodes of another reader, whose stretches say where the gripper ends: by the simulator's own state."""

    def __init__(self, episodes: StoreReader, split: str) -> None:
        super().__init__(
            episodes.store, columns=episodes.columns, spec=episodes.spec, action_shift=episodes.action_shift,
            episodes=episodes.episodes, direct=episodes.direct,
        )  # fmt: skip
        self.split = split

    def task(self, episode: int, start: int, stop: int) -> TaskRow:
        """Frames start..stop-1 as a task, which its id names again."""
        first = self._place(episode).start
        return self._task(episode, start, stop, self.store.truth["gripper"][first + start : first + stop])

    def read(self, episode: int, start: int, stop: int) -> Episode:
        """See `StoreReader.read`; with the task's texts."""
        found = super().read(episode, start, stop)
        row = self._task(episode, start, stop, found.truth["gripper"])
        return replace(found, texts=Texts((row.id,), (row.prompt,), (row.solution,)))

    def _task(self, episode: int, start: int, stop: int, gripper: Float32[np.ndarray, "f 2"]) -> TaskRow:
        begins, ends = (cell_of(float(x), float(y)) for x, y in (gripper[0], gripper[-1]))
        apart = max(abs(one - other) for one, other in zip(begins, ends, strict=True))
        name = self.name(episode)
        return TaskRow(
            id=f"{name}_{start}_{stop}", image="", source=name, agent="Gripper", task=task_told(ends), solution="",
            task_type=KINDS[min(apart, 2)], agent_type="gripper", split=self.split,
        )  # fmt: skip


class PusherGoalsDataModule(RT1DataModule, TaskDataModule):
    """Clips of the simulated pusher whose `texts` say in hindsight in which cell the gripper ends.

    What solves a task are its clip's recorded actions: they alone are told to a demonstrator, and to an executor the
    goal alone, all actions dropped. Raises ValueError for data that no pusher made: nobody knows where grippers end.
    """

    def __init__(self, *, prompter: Prompter, **shared: Any) -> None:
        super().__init__(**shared)
        self.prompter = prompter
        if self.world is None:
            raise ValueError(
                f"data.root={self.root}: goals are read off the simulator's own state, which these data lack; set "
                f"data.root=null, or name a folder that the pusher was simulated into"
            )
        if self.latents is not None:
            raise ValueError(f"data.latents={self.latents}: goals are of clips of pixels; set data.latents=null")

    def open_split(self, folder: Path, split: str) -> GoalReader:
        return GoalReader(super().open_split(folder, split), split)

    def asked(self, clip: Clip, frames: int) -> Condition:
        """The goal, all actions dropped. Raises ValueError unless clips are as long as videos: see `solved`."""
        solved = self.solved(clip, frames)
        assert clip.texts is not None
        prompt = self.prompter(clip.texts.instruction)
        return replace(solved.null(), prompt=prompt.each(lambda x: x.to(solved.state.device)))

    def solved(self, clip: Clip, frames: int) -> Condition:
        """The recorded actions, and no word. Raises ValueError for clips that do not end with the videos: the goal is
        where the gripper is then."""
        if clip.condition.state.shape[1] != frames:
            raise ValueError(
                f"goals are of clips of {clip.condition.state.shape[1]} frames, videos have {frames}; set data.frames "
                f"and data.val_frames to module.frames"
            )
        return replace(clip.condition, prompt=None)

    def row(self, task: str) -> TaskRow:
        name, *span = task.rsplit("_", 2)
        reader, episode = self._episodes[name]
        start, stop = map(int, span)
        return reader.task(episode, start, stop)

    @cached_property
    def _episodes(self) -> Mapping[str, tuple[GoalReader, int]]:
        """Where every recording stands."""
        found: dict[str, tuple[GoalReader, int]] = {}
        for split in SPLITS:
            reader = self.reader(split)
            assert isinstance(reader, GoalReader)
            found |= {reader.name(place): (reader, place) for place in range(len(reader))}
        return found
