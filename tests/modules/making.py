"""What the tests of modules share: a tiny world on disk, tiny noisy networks, modules and trainings."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from tests.networks.tiny_unet import tiny_unet
from wm_lightning.card import Card
from wm_lightning.checkpoint_io import AtomicCheckpointIO
from wm_lightning.checkpoints import NetworkFile, weights_hash
from wm_lightning.clip import ActionState, Clip, Condition
from wm_lightning.config import CONFIG_DIR
from wm_lightning.data.worldmap import WorldMapDataModule
from wm_lightning.modules.base import ValidationDistance, WorldModelModule
from wm_lightning.modules.dmd import DMDModule
from wm_lightning.modules.initialisation import TeacherInit
from wm_lightning.modules.optimizers import Schedule, optimizers
from wm_lightning.modules.self_forcing import Score, SelfRollout
from wm_lightning.modules.teacher import ActionDropout, MaskMixture, TeacherModule
from wm_lightning.networks.causal import Transfer
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.video_dit import VideoDiT
from wm_lightning.networks.video_unet import VideoUNet
from wm_lightning.noising import DynamicRescale, NoiseLaw, RectifiedFlow, ScaledLinearDiffusion
from wm_lightning.objectives.denoising import FrameLevels
from wm_lightning.sampling.rollout import Commit, Plan
from wm_lightning.sampling.samplers import DDIMSampler, FewStepSampler, StepList
from wm_lightning.worlds.world_map import WorldMap

SIDE, FRAMES, ACTIONS = 8, 7, 5
PATH = RectifiedFlow(prediction="x0", loss_sigma_floor=0.05, label_scale=20.0)
FEW = FewStepSampler(StepList(kind="matched", steps=2, shift=2.0))
EULER = DDIMSampler(StepList(kind="matched", steps=4, shift=2.0), eta=0.0)
# Vid2World's.
SCALED_LINEAR = ScaledLinearDiffusion(
    prediction="v", loss_sigma_floor=0.05, steps=1000, start=0.00085, end=0.012, zero_terminal_snr=True,
    rescale=DynamicRescale(floor=0.7, steps=400),
)  # fmt: skip
LAW = NoiseLaw(mean=0.1, std=1.2, uniform_share=0.2, shift=2.0)
PLAN = Plan(chunk=3, mask=FrameMask(3), window=None, sink=0, commit=Commit("clean", 0.0))
CONSTANT = Schedule(warmup=0, decay_from=1.0, final=1.0)
MOVES = torch.tensor([[0, 0], [0, -1], [0, 1], [-1, 0], [1, 0]])
TRAINED: dict[str, Any] = {
    "chunks": [1, 3, None], "context": 1, "clean_history": 0.7, "history_level": 0.12, "shared": 0.7, "steps": None,
    "commit": [{"mode": "clean", "t": 0.0}, {"mode": "noised", "t": 0.12}],
    "action_dropout": {"share": 0.1, "granularity": "clip"},
}  # fmt: skip


def network(seed: int = 0, scale: float = 0.15, **changes: Any) -> VideoDiT:
    """Two layers of width 24 on frames of 8 pixels, every parameter noisy."""
    settings = yaml.safe_load((CONFIG_DIR / "network/video_dit.yaml").read_text())
    settings |= dict(height=SIDE, width=SIDE, dim=24, depth=2, heads=2, mlp_ratio=2.0, frequencies=8, actions=ACTIONS)
    settings |= changes
    made = VideoDiT(**{name: value for name, value in settings.items() if not name.startswith("_")})
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=source))
    return made


def card(**changes: Any) -> Card:
    settings: dict[str, Any] = dict(
        kind="teacher", network={"_target_": "some.Network", "dim": 24}, path={"_target_": "some.Path"},
        action_spec={"names": ["a"], "low": [0.0], "high": [1.0], "kind": "continuous"}, action_shift=1,
        frame_shape=(3, SIDE, SIDE), trained_for=TRAINED, data="simulated-worldmap",
    )  # fmt: skip
    return Card(**(settings | changes))


def teacher_file(made: nn.Module | None = None, **trained: Any) -> NetworkFile:
    weights = (network(seed=1) if made is None else made).state_dict()
    return NetworkFile(weights, card(trained_for=TRAINED | trained), weights_hash(weights))


def sgd(lr: float) -> Callable[[nn.Module], list[Optimizer]]:
    """After one step the parameters tell the gradient."""
    return lambda net: [torch.optim.SGD(net.parameters(), lr=lr)]


def adamw(lr: float) -> Callable[[nn.Module], list[Optimizer]]:
    return lambda net: [torch.optim.AdamW(net.parameters(), lr=lr, betas=(0.0, 0.99))]


def muon(lr: float) -> Callable[[nn.Module], list[Optimizer]]:
    """Muon on what lies between a network's ends, AdamW on these."""
    return partial(optimizers, muon_lr=lr, momentum=0.95, lr=lr, betas=(0.0, 0.99), weight_decay=0.0, eps=1e-8)


