"""A whole checkpoint in the published layout taken apart: every part computes what the original did."""

import json
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from safetensors import safe_open
from safetensors.torch import load_file

from tests.networks.tiny_autoencoder import diffusers_own
from tests.networks.tiny_dynamicrafter import IMAGE, TEXT, resampler, tiny_clip, unet, whole
from wm_lightning.config import compose
from wm_lightning.config_check import check
from wm_lightning.networks.adapters.dynamicrafter import unet_name
from wm_lightning.networks.adapters.dynamicrafter_parts import from_resampler
from wm_lightning.networks.autoencoders import KLAutoencoder
from wm_lightning.networks.openclip import OpenClipImage, OpenClipText, read_empty_text
from wm_lightning.networks.resampler import Resampler
from wm_lightning.tasks.unpack import Unpack

PARTS = ("unet", "autoencoder", "text", "image", "resampler", "schedule")


@pytest.fixture(scope="module")
def clip() -> Any:
    return tiny_clip()


@pytest.fixture(scope="module")
def state(clip: Any) -> dict[str, torch.Tensor]:
    return whole(clip.state_dict())


def unpack(content: Any, folder: Path, **changes: Any) -> tuple[dict[str, float], Path]:
    torch.save(content, folder / "model.ckpt")
    words = [f"task.checkpoint={folder / 'model.ckpt'}", f"task.into={folder / 'parts'}"]
    words += [f"task.text.{key}={value}" for key, value in TEXT.items()]
    config = compose(["task=unpack", *words, *(f"task.{key}={value}" for key, value in changes.items())])
    check(config)
    return instantiate(config.task, _convert_="all")(config), folder / "parts"


