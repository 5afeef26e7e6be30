"""Random networks of world-model-eval's reference implementation, reproduced: forward pass and generation."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from safetensors import safe_open
from torch import Tensor

from wm_lightning.clip import Condition
from wm_lightning.networks.adapters.worldgym import from_worldgym
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.rerun import Rerun
from wm_lightning.networks.video_dit import VideoDiT
from wm_lightning.noising import VPDiffusion
from wm_lightning.sampling.rollout import Commit, Plan, rollout
from wm_lightning.sampling.samplers import DDIMSampler, PyramidSampler, StepList

pytestmark = pytest.mark.golden

FOLDER = Path(os.environ.get("WM_GOLDENS", Path(__file__).parents[1] / "goldens"))
FILES = sorted(FOLDER.glob("worldgym_dit*.safetensors"))
PATH = VPDiffusion(prediction="v", loss_sigma_floor=0.05, steps=1000, start=-3.0, end=3.0, tau=1.0)
STABILISATION = Commit(mode="scaled", t=15 / 1000)


@dataclass(frozen=True)
class Golden:
    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    def network(self) -> VideoDiT:
        weights = {k.removeprefix("weights."): v for k, v in self.tensors.items() if k.startswith("weights.")}
        converted, config = from_worldgym(
            weights, heads=self.meta["num_heads"], height=self.meta["height"], width=self.meta["width"]
        )
        network = VideoDiT(**config)
        network.load_state_dict(converted)
        return network

    def condition(self) -> Condition:
        actions = self.tensors["forward.actions"]
        return Condition(actions, torch.zeros(actions.shape[:2], dtype=torch.long))


def load(path: Path) -> Golden:
    with safe_open(path, "pt") as file:
        return Golden({k: file.get_tensor(k) for k in file.keys()}, json.loads(file.metadata()["meta"]))


def channels_first(frames: Tensor) -> Tensor:
    return rearrange(frames, "b t h w c -> b t c h w")


def test_golden_files_are_there() -> None:
    assert FILES, f"no worldgym_dit*.safetensors in {FOLDER}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_golden_forward(path: Path) -> None:
    golden = load(path)
    x, t = channels_first(golden.tensors["forward.x"]), golden.tensors["forward.t"].float()
    prediction, _ = golden.network()(x, t, golden.condition(), mask=FrameMask(1))
    torch.testing.assert_close(prediction, channels_first(golden.tensors["forward.v_pred"]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_golden_schedule(path: Path) -> None:
    reference = load(path).tensors["schedule.alphas_cumprod"]
    torch.testing.assert_close(PATH.alphas_cumprod[1:].float(), reference, atol=1e-6, rtol=0)


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "rerun"])
@pytest.mark.parametrize("case", ["framewise", "ctx3", "sliding", "pyramid"])
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_golden_generation(path: Path, case: str, cached: bool) -> None:
    golden = load(path)
    setting = golden.meta["cases"][case]
    if cached and setting["window"] is not None:
        pytest.skip("the reference re-runs a truncated window, which a cache does not equal by design")
    reference, noise = (channels_first(golden.tensors[f"{case}.{name}"]) for name in ("frames", "noise"))
    context = setting["ctx"]
    network = golden.network()
    ddim = DDIMSampler(StepList(kind="uniform", steps=setting["steps"]), eta=0.0)
    sampler = PyramidSampler(ddim) if setting["horizon"] > 1 else ddim
    window = setting["window"] or golden.meta["max_frames"]
    plan = Plan(chunk=setting["horizon"], mask=FrameMask(1), window=window, sink=0, commit=STABILISATION)
    frames = rollout(
        Denoiser(network if cached else Rerun(network), PATH),
        sampler,
        reference[:, :context],
        golden.condition(),
        plan,
        lambda shape, first, count, step: noise[:, first[0] - context : first[0] - context + count],
    )
    torch.testing.assert_close(frames, reference, atol=1e-4, rtol=0)