def shared(**changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = dict(
        iterations=8, path=PATH, sampler=FEW, plan=PLAN, context=1, seed=3, clip_norm=1e6, action_weight=0.2,
        distance=ValidationDistance(minimum=8, scale_clips=256, draws=100),
        validate_every=100,
    )  # fmt: skip
    return settings | changes


def score(**changes: Any) -> Score:
    settings: dict[str, Any] = dict(mask=FrameMask(None), law=LAW, smallest=0.02, largest=0.99, context=1, guidance=1.0)
    return Score(**(settings | changes))


def self_rollout(**changes: Any) -> SelfRollout:
    settings: dict[str, Any] = dict(lengths=(FRAMES,), scored=FRAMES - 1, grad_frames=None, exits="shared")
    return SelfRollout(**(settings | changes))


def dmd(**changes: Any) -> DMDModule:
    """A distillation whose critic and student already differ from the teacher."""
    settings: dict[str, Any] = shared() | dict(
        network=network, teacher=teacher_file(), score=score(), rollout=self_rollout(), init=TeacherInit(),
        variant="dmd", sid_alpha=1.0, regression=None, regression_weight=0.0, ratio=2, critic_warmup=1, fresh_every=1,
        replay_slots=0, student_optimizer=sgd(0.05), critic_optimizer=sgd(0.05), schedule=CONSTANT, ema_decay=0.9,
        ema_start=0, batch_size=2, frames=FRAMES, compile=False,
    )  # fmt: skip
    settings |= changes
    module = DMDModule(**settings)
    module.critic.load_state_dict(settings["network"](seed=2).state_dict())
    return module


def teacher(**changes: Any) -> TeacherModule:
    settings: dict[str, Any] = shared(sampler=EULER) | dict(
        network=network, start=None, start_new=(), transfer=None, masks=MaskMixture((1, 3, None), (0.3, 0.4, 0.3)),
        levels=FrameLevels(law=LAW, context=1, clean_history=0.7, history_level=0.12, shared=0.7),
        action_dropout=ActionDropout(0.3, "both"), optimizer=sgd(0.05), schedule=CONSTANT, ema_decay=0.9, ema_start=0,
        micro_batches=1, batch_size=2, frames=FRAMES, compile=False,
    )  # fmt: skip
    return TeacherModule(**(settings | changes))


def unet(**changes: Any) -> VideoUNet:
    """Two levels of width 8 on frames of 8 pixels, causal unless told otherwise, every parameter noisy."""
    settings: dict[str, Any] = dict(channels=3, height=SIDE, width=SIDE, tokens=None, rate=None, actions=ACTIONS)
    return tiny_unet(**settings | changes)


def vid2world(**changes: Any) -> TeacherModule:
    """A bidirectional video UNet without actions made causal, told of them, and trained by diffusion forcing."""
    base = unet(causal=False, norm_scope="clip", actions_seen=False, seed=1).state_dict()
    described = card(network={"_target_": "some.UNet", "causal": False, "head_height_causal": False})
    settings: dict[str, Any] = dict(
        network=unet, start=NetworkFile(base, described, weights_hash(base)), start_new=("action", "action_scales"),
        transfer=Transfer("extrapolative", 2), path=SCALED_LINEAR, masks=MaskMixture((1,), (1.0,)),
        levels=FrameLevels(
            law=NoiseLaw(mean=0.0, std=1.0, uniform_share=1.0, shift=1.0), context=0, clean_history=0.0,
            history_level=1.0, shared=0.0,
        ),
        action_dropout=ActionDropout(0.2, "frame"),
        plan=Plan(chunk=1, mask=FrameMask(1), window=None, sink=0, commit=Commit("noised", 0.04)),
    )  # fmt: skip
    return teacher(**settings | changes)


def vid2world_dmd(**changes: Any) -> DMDModule:
    """A distillation of a causal video UNet, which is told of the first frame."""
    made = unet(seed=1)
    described = replace(
        teacher_file(made), card=card(network={"_target_": "some.UNet"}, trained_for=TRAINED | {"chunks": [1]})
    )
    settings: dict[str, Any] = dict(
        network=unet, teacher=described, path=SCALED_LINEAR, score=score(mask=FrameMask(1)),
        plan=Plan(chunk=1, mask=FrameMask(1), window=None, sink=0, commit=Commit("clean", 0.0)),
    )  # fmt: skip
    return dmd(**settings | changes)


def data(cache: Path, **changes: Any) -> WorldMapDataModule:
    world = WorldMap(
        seed=0, map_tiles=8, view=2, smoothness=2.0, stickiness=0.6, length=12,
        maps=dict(train=3, val=2, test=2), walks=dict(train=60, val=12, test=12),
    )  # fmt: skip
    settings: dict[str, Any] = dict(
        world=world, cached_maps=8, root=None, cache_dir=str(cache), frames=FRAMES, height=SIDE, width=SIDE,
        batch_size=2, train_batches=8, val_clips=32, val_frames=FRAMES, num_workers=0, seed=0, action_shift=1,
        augment=None,
    )  # fmt: skip
    return WorldMapDataModule(**(settings | changes))


def trainer(folder: Path, *callbacks: Callback, **changes: Any) -> Trainer:
    settings: dict[str, Any] = dict(
        accelerator="cpu", devices=1, max_epochs=1, check_val_every_n_epoch=None, val_check_interval=100,
        num_sanity_val_steps=0, use_distributed_sampler=False, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=folder, limit_val_batches=0,
        plugins=[AtomicCheckpointIO()],
    )  # fmt: skip
    return Trainer(callbacks=list(callbacks), **(settings | changes))


def fit(
    module: WorldModelModule, folder: Path, *callbacks: Callback, batch_size: int = 2, resume: Path | None = None,
    **changes: Any,
) -> Trainer:  # fmt: skip
    """Trains for the module's iterations on the tiny world, whose data lie beside `folder`."""
    made = trainer(folder, *callbacks, **changes)
    clips = data(folder.parent / "cache", batch_size=batch_size, train_batches=module.total_iterations)
    made.fit(module, datamodule=clips, ckpt_path=None if resume is None else str(resume), weights_only=True)
    return made


def clip(batch: int = 2, frames: int = FRAMES, seed: int = 0) -> Clip:
    """Random pixels and actions."""
    source = torch.Generator().manual_seed(seed)
    video = torch.randint(256, (batch, frames, 3, SIDE, SIDE), generator=source).to(torch.uint8)
    actions = torch.eye(ACTIONS)[torch.randint(ACTIONS, (batch, frames), generator=source)]
    state = torch.zeros(batch, frames, dtype=torch.long)
    state[:, 0] = int(ActionState.NONE)
    return Clip(video, Condition(actions, state), torch.arange(batch) + 10 * seed)


def grads(net: nn.Module) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in net.named_parameters()}


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def learned(net: nn.Module) -> bool:
    """Whether any parameter has a gradient that is not zero."""
    return any(p.grad is not None and bool(p.grad.any()) for p in net.parameters())
