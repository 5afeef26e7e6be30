"""WMSD on diffusers' own transformers: finite losses, gradients of the right adapters, given frames left alone."""

from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.modules.making import flat, teacher_file, trainer
from tests.modules.making_wmsd import FRAMES, SIDE, tasks, wmsd
from tests.modules.test_wmsd import Watch
from tests.networks.tiny_diffusers import FLOW, WIDTH, Features, hunyuan15, ltx2
from wm_lightning.checkpoints import weights_hash
from wm_lightning.config import compose
from wm_lightning.modules.wmsd import WMSDModule
from wm_lightning.modules.wmsd_surrogates import GRPO
from wm_lightning.networks.adapters.hunyuan15 import FrameTokens
from wm_lightning.networks.lora import LoRA
from wm_lightning.sampling.samplers import StepList
from wm_lightning.sampling.sde import FlowSDESampler

pytest.importorskip("peft")
pytest.importorskip("diffusers.models.transformers.transformer_ltx2")

SIZES: dict[str, Any] = dict(channels=3, height=SIDE, width=SIDE)
NETWORKS: dict[str, Any] = {
    "ltx2": partial(ltx2, {"patch_size": 4, "vae_scale_factors": (1, 1, 1)}, **SIZES),
    "hunyuan15": partial(
        hunyuan15, {"patch_size": 4}, glyphs=0, **SIZES, image=lambda c, w: FrameTokens(c, w, patch=4)
    ),
}
SETTINGS: dict[str, Any] = {
    "ltx2": {},
    "hunyuan15": {
        "surrogate": GRPO(draws=2, clip=1e-4, aggregation="exp_first"),
        "sampler": FlowSDESampler(StepList(kind="matched", steps=3, shift=5.0), eta=0.7),
    },
}
NAMES = list(NETWORKS)


@cache
def targets(name: str) -> str:
    """Those of the experiment."""
    return compose([f"experiment=wmsd_{name}"]).module.lora.targets


def made(name: str, **changes: Any) -> WMSDModule:
    network = NETWORKS[name]
    settings = dict(network=network, start=teacher_file(network()), path=FLOW, iterations=2, **SETTINGS[name])
    return wmsd(**settings | {"lora": LoRA(4, 8.0, targets(name))} | changes)


def begun(module: WMSDModule, folder: Path) -> Any:
    """Rollouts of one iteration, what was asked and what was told."""
    data = tasks(folder / "cache", prompter=Features(WIDTH))
    data.prepare_data()
    module.trainer = type("Trainer", (), {"datamodule": data})()  # type: ignore[assignment]
    clip = next(data.clips("train", 2, 1, 2))
    asked, told = module.conditions(clip)
    return clip, module.rollouts(clip, asked, module.network), asked, told


@pytest.mark.parametrize("name", NAMES)
def test_an_iteration_moves_the_adapters_and_nothing_else(tmp_path: Path, name: str) -> None:
    module, watch = made(name), Watch()
    base: nn.Module = module.base.network  # type: ignore[union-attr,assignment]
    before = {key: value.clone() for key, value in base.state_dict().items() if ".lora_" not in key}
    first = flat([p.detach().clone() for p in module.network.parameters()])
    clips = tasks(tmp_path / "cache", train_batches=2, prompter=Features(WIDTH))
    with torch.random.fork_rng():
        trainer(tmp_path / "run", watch).fit(module, datamodule=clips, weights_only=True)
    assert all(torch.isfinite(torch.tensor([*logged.values()])).all() for logged in watch.logged)
    assert watch.logged[0]["train/ratio"] == pytest.approx(1.0) and watch.logged[0]["train/gap"] > 0
    assert module.iterations == 2 and not int(module.skipped)
    assert not torch.equal(first, flat([p.detach() for p in module.network.parameters()]))
    after = {key: value for key, value in base.state_dict().items() if ".lora_" not in key}
    assert weights_hash(before) == weights_hash(after)
    moved = {key for key, p in module.named_parameters() if p.grad is not None}
    assert moved and all(".lora_" in key and ".executor." in key for key in moved)
    assert not [key for key in moved if ".audio_attn" in key or ".audio_ff" in key or "refiner" in key]


@pytest.mark.parametrize("name", NAMES)
def test_the_demonstrator_is_told_more_and_given_frames_stay(tmp_path: Path, name: str) -> None:
    module = made(name)
    clip, rollouts, asked, told = begun(module, tmp_path)
    assert torch.equal(rollouts.video[:, 0], clip.x0[rollouts.task][:, 0]) and rollouts.made.shape[1] == FRAMES - 1
    gaps = [float((module.taught(rollouts, c) - rollouts.velocities).square().mean()) for c in (asked, told)]
    assert gaps[0] < 1e-9 < gaps[1], "words change nothing"
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter.normal_(std=0.3)
    assert float((module.taught(rollouts, asked) - rollouts.velocities).square().mean()) == gaps[0]


def test_the_draw_of_an_isolated_track_changes_no_loss(tmp_path: Path) -> None:
    """That of a track which is attended to does: the docstring of LTX2 says so."""
    found: dict[str, list[float]] = {}
    for audio in ("isolated", "noise"):
        for seed in (0, 1):
            network = partial(NETWORKS["ltx2"], audio=audio, audio_seed=seed)
            module = made("ltx2", network=network, start=teacher_file(network()))
            clip, rollouts, asked, told = begun(module, tmp_path / audio / str(seed))
            taught = module.taught(rollouts, told)
            lesson = module.lesson(clip, rollouts, asked, taught, torch.tensor([1.0, 0.0, -1.0] * 2))
            losses = lesson.losses(module.denoiser(module.network), module.surrogate, module.picked(rollouts), 6)
            found.setdefault(audio, []).append(float(losses[0]().detach()))
    assert found["isolated"][0] == found["isolated"][1] and found["noise"][0] != found["noise"][1]
