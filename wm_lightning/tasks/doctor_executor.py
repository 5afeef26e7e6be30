"""What `task=doctor` says of an executor's algorithm: that one iteration of it is what it shall be, before hours of it.

An iteration is made of two tasks with random weights, in the settings of the experiment, and held against what is known
of it: ratios are 1, nothing tells roles apart that are told the same, given frames stay as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from wm_lightning.compute import precise
from wm_lightning.modules.wmsd_rollouts import Rollouts, said_by
from wm_lightning.tasks.build import build_data, device_of, plain_node, without
from wm_lightning.tasks.doctor_report import line
from wm_lightning.tasks.executor_batch import Batch, first_batch

TASKS = 2
MOST_WEIGHTS = 10**8  # of a network that is worth building to look at
SPREAD = 0.05  # of the noise on weights: layers that begin at 0 would hide every difference
ALIKE, EXACT = 1e-2, 1e-3  # velocities, and ratios: passes of other batches round otherwise, bfloat16 the most


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found, and whether it is as it shall be."""

    what: str
    found: str
    sound: bool


def examine_executor(console: Console, config: DictConfig) -> list[str]:
    """Prints what one iteration shows, and returns what is wrong with it, each as a line."""
    device, config = device_of(config), without(config, {"module.batch_size": TASKS, "data.batch_size": TASKS})
    data = build_data(config)  # which says how many actions its network has
    if (size := _weights(config)) > MOST_WEIGHTS:
        line(console, f"An iteration is not looked at: the network has {size / 1e9:.1f} billion weights")
        return []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        batch = first_batch(config, data, device, stirred)
    with precise(device, str(config.trainer.precision)):
        findings = list(looked_at(batch))
    line(console, "One iteration, with random weights (judges were not asked):")
    for one in findings:
        line(console, f"  {'sound' if one.sound else 'WRONG'}: {one.what}: {one.found}")
    return [f"{one.what}: {one.found}" for one in findings if not one.sound]


def _weights(config: DictConfig) -> int:
    with torch.device("meta"):
        network = instantiate(plain_node(config, "network"), _convert_="all")()
    return sum(parameter.numel() for parameter in network.parameters())


@torch.no_grad()
def stirred(network: nn.Module) -> None:
    """Noise on all weights."""
    for parameter in network.parameters():
        parameter.add_(SPREAD * torch.randn_like(parameter))


def looked_at(batch: Batch) -> Iterator[Finding]:
    """All that is known of an iteration before the first update."""
    module = batch.module
    made = module.rollouts(batch.clip, batch.asked, module.network)
    given = batch.clip.x0[made.task][:, : module.context]
    kept = torch.equal(made.video[:, : module.context], given)
    yield Finding("given frames", "as they were" if kept else "changed by the rollout", kept)
    if module.algorithm.rl:
        yield _ratio(batch, made)
    if module.algorithm.taught and module.algorithm.states == "executor":
        yield from _gaps(batch, made)


def _ratio(batch: Batch, made: Rollouts) -> Finding:
    """Of the first update: 1, inside of every clip range."""
    module = batch.module
    signs = torch.ones(len(made), device=made.made.device)
    signs[::2] = -1.0
    lesson = module.lesson(batch.clip, made, batch.asked, None, signs)
    with torch.no_grad():
        for loss in lesson.losses(module.denoiser(module.network), module.surrogate, module.picked(made), len(made)):
            loss()
    ratio, clipped = (float(lesson.logged[name]) for name in ("ratio", "ratio_clipped"))
    off = abs(ratio - 1)
    return Finding(
        "ratio of the first update", f"{ratio:.6f}, {100 * clipped:.1f} % outside of the clip range",
        off < EXACT and clipped == 0,
    )  # fmt: skip


def _gaps(batch: Batch, made: Rollouts) -> Iterator[Finding]:
    """Executor and demonstrator begin as one: what tells them apart is what they are told."""
    module = batch.module
    asking = module.denoiser(module.teaching)
    same, other = (
        float((said_by(asking, made, told, module.plan.mask, len(made)) - made.velocities).abs().mean())
        for told in (batch.asked, batch.told)
    )
    unit = float(made.velocities.abs().mean())
    yield Finding(
        "a demonstrator that is told what the executor is", f"{same / unit:.2g} of a velocity away", same < ALIKE * unit
    )
    yield Finding("a demonstrator that is told the solution", f"{other / unit:.2g} of a velocity away", other > same)
