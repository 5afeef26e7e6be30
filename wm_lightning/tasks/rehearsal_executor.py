"""An executor's training step without values, as `rehearsal` has those of other modules."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch.optim import Optimizer

from wm_lightning.clip import Clip
from wm_lightning.data.task_datamodule import prompted
from wm_lightning.modules.base import WorldModelModule
from wm_lightning.modules.wmsd import WMSDModule
from wm_lightning.modules.wmsd_rollouts import repeated
from wm_lightning.tasks.plain_loops import plain_update


def executor_steps(
    module: WorldModelModule, optimizers: list[Optimizer]
) -> Iterator[tuple[float, Callable[[Clip], None]]]:
    """The one kind of step that there is. Raises TypeError for a module whose steps are not known."""
    if not isinstance(module, WMSDModule):
        raise TypeError(f"the steps of a {type(module).__name__} are not known")
    yield 1.0, partial(_step, module, optimizers)


def _step(module: WMSDModule, optimizers: list[Optimizer], clip: Clip) -> None:
    """An iteration whose judges say that every rollout is worth a pass."""
    assert clip.condition.prompt is not None
    condition = prompted(clip.condition.prompt, module.frames, clip.condition.actions.shape[-1])
    told = repeated(condition, module.copies)
    made = module.rollouts(clip, told, module.acting)
    taught = module.taught(made, told) if module.algorithm.taught else None
    advantage = torch.ones(len(made)) if module.algorithm.rl else None
    own, rest = optimizers[: module.optimizer_counts[0]], optimizers[module.optimizer_counts[0] :]
    first = module.lesson(clip, made, told, taught, advantage, told)
    lessons = [first, *(module.again(first, number) for number in range(1, module.updates))]
    learning = [(lesson, own, module.network) for lesson in lessons]
    if module.critic is not None:
        learning += [(lesson, rest, module.critic) for lesson in module.critic_lessons(clip, made, told)]
    for lesson, some, network in learning:
        losses = lesson.losses(module.denoiser(network), module.surrogate, module.picked(made), module.micro_batch)
        plain_update(some, network, losses, module.clip_norm)
    module.average.update(module.network)
