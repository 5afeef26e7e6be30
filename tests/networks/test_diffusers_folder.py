"""Folders that diffusers wrote: their transformers compute the same as networks here, and what is refused of them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.networks.tiny_diffusers import (
    CHANNELS,
    FLOW,
    FRAMES,
    HUNYUAN_SIZES,
    LTX2_SIZES,
    SIDE,
    hunyuan15,
    ltx2,
    noisy,
    told,
)
from wm_lightning.card import Card
from wm_lightning.checkpoints import load_into, read_network
from wm_lightning.clip import Start
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.networks.masks import FrameMask

pytest.importorskip("diffusers.models.transformers.transformer_ltx2")

MAKERS: dict[str, Callable[..., nn.Module]] = {"ltx2": ltx2, "hunyuan15": lambda **kw: hunyuan15(image=None, **kw)}
SIZES: dict[str, dict[str, Any]] = {"ltx2": LTX2_SIZES, "hunyuan15": HUNYUAN_SIZES}
TARGETS = {"ltx2": "ltx2.LTX2", "hunyuan15": "hunyuan15.Hunyuan15"}
NAMES = list(MAKERS)


def expected(name: str, *, channels: int = CHANNELS, prediction: str = "velocity", **sizes: Any) -> Card:
    """The card of a run whose network has the tiny sizes but for some."""
    network = {"_target_": f"wm_lightning.networks.adapters.{TARGETS[name]}", "channels": channels}
    return Card(
        kind="teacher", network=network | {"architecture": SIZES[name] | sizes}, path={"prediction": prediction},
        action_spec={"names": []}, action_shift=0, frame_shape=(channels, SIDE, SIDE), trained_for={}, data="tasks",
    )  # fmt: skip


def saved(name: str, folder: Path, **how: Any) -> nn.Module:
    """A network of random weights whose transformer lies in a pipeline's folder, as diffusers saves it."""
    network = MAKERS[name](seed=5)
    network.transformer.save_pretrained(folder / "transformer", **how)  # type: ignore[operator,union-attr]
    return network


def said(network: nn.Module) -> torch.Tensor:
    """What it predicts of a noisy clip."""
    x_t, t = noisy()
    start = Start(x_t[:, :1], torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(3)))
    with torch.no_grad():
        condition = replace(told("a hand", "opens the drawer"), start=start)
        return Denoiser(network, FLOW).predict(x_t, t, condition, None, FrameMask(None))[0]


@pytest.mark.parametrize("place", ["", "transformer"])
@pytest.mark.parametrize("shard", ["10GB", "20KB"])
@pytest.mark.parametrize("name", NAMES)
def test_a_network_with_the_folders_weights_says_the_same(tmp_path: Path, name: str, shard: str, place: str) -> None:
    original, other = saved(name, tmp_path, max_shard_size=shard), MAKERS[name](seed=6)
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) == 1 or shard == "20KB"
    file = read_network(tmp_path / place, expected(name))
    assert not torch.equal(said(other), said(original))
    load_into(other, file, "the folder")
    assert torch.equal(said(other), said(original))


@pytest.mark.parametrize("name", NAMES)
def test_its_card_is_the_runs_and_covers_a_clip_behind_one_frame(tmp_path: Path, name: str) -> None:
    saved(name, tmp_path)
    card = read_network(tmp_path, expected(name)).card
    assert not card.differences(expected(name))
    card.require_mask(None, "the rollout")
    card.require_one_level(None, "the loss")
    card.require_context(1, "module.context")
    card.require_commit("clean", 0.0, "the rollout")
    card.require_frames(FRAMES, "a clip")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_layers": 3}, ["network.architecture.num_layers=2"]),
        ({"rope_type": "split"}, ["network.architecture.rope_type=interleaved"]),
        ({"vae_scale_factors": [1, 2, 2]}, ["network.architecture.vae_scale_factors=[8,32,32]"]),
        ({"channels": 8}, ["network.channels=4"]),
        ({"prediction": "x0", "num_layers": 1}, ["network.architecture.num_layers=2", "noising.prediction=velocity"]),
    ],
)
def test_other_sizes_are_refused_with_the_words_that_fit(
    tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    saved("ltx2", tmp_path)
    with pytest.raises(ValueError, match="its weights need .*; add these words") as error:
        read_network(tmp_path, expected("ltx2", **changes))
    assert f"need {' '.join(words)}; add" in str(error.value) and str(tmp_path / "transformer") in str(error.value)


def test_a_value_that_the_config_leaves_to_the_class_is_added(tmp_path: Path) -> None:
    ltx2({"gated_attn": True}).transformer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"need \+network.architecture.gated_attn=true; add"):
        read_network(tmp_path, expected("ltx2"))


def test_another_network_is_named(tmp_path: Path) -> None:
    saved("ltx2", tmp_path)
    with pytest.raises(ValueError, match="a LTX2VideoTransformer3DModel, .*Hunyuan15; set network=ltx2"):
        read_network(tmp_path, expected("hunyuan15"))


def rewritten(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    saved("ltx2", tmp_path, max_shard_size="20KB")
    folder = tmp_path / "transformer"
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    rewritten(index, weight_map=places | {"proj_in.weight": "../elsewhere.safetensors"})
    with pytest.raises(ValueError, match=r"names \.\./elsewhere.safetensors, which is no .safetensors file of this"):
        read_network(tmp_path, expected("ltx2"))
    rewritten(index, weight_map=places | {"another.weight": places["proj_in.weight"]})
    with pytest.raises(ValueError, match="another.weight and 0 more are in none of the files"):
        read_network(tmp_path, expected("ltx2"))
    rewritten(folder / "config.json", shape_of_things=3)
    with pytest.raises(ValueError, match="has shape_of_things, which this diffusers does not know"):
        read_network(tmp_path, expected("ltx2"))
    rewritten(folder / "config.json", _class_name="WanTransformer3DModel")
    with pytest.raises(ValueError, match="is of a WanTransformer3DModel, which no network here is"):
        read_network(tmp_path, expected("ltx2"))


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    saved("ltx2", tmp_path, safe_serialization=False)
    with pytest.raises(ValueError, match=r"neither .* only config.json, diffusion_pytorch_model.bin; save it with"):
        read_network(tmp_path, expected("ltx2"))
