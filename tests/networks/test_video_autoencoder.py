"""The autoencoders of video pipelines: latents as the pipelines scale them, videos as they decode them, refusals."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.networks.tiny_pipelines import hunyuan15_pipeline, ltx2_pipeline
from wm_lightning.clip import to_pixels, to_unit
from wm_lightning.networks.adapters.video_autoencoder import VideoAutoencoder
from wm_lightning.networks.autoencoders import Autoencoder

pytest.importorskip("diffusers.models.transformers.transformer_ltx2")
pytest.importorskip("transformers")

NAMES = ["ltx2", "hunyuan15"]
MAKERS = {"ltx2": ltx2_pipeline, "hunyuan15": hunyuan15_pipeline}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MAKERS.items()}


def pictures(count: int = 3) -> Tensor:
    source = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 1, 3, 12, 8), generator=source, dtype=torch.uint8)


def published(name: str, folder: Path) -> tuple[Any, Any]:
    """diffusers' own autoencoder, and how its pipeline scales latents to and fro."""
    import diffusers  # noqa: PLC0415

    kind = {"ltx2": "AutoencoderKLLTX2Video", "hunyuan15": "AutoencoderKLHunyuanVideo15"}[name]
    vae = getattr(diffusers, kind).from_pretrained(folder / "vae")
    if name == "hunyuan15":
        scale = vae.config.scaling_factor
        return vae, (lambda z: z * scale, lambda z: z / scale)
    pipeline, law = diffusers.LTX2ImageToVideoPipeline, (vae.latents_mean, vae.latents_std)  # type: ignore[attr-defined]
    return vae, (lambda z: pipeline._normalize_latents(z, *law), lambda z: pipeline._denormalize_latents(z, *law))


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_encoded_as_its_pipeline_does(folders: dict[str, Path], name: str) -> None:
    autoencoder = VideoAutoencoder(folder=str(folders[name]))
    vae, (scaled, _) = published(name, folders[name])
    assert autoencoder.frame_shape(12, 8) == (4, 6, 4) and autoencoder.stride == 2
    made = autoencoder.encode(pictures())
    assert made.shape == (3, 1, 4, 6, 4)
    for picture, latents in zip(pictures(), made, strict=True):
        with torch.no_grad():
            expected = scaled(vae.encode(to_unit(picture[None])[0].transpose(0, 1)[None]).latent_dist.mode())
        torch.testing.assert_close(latents[0], expected[0, :, 0])


@pytest.mark.parametrize("name", NAMES)
def test_latents_of_a_clip_are_one_video(folders: dict[str, Path], name: str) -> None:
    autoencoder = VideoAutoencoder(folder=str(folders[name] / "vae"))
    vae, (_, unscaled) = published(name, folders[name])
    latents = torch.randn(2, 3, 4, 6, 4, generator=torch.Generator().manual_seed(2))
    made = autoencoder.decode(latents)
    with torch.no_grad():
        expected = vae.decode(unscaled(latents[1:].transpose(1, 2)), return_dict=False)[0]
    assert made.shape == (2, 5, 3, 12, 8) and made.dtype == torch.uint8
    assert torch.equal(made[1:], to_pixels(expected.transpose(1, 2)))
    changed = torch.cat([latents[:, :2], latents[:, 2:] + 1], dim=1)
    assert torch.equal(autoencoder.decode(changed)[:, 0], made[:, 0]), "the first frame hangs on a later one"
    alone = latents[:, :1]
    assert torch.equal(Autoencoder.decode(autoencoder, alone), autoencoder.decode(alone)), "a picture is a clip of one"


@pytest.mark.parametrize("name", NAMES)
def test_loading_draws_no_numbers_and_leaves_no_gradients(folders: dict[str, Path], name: str) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    latents = VideoAutoencoder(folder=str(folders[name])).encode(pictures())
    assert torch.equal(before, torch.random.get_rng_state()) and not latents.requires_grad


def test_other_weights_are_another_autoencoder(folders: dict[str, Path], tmp_path: Path) -> None:
    own = VideoAutoencoder(folder=str(folders["ltx2"])).identity
    assert own["kind"] == "AutoencoderKLLTX2Video" and len(own["sha256"]) == 64
    assert json.loads(json.dumps(own)) == own, "it is no plain value"
    shutil.copytree(folders["ltx2"], tmp_path / "same")
    assert VideoAutoencoder(folder=str(tmp_path / "same")).identity == own
    shutil.copytree(folders["ltx2"], tmp_path / "other")
    weights = tmp_path / "other/vae/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert VideoAutoencoder(folder=str(tmp_path / "other")).identity["sha256"] != own["sha256"]


def test_what_cannot_be_read_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="autoencoder.folder=null: name a folder of diffusers"):
        VideoAutoencoder(folder=None)
    with pytest.raises(ValueError, match=f"autoencoder.folder={tmp_path} has no vae/config.json, nor config.json"):
        VideoAutoencoder(folder=str(tmp_path))
    with pytest.raises(ValueError, match="config.json cannot be read: it is of a LTX2VideoTransformer3DModel"):
        VideoAutoencoder(folder=str(folders["ltx2"] / "transformer"))
    shutil.copytree(folders["ltx2"] / "vae", tmp_path / "vae")
    said = json.loads((tmp_path / "vae/config.json").read_text())
    (tmp_path / "vae/config.json").write_text(json.dumps(said | {"layers_per_block": [2, 1]}))
    with pytest.raises(ValueError, match="vae is not of the AutoencoderKLLTX2Video that its config.json describes"):
        VideoAutoencoder(folder=str(tmp_path)).encode(pictures())
    (tmp_path / "vae/config.json").write_text(json.dumps(said | {"timestep_conditioning": True}))
    with pytest.raises(ValueError, match="decodes at a timestep"):
        VideoAutoencoder(folder=str(tmp_path))


def test_a_video_is_not_encoded_as_pictures(folders: dict[str, Path]) -> None:
    autoencoder = VideoAutoencoder(folder=str(folders["ltx2"]))
    with pytest.raises(ValueError, match="latents of 2 frames asked for, it is given single pictures"):
        autoencoder.encode(pictures().expand(-1, 2, -1, -1, -1))
    with pytest.raises(ValueError, match="multiples of 2"):
        autoencoder.encode(pictures()[..., :7])
