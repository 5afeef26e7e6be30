"""The motion that probes stand for: read off the clips' own simulated futures where there is a simulator, else learned.

A simulator goes on from the very frame that a generator goes on from, under the same constant action and with nothing
happening by chance, so walls, borders and depth are the same for both. Without one, a ridge regression on real clips
tells what an action does on the average.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from wm_lightning.clip import Clip, Pixels
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.data.source_datamodule import SourceDataModule
from wm_lightning.metrics.action_fidelity import NOTHING
from wm_lightning.metrics.motion import MotionModel
from wm_lightning.worlds.world import Branches

log = logging.getLogger(__name__)

# What drives generated frames: one action for all of them, or one for each ("f a").
Drive = Float[Tensor, "... a"]
# (clips, given frames, drive, generated frames) -> the last given frame and what the simulator makes of the drive
Future = Callable[[Clip, int, Drive, int], Pixels]
Motion = Callable[[Pixels], Float[Tensor, "b f 2"]]
# Where actions explain less of real motion than this, what a ridge regression expects of a probe is chance.
EXPLAINED = 0.05
# Grey levels, on the average, by which a clip may differ from its simulator's picture: files are compressed.
ANOTHER = 8.0
# A probe is seen where its mean motion is this many standard errors over clips (what single clips show is also error of
# the measure, or goes now this way and now that), and this share of the motion of the probe that moves most.
SURE, LARGE = 3.0, 0.1


@dataclass(frozen=True)
class Expected:
    """What every probe moves beyond the neutral action, by clip and frame; `rest` is the mean motion under that.

    `source` says whether a simulator or a regression told it. `seen` names the probes whose motion the measure sees:
    of others a generated video cannot tell anything.
    """

    moves: Mapping[str, Float[Tensor, "n f 2"]]
    rest: float | None
    source: str

    @property
    def means(self) -> dict[str, Float[Tensor, "2"]]:
        """The mean over clips and frames."""
        return {name: motion.mean((0, 1)) for name, motion in self.moves.items()}

    @property
    def seen(self) -> list[str]:
        """Probes that move all clips alike, and not much less than the one that moves most."""
        sizes = {name: float(mean.norm()) for name, mean in self.means.items()}
        least = max(NOTHING, LARGE * max(sizes.values(), default=0.0))
        return [name for name, size in sizes.items() if size >= max(least, SURE * _error(self.moves[name]))]


def _error(motion: Float[Tensor, "n f 2"]) -> float:
    """Standard error of the mean over clips; 0 for a single one, which tells none."""
    return float((motion.mean(1).var(0).sum() / len(motion)).sqrt()) if len(motion) > 1 else 0.0


def future_of(data: ClipDataModule) -> Future | None:
    """The simulator of these data, with their frames' size; None where there is none that can go on from a frame."""
    world = data.world
    if not isinstance(world, Branches):
        return None
    resize = data.frame_cache.resize if isinstance(data, SourceDataModule) else _channels_first

    def future(clip: Clip, context: int, action: Drive, frames: int) -> Pixels:
        state = {name: values[:, context - 1].numpy() for name, values in clip.truth.items()}
        actions = action.expand(len(clip), frames, -1).contiguous().numpy()
        video, _ = world.branch(state, actions, np.zeros((len(clip), frames, *world.chance)))
        return torch.from_numpy(resize(video.reshape(-1, *video.shape[2:]))).unflatten(0, video.shape[:2])

    return future


def _channels_first(pictures: UInt8[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "n c h w"]:
    return np.ascontiguousarray(np.moveaxis(pictures, -1, 1))


def simulated(
    future: Future, motion: Motion, clip: Clip, context: int, frames: int,
    neutral: Float[Tensor, "a"] | None, probes: Mapping[str, Drive],
) -> Expected | None:  # fmt: skip
    """What the simulator shows; None, with a word in the log, where the clips are not its own."""
    first, found = clip.video[:, context - 1].float(), {}
    for name, action in {**({} if neutral is None else {"": neutral}), **probes}.items():
        video = future(clip, context, action, frames)
        if float((video[:, 0].float() - first).abs().mean()) > ANOTHER:
            log.info("The settings of data.world are not those that made the clips: motion is learned from real ones")
            return None
        found[name] = motion(video)[:, 1:]
    still = found.pop("", None)
    moves = {name: moved if still is None else moved - still for name, moved in found.items()}
    return Expected(moves, None if still is None else float(still.norm(dim=-1).mean()), "simulator")


def learned(
    model: MotionModel, clips: int, frames: int, neutral: Float[Tensor, "a"] | None,
    probes: Mapping[str, Drive],
) -> Expected:  # fmt: skip
    """What the regression expects, the same for all clips; nothing where it explains nothing."""
    rest = torch.zeros(2) if neutral is None else model(neutral[None])[0]
    told = float(model.r2 >= EXPLAINED)
    moves = {name: told * (model(action) - rest).expand(clips, frames, 2) for name, action in probes.items()}
    return Expected(moves, None if neutral is None else float(rest.norm()), "regression")
