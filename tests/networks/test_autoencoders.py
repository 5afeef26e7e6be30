"""Round trips, diffusers' own numbers, flags of scaling, bounded memory, and files that are refused."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.networks.tiny_autoencoder import SCALE, SHIFT, diffusers_own, tiny_autoencoder, words, write_weights
from wm_lightning.config import compose
from wm_lightning.config_check import check
from wm_lightning.networks.autoencoders import Autoencoder, PatchAutoencoder, PixelAutoencoder

EXACT = {"pixel": PixelAutoencoder(batch_frames=3), "patch": PatchAutoencoder(factor=4, batch_frames=3)}


def some_video(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("weights") / "vae.safetensors"
    return path, write_weights(path)


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("stored_as", [torch.float32, torch.float16])
def test_pixels_and_patches_come_back_exactly(kind: str, stored_as: torch.dtype) -> None:
    autoencoder = EXACT[kind]
    video = some_video(2, 4, 3, 8, 12)
    latents = autoencoder.encode(video)
    assert latents.shape == (2, 4, *autoencoder.frame_shape(8, 12))
    assert torch.equal(autoencoder.decode(latents.to(stored_as)), video)


def test_every_value_of_a_pixel_survives_half_precision() -> None:
    video = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 1, 3, 16, 16)
    assert torch.equal(EXACT["pixel"].decode(EXACT["pixel"].encode(video).half()), video)


def test_a_patch_becomes_the_channels_of_its_place() -> None:
    video = some_video(1, 1, 3, 8, 12)
    latents = EXACT["patch"].encode(video)
    patch = video[0, 0, :, 4:8, 8:12].float() / 127.5 - 1
    torch.testing.assert_close(latents[0, 0, :, 1, 2], patch.flatten())


def test_bytes_and_unit_floats_are_the_same_video(published: tuple[Path, Any]) -> None:
    video = some_video(1, 2, 3, 8, 8)
    for autoencoder in (*EXACT.values(), tiny_autoencoder(published[0])):
        torch.testing.assert_close(
            autoencoder.encode(video.float() / 255), autoencoder.encode(video), atol=1e-5, rtol=0
        )
    with pytest.raises(ValueError, match=r"floats in \[0, 1\] are expected, found -1 .. 1"):
        EXACT["pixel"].encode(torch.tensor([-1.0, 1.0]).repeat(96).reshape(1, 1, 3, 8, 8))


@pytest.mark.parametrize("shift", [0.0, SHIFT])
def test_latents_are_diffusers_own_mean_scaled(published: tuple[Path, Any], shift: float) -> None:
    path, network = published
    autoencoder, video = tiny_autoencoder(path, shift=shift), some_video(2, 3, 3, 16, 12)
    unit = video.flatten(0, 1).float() / 127.5 - 1
    with torch.no_grad():
        mean = network.encode(unit).latent_dist.mean
        decoded = network.decode(mean).sample
    latents = autoencoder.encode(video)
    assert latents.shape == (2, 3, *autoencoder.frame_shape(16, 12)) == (2, 3, 4, 8, 6)
    torch.testing.assert_close(latents.flatten(0, 1), (mean - shift) * SCALE, atol=1e-6, rtol=1e-5)
    expected = ((decoded.clamp(-1, 1) + 1) * 127.5).round()
    # One level: a value between two rounds either way.
    assert (autoencoder.decode(latents).flatten(0, 1).float() - expected).abs().max() <= 1


def test_the_shift_is_a_flag_and_decoding_takes_it_back(published: tuple[Path, Any]) -> None:
    video = some_video(1, 1, 3, 8, 8)
    with_shift, without = (tiny_autoencoder(published[0], shift=shift) for shift in (SHIFT, 0.0))
    difference = without.encode(video) - with_shift.encode(video)
    torch.testing.assert_close(difference, torch.full_like(difference, SHIFT * SCALE), atol=1e-6, rtol=0)
    decoded = [autoencoder.decode(autoencoder.encode(video)).float() for autoencoder in (with_shift, without)]
    assert (decoded[0] - decoded[1]).abs().max() <= 1
    assert (without.decode(with_shift.encode(video)).float() - decoded[1]).abs().max() > 0


def test_the_same_latents_every_time_in_any_portion_and_precision(published: tuple[Path, Any]) -> None:
    video = some_video(1, 5, 3, 8, 8)
    latents = tiny_autoencoder(published[0]).encode(video)
    assert torch.equal(latents, tiny_autoencoder(published[0]).encode(video)), "the posterior is drawn from"
    torch.testing.assert_close(tiny_autoencoder(published[0], batch_frames=5).encode(video), latents)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(latents, tiny_autoencoder(published[0]).encode(video))
    assert latents.dtype == torch.float32


def test_no_more_frames_at_once_than_asked_for(published: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    kind, seen = diffusers_own(), []
    for name in ("encode", "decode"):
        own = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda self, x, own=own: (seen.append(len(x)), own(self, x))[1])
    autoencoder = tiny_autoencoder(published[0], batch_frames=2)
    autoencoder.decode(autoencoder.encode(some_video(3, 5, 3, 8, 8)))
    assert seen == [2] * 7 + [1] + [2] * 7 + [1]


def test_nothing_is_trained(published: tuple[Path, Any]) -> None:
    autoencoder = tiny_autoencoder(published[0])
    video = some_video(1, 2, 3, 8, 8).float() / 255
    assert not autoencoder.encode(video.requires_grad_()).requires_grad
    network: Any = autoencoder._network
    assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())


def test_weights_written_before_projections_were_renamed(published: tuple[Path, Any], tmp_path: Path) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(published[0])
    renamed = {}
    for name, value in weights.items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        renamed[name] = value
    assert set(renamed) != set(weights)
    save_file(renamed, tmp_path / "old.safetensors")
    video = some_video(1, 1, 3, 8, 8)
    found = tiny_autoencoder(tmp_path / "old.safetensors").encode(video)
    assert torch.equal(found, tiny_autoencoder(published[0]).encode(video))


def test_the_hash_of_the_file_is_recorded_and_another_one_refused(published: tuple[Path, Any]) -> None:
    path, _ = published
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert tiny_autoencoder(path).identity["sha256"] == digest
    assert tiny_autoencoder(path, sha256=digest).identity["scale"] == SCALE
    with pytest.raises(ValueError, match=f"SHA-256 {digest}, expected is autoencoder.sha256=abc"):
        tiny_autoencoder(path, sha256="abc").encode(some_video(1, 1, 3, 8, 8))


@pytest.mark.parametrize(
    ("weights", "changes", "said"),
    [
        (None, {}, "weights=null: name the safetensors file"),
        ("absent.safetensors", {}, "is no .safetensors file"),
        ("vae.bin", {}, "is no .safetensors file"),
        ("text.safetensors", {}, "is not of the AutoencoderKL that autoencoder.architecture describes"),
        ("vae.safetensors", {"latent_channels": 16}, "size mismatch"),
        ("vae.safetensors", {"use_quant_conv": False}, "quant_conv"),
        ("vae.safetensors", {"depth": 3}, "depth"),
    ],
)
def test_files_that_are_not_it(
    published: tuple[Path, Any], tmp_path: Path, weights: str | None, changes: dict[str, Any], said: str
) -> None:
    (tmp_path / "vae.bin").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("no weights")
    (tmp_path / "vae.safetensors").symlink_to(published[0])
    path: Any = None if weights is None else tmp_path / weights
    settings = tiny_autoencoder(published[0]).architecture | changes
    with pytest.raises(ValueError, match=said):
        autoencoder = tiny_autoencoder(path, architecture=settings, **({"weights": None} if path is None else {}))
        autoencoder.encode(some_video(1, 1, 3, 8, 8))


def test_frames_that_cannot_be_divided_are_refused(published: tuple[Path, Any]) -> None:
    with pytest.raises(ValueError, match="frames of 10 x 8 pixels cannot be encoded.*multiples of 4"):
        EXACT["patch"].encode(some_video(1, 1, 3, 10, 8))
    with pytest.raises(ValueError, match="multiples of 2"):
        tiny_autoencoder(published[0]).frame_shape(8, 9)


@pytest.mark.parametrize(
    ("name", "shape"), [("pixel", (3, 32, 48)), ("patch", (48, 8, 12)), ("sd", (4, 4, 6)), ("sd3", (16, 4, 6))]
)
def test_a_network_of_latents_takes_its_sizes_from_the_autoencoder(name: str, shape: tuple[int, ...]) -> None:
    config = compose(["data=rt1", "data.width=48", f"autoencoder={name}", "experiment=teacher"])
    check(config)
    if name in EXACT:
        autoencoder: Autoencoder = instantiate(config.autoencoder, _convert_="all")
        assert autoencoder.frame_shape(32, 48) == shape
    if name != "pixel":
        assert (config.network.channels, config.network.height, config.network.width) == shape
    assert config.data.autoencoder == config.autoencoder


def test_worldgyms_latents_are_sd3s_without_the_shift() -> None:
    own, theirs = (compose([f"autoencoder={name}", "network=worldgym"]) for name in ("sd3", "sd3_worldgym"))
    assert (own.autoencoder.scale, own.autoencoder.shift) == (1.5305, 0.0609)
    assert (theirs.autoencoder.scale, theirs.autoencoder.shift) == (1.5305, 0.0)
    assert theirs.autoencoder.architecture == own.autoencoder.architecture
    assert (theirs.network.channels, theirs.network.patch) == (16, 2)


def test_the_published_architecture_has_the_published_number_of_parameters() -> None:
    counts = {}
    for name in ("sd", "sd3"):
        with torch.device("meta"):
            network = diffusers_own()(
                **instantiate(compose([f"autoencoder={name}"]).autoencoder.architecture, _convert_="all")
            )
        counts[name] = sum(parameter.numel() for parameter in network.parameters())
    assert counts == {"sd": 83_653_863, "sd3": 83_819_683}


def test_its_words_choose_it_on_a_command_line(published: tuple[Path, Any]) -> None:
    config = compose(["data=rt1", *words(published[0])])
    check(config)
    autoencoder: Autoencoder = instantiate(config.autoencoder, _convert_="all")
    assert autoencoder.frame_shape(32, 32) == (4, 16, 16) == (4, config.network.height, config.network.width)