@pytest.fixture(scope="module")
def parts(state: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    _, folder = unpack({"state_dict": state, "epoch": 3}, tmp_path_factory.mktemp("unpack"), empty_text="true")
    return folder


def test_every_key_is_in_the_report(state: dict[str, torch.Tensor], parts: Path) -> None:
    report = json.loads((parts / "report.json").read_text())
    assert report["keys"] == len(state) == sum(p["keys"] for p in report["parts"].values()) + len(report["left_out"])
    assert set(report["parts"]) == set(PARTS)
    for name, part in report["parts"].items():
        stored = load_file(parts / f"{name}.safetensors")
        assert (part["keys"], part["parameters"]) == (len(stored), sum(v.numel() for v in stored.values()))
        assert part["bytes"] == 4 * part["parameters"]
    assert report["left_out"].keys() == {
        f"embedder.model.{name}"
        for name in ("token_embedding.weight", "positional_embedding", "ln_final.weight", "ln_final.bias")
        + ("text_projection", "logit_scale")
    }
    with safe_open(parts / "unet.safetensors", "pt") as file:
        assert json.loads(file.metadata()["arguments"]) == report["parts"]["unet"]["arguments"]


def test_the_unet_has_all_its_values(state: dict[str, torch.Tensor], parts: Path) -> None:
    stored = load_file(parts / "unet.safetensors")
    for name, _ in unet():
        ours = stored.pop(str(unet_name(name)))
        assert torch.equal(ours.flatten(), state[f"model.diffusion_model.{name}"].flatten())
    assert not stored


def test_the_autoencoder_encodes_as_diffusers_conversion_of_it(state: dict[str, torch.Tensor], parts: Path) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint  # noqa: PLC0415

    architecture = {
        "in_channels": 3, "out_channels": 3, "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2, "block_out_channels": [8, 16], "layers_per_block": 1,
        "act_fn": "silu", "latent_channels": 4, "norm_num_groups": 4,
    }  # fmt: skip
    own = {name: value for name, value in state.items() if name.startswith("first_stage_model.")}
    network = diffusers_own()(**architecture).eval()
    network.load_state_dict(convert_ldm_vae_checkpoint(own, architecture))
    ours = KLAutoencoder(
        weights=str(parts / "autoencoder.safetensors"), sha256=None, scale=0.18215, shift=0.0, batch_frames=2,
        architecture=architecture,
    )  # fmt: skip
    video = torch.rand(1, 2, 3, 16, 16)
    with torch.no_grad():
        mean = network.encode(video[0] * 2 - 1).latent_dist.mean
    torch.testing.assert_close(ours.encode(video)[0], mean * 0.18215, atol=1e-6, rtol=1e-5)


def test_the_encoders_and_the_resampler_compute_what_they_did(
    clip: Any, state: dict[str, torch.Tensor], parts: Path
) -> None:
    frames = torch.rand(2, 3, 28, 28) * 2 - 1
    seen: list[torch.Tensor] = []
    image = OpenClipImage(weights=str(parts / "image.safetensors"), architecture=IMAGE)
    hook = clip.visual.transformer.register_forward_hook(lambda module, given, made: seen.append(made))
    clip.encode_image(((frames + 1) / 2 - image.mean) / image.deviation)
    hook.remove()
    tokens = image(frames)
    torch.testing.assert_close(tokens, seen[0], atol=1e-5, rtol=1e-5)
    arguments = json.loads((parts / "report.json").read_text())["parts"]["resampler"]["arguments"]
    stored, direct = Resampler(**arguments), Resampler(**arguments)
    stored.load_state_dict(load_file(parts / "resampler.safetensors"))
    direct.load_state_dict(from_resampler({name: state[f"image_proj_model.{name}"] for name, _ in resampler()})[0])
    assert stored(tokens).shape == (2, 64, 24)
    assert torch.equal(stored(tokens), direct(tokens))


def test_the_empty_text_needs_no_encoder_afterwards(clip: Any, parts: Path) -> None:
    encoder = OpenClipText(weights=str(parts / "text.safetensors"), architecture=TEXT)
    states = read_empty_text(parts / "empty_text.safetensors", encoder.sha256)
    assert torch.equal(states, encoder([""]))
    assert all(torch.equal(v, clip.state_dict()[k]) for k, v in load_file(parts / "text.safetensors").items())


def test_the_schedule_is_kept(state: dict[str, torch.Tensor], parts: Path) -> None:
    stored = load_file(parts / "schedule.safetensors")
    assert len(stored) == 13 and all(torch.equal(value, state[name]) for name, value in stored.items())


def test_vid2worlds_own_and_those_deepspeed_wrote(clip: Any, tmp_path: Path) -> None:
    causal = {f"_forward_module.{name}": value.half() for name, value in whole(clip.state_dict(), actions=51).items()}
    found, folder = unpack({"module": causal}, tmp_path)
    assert found["keys"] == len(causal) and found["parts"] == len(PARTS)
    arguments = json.loads((folder / "report.json").read_text())["parts"]["unet"]["arguments"]
    assert (arguments["causal"], arguments["action_kind"], arguments["actions"]) == (True, "table", 51)
    assert all(value.dtype == torch.float16 for value in load_file(folder / "unet.safetensors").values())
    assert not (folder / "empty_text.safetensors").exists()


def test_a_unet_alone_is_a_checkpoint_too(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    alone = {name: value for name, value in state.items() if name.startswith("model.")}
    assert unpack({"state_dict": alone}, tmp_path)[0]["parts"] == 1
    with pytest.raises(ValueError, match="holds no text encoder; set it to false"):
        Unpack(checkpoint=str(tmp_path / "model.ckpt"), into=str(tmp_path / "b"), empty_text=True, text=TEXT)(
            compose(["task=unpack"])
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.ckpt", "parts"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model_ema.decay", "1 keys belong to no part.*model_ema.decay"),
        ("embedder.model.extra.weight", "belong to no part.*embedder.model.extra.weight"),
        ("model.diffusion_model.label_emb.weight", r"VideoUNet: \['label_emb.weight'\]"),
        ("first_stage_model.encoder.extra.weight", r"AutoencoderKL: \['encoder.extra.weight'\]"),
        ("image_proj_model.extra.weight", r"Resampler: \['extra.weight'\]"),
    ],
)
def test_a_key_without_a_place_is_named(state: dict[str, torch.Tensor], tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        unpack({"state_dict": state | {name: torch.zeros(1)}}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"], "something was left behind"


def test_what_is_no_such_checkpoint_at_all_is_called_that(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it is no checkpoint of DynamiCrafter or Vid2World: of its 2 keys") as refused:
        unpack({"layer.weight": torch.zeros(1), "layer.bias": torch.zeros(1)}, tmp_path)
    assert "out of the file" not in str(refused.value)


class Code:
    """What a file may not bring along."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch ran",)


def test_code_in_the_file_is_refused_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="model.ckpt is not a whole checkpoint.*published.*brings .*system along"):
        unpack({"state_dict": {"betas": torch.zeros(1)}, "hyper_parameters": Code()}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]


def test_what_is_no_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the entry 'betas' of state_dict is a list"):
        unpack({"state_dict": {"betas": [1.0]}}, tmp_path)
    with pytest.raises(ValueError, match="found nothing"):
        unpack({"state_dict": {}}, tmp_path / "..")


def test_wrong_names_and_a_full_disk(
    state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose(["task=unpack"])
    with pytest.raises(ValueError, match="needs task.checkpoint=FILE.*found None and None"):
        instantiate(config.task, _convert_="all")(config)
    for name, said in (("absent.ckpt", "is not there"), ("", "is a folder")):
        config = compose(["task=unpack", f"task.checkpoint={tmp_path / name}", f"task.into={tmp_path / 'parts'}"])
        with pytest.raises(ValueError, match=f"^task.checkpoint={tmp_path / name} {said}; name the model.ckpt"):
            instantiate(config.task, _convert_="all")(config)
    (tmp_path / "parts").mkdir()
    with pytest.raises(ValueError, match="parts is there already"):
        unpack({"state_dict": state}, tmp_path)
    (tmp_path / "parts").rmdir()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 1000))
    with pytest.raises(ValueError, match="needs 0.0 GB.*name another disk"):
        unpack({"state_dict": state}, tmp_path)
