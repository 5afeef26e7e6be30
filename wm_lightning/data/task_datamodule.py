"""Data whose clips are tasks: what is asked, how it is done, and who is told which of the two."""

from abc import abstractmethod
from collections.abc import Sequence

import torch

from wm_lightning.clip import ActionState, Clip, Condition, Prompt
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.data.formats.world_tasks import TaskRow
from wm_lightning.networks.prompt import Prompter


class TaskDataModule(ClipDataModule):
    """Clips with `texts`, of which `prompter` makes prompts. What solves a task is a matter of the data."""

    prompter: Prompter

    @abstractmethod
    def row(self, task: str) -> TaskRow:
        """The task of that id. Raises KeyError where there is none."""

    @abstractmethod
    def asked(self, clip: Clip, frames: int) -> Condition:
        """What an executor is told, for videos of so many frames: what to bring about, and not how."""

    @abstractmethod
    def solved(self, clip: Clip, frames: int) -> Condition:
        """What a demonstrator is told: how it is done."""

    def told(self, clip: Clip, texts: Sequence[str], frames: int) -> Condition:
        """These words about the tasks of a clip, one text each, for videos of so many frames."""
        return prompted(self.prompter(texts), frames, self.spec.dim)


def prompted(prompt: Prompt, frames: int, actions: int) -> Condition:
    """The condition of `frames` frames that nothing drives but words."""
    batch, device = len(prompt.there), prompt.there.device
    state = torch.full((batch, frames), int(ActionState.NONE), device=device)
    return Condition(torch.zeros(batch, frames, actions, device=device), state, prompt=prompt)
