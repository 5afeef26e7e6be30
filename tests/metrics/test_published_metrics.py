"""Metrics of published networks: under their names with the pinned file only, and refused with another."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.networks.tiny_autoencoder import tiny_autoencoder, write_weights
from wm_lightning.metrics.degradations import blur, noise
from wm_lightning.metrics.distance import Scale, kernel_distance
from wm_lightning.metrics.extractors import inception, timm_features, torchvision_inception
from wm_lightning.metrics.perceptual import HorizonLPIPS, HorizonMSE
from wm_lightning.metrics.pinned import Pinned, read_script, read_state
from wm_lightning.metrics.protocol_scores import Asked, ProtocolScores
from wm_lightning.metrics.weights import TimmWeights, Weights

NONE = dict.fromkeys(
    (
        "lpips_alex",
        "lpips_vgg",
        "dreamsim",
        "inception",
        "inception_torchvision",
        "i3d",
        "timm",
        "inverse_dynamics",
        "vae",
    )
)


# Of the clips of a test: two of each.
EPISODES = [str(clip // 2) for clip in range(12)]


def pinned(path: Path) -> Pinned:
    return Pinned(str(path), hashlib.sha256(path.read_bytes()).hexdigest())


class Look(nn.Module):
    """Stands where the published TorchScript networks stand: same call, tiny random weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(6, 3))

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        assert return_features
        x = x.float()
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], dim=1) @ self.weight


class LookAtClips(nn.Module):
    def forward(self, x: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        assert rescale and resize and return_features
        return torch.cat([x.mean((2, 3, 4)), (x[:, :, 1:] - x[:, :, :-1]).abs().mean((2, 3, 4))], dim=1)


class Far(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).abs().mean((1, 2, 3))


def scripted(module: nn.Module, path: Path) -> Pinned:
    torch.jit.script(module).save(str(path))
    return pinned(path)


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Pinned:
    """Random weights in the names and shapes of torchvision's file."""
    from torchvision.models import alexnet as build  # noqa: PLC0415  takes seconds

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save({k: v for k, v in build(weights=None).state_dict().items() if k.startswith("features")}, path)
    return pinned(path)


def test_another_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "inception.pt"
    path.write_bytes(b"not a network")
    for read in (read_script, read_state, inception):
        with pytest.raises(ValueError, match="it is another file"):
            read(Pinned(str(path), "0" * 64))
    with pytest.raises(ValueError, match="must be the 64 digits"):
        Weights(**NONE | {"inception": Pinned(str(path), "abc")})
    with pytest.raises(ValueError, match="is no TorchScript file"):
        read_script(pinned(path))
    with pytest.raises(ValueError, match="cannot be read as weights"):
        read_state(pinned(path))


def test_a_file_that_brings_code_is_refused_whatever_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"features.0.weight": Path}, path)
    with pytest.raises(ValueError, match="never run"):
        read_state(pinned(path))


def test_lpips_is_0_for_equal_frames_and_grows_with_damage(clips, alexnet: Pinned) -> None:
    video = clips(2, seed=3, frames=2, size=64)
    values = []
    for damaged in (video, blur(video, 0.5), blur(video, 1.0)):
        metric = HorizonLPIPS(net="alex", weights=alexnet, context=0, horizon=2)
        metric.update(damaged, video)
        values.append(metric.mean())
        assert alexnet.sha256 in metric.extractor_hash
    assert values[0] == 0 < values[1] < values[2]
    with pytest.raises(ValueError, match="is no vgg of torchvision"):
        HorizonLPIPS(net="vgg", weights=alexnet, context=0, horizon=2)


def test_batches_do_not_change_a_frame_measure(clips) -> None:
    video = clips(5, seed=3, frames=3)
    whole, parts = HorizonMSE(context=0, horizon=3), HorizonMSE(context=0, horizon=3)
    whole.update(noise(video, 1.0), video)
    for part in (slice(0, 4), slice(4, 5)):
        parts.update(noise(video, 1.0)[part], video[part])
    torch.testing.assert_close(whole.compute(), parts.compute())
    wanted = ((noise(video, 1.0).float() - video.float()) / 255).square().mean((0, 2, 3, 4))
    torch.testing.assert_close(whole.compute(), wanted)


def scores(weights: Weights, metrics: tuple[str, ...], by_frame: bool = False) -> ProtocolScores:
    return ProtocolScores(Asked([2, 5, 11], (1, 12), metrics, by_frame), weights, (24, 24))


def test_without_weights_published_names_are_absent_and_say_what_they_need(clips) -> None:
    asked = ("mse", "psnr", "ssim", "lpips_vgg", "dreamsim", "fid", "kid", "fvd", "kid_worldgen")
    made = scores(Weights(**NONE), asked)
    video = clips(12, seed=1, frames=12)
    made.add(noise(video, 1.0), video, EPISODES)
    names = {entry["name"] for entry in made.distances(draws=2, seed=0)}
    assert names == {"fd_rand"} and set(made.measured(draws=0, seed=0)) == {"mse", "psnr", "ssim"}
    assert set(made.missing) == {"lpips_vgg", "dreamsim", "fid", "kid", "fvd", "kid_worldgen"}
    assert "protocol.weights.i3d" in made.missing["fvd"] and "nothing is downloaded" in made.missing["fid"]


def test_with_weights_published_names_carry_their_hash(clips, tmp_path: Path) -> None:
    given = {
        "inception": scripted(Look(), tmp_path / "inception.pt"), "i3d": scripted(LookAtClips(), tmp_path / "i3d.pt"),
        "dreamsim": scripted(Far(), tmp_path / "dreamsim.pt"),
    }  # fmt: skip
    video = clips(12, seed=1, frames=12)
    made = scores(Weights(**NONE | given), ("fid", "kid", "fvd", "dreamsim"), by_frame=True)
    for part in (slice(0, 5), slice(5, 12)):
        made.add(noise(video, 1.0)[part], video[part], EPISODES[part])
    found = {entry["name"]: entry for entry in made.distances(draws=3, seed=0)}
    # Image distances for every scored frame, the distance of clips once, on the frames that were named.
    assert set(found) == {f"{n}@{f}" for n in ("fid", "kid") for f in (2, 5, 11)} | {"fvd", "fd_rand"}
    assert found["fid@2"]["extractor"] == given["inception"].sha256 and found["fid@2"]["features"] == 12
    assert found["kid@11"]["subset"] == 6 and found["fvd"]["features"] == 12
    assert all(entry["low"] <= entry["value"] <= entry["high"] for entry in found.values())
    assert all(entry["value"] > 0 for name, entry in found.items() if "kid" not in name)
    assert made.measured(draws=3, seed=0)["dreamsim"]["mean"] > 0 and not made.missing


def test_fvd_needs_ten_frames(clips, tmp_path: Path) -> None:
    weights = Weights(**NONE | {"i3d": scripted(LookAtClips(), tmp_path / "i3d.pt")})
    made = ProtocolScores(Asked([2], (0, 9), ("fvd",), False), weights, (24, 24))
    video = clips(4, seed=1, frames=12)
    with pytest.raises(ValueError, match="at least 10 frames, got 9"):
        made.add(video, video, EPISODES[:4])


def test_kernel_distances_are_taken_from_other_real_clips(clips) -> None:
    made, video = scores(Weights(**NONE), ()), clips(12, seed=1, frames=12)
    made.add(noise(video, 1.0), video, EPISODES)
    other = clips(40, seed=2, frames=12) // 2  # darker than the truth, so the floor shows what was compared
    homes = [str(clip // 3) for clip in range(40)]
    [entry] = made.kernel_distances(real := made.features_of(other), homes, minimum=4, draws=5, seed=0)
    [(extractor, features)] = ((one, real[one.name]) for one in made.fallbacks)
    sides = [extractor(part[:, 1:12]) for part in (noise(video, 1.0), video)]
    settings = dict(scale=Scale.fit(features[12:]), extractor=extractor.sha256, minimum=4, draws=5, seed=0)
    wanted = kernel_distance(*sides, features[:12], **settings, episodes=(EPISODES, homes[:12]))
    for name in ("value", "floor", "low", "high"):
        assert entry[name] == pytest.approx(getattr(wanted, name))
    assert entry["low"] != kernel_distance(*sides, features[:12], **settings).low and entry["episodes"] == 6
    assert entry["floor"] > 0
    assert entry["note"] == "its scale is that of 28 clips, too few for 256 features: the number means little"


def test_a_kernel_distance_that_a_few_clips_carry_says_so(clips) -> None:
    real, homes = clips(160, seed=2, frames=12), [str(clip) for clip in range(160)]
    notes = []
    for strange in (False, True):
        made, video = scores(Weights(**NONE), ()), clips(12, seed=1, frames=12)
        if strange:
            video[0, ::2], video[0, 1::2] = 0, 255  # it flickers
        made.add(video, video, EPISODES)
        [entry] = made.kernel_distances(made.features_of(real), homes, minimum=4, draws=5, seed=0)
        notes.append((entry["note"], entry["effective"]))
    (usual, many), (said, few) = notes
    assert usual is None and many > 5
    assert few < 2 and said == f"{few:.1f} of 12 clips carry it: with other clips it would be another; give it more"


def test_frame_measures_have_intervals_that_hold_their_means(clips) -> None:
    made, video = scores(Weights(**NONE), ("mse", "ssim")), clips(12, seed=1, frames=12)
    for part in (slice(0, 5), slice(5, 12)):
        made.add(blur(video, 1.0)[part], video[part], EPISODES[part])
    for found in made.measured(draws=200, seed=0).values():
        assert found["low"] < found["mean"] < found["high"] and found["n"] == 12 and found["episodes"] == 6
        bounds = zip(found["frames_low"], found["frames"], found["frames_high"], strict=True)
        assert all(low < value < high for low, value, high in bounds)
    wanted = ((blur(video, 1.0).float() - video.float()) / 255).square()[:, [2, 5, 11]].mean((0, 2, 3, 4))
    assert made.measured(draws=0, seed=0)["mse"]["frames"] == pytest.approx(wanted.tolist())
    assert made.measured(draws=0, seed=0)["mse"]["low"] is None


def test_worldgens_kid_sees_pixels_as_that_project_feeds_them(clips, tmp_path: Path) -> None:
    from torchvision.models import inception_v3  # noqa: PLC0415  takes seconds

    torch.manual_seed(0)
    # Of random weights; with `transform_input`, as torchvision builds it for weights of its own.
    network = inception_v3(weights=None, transform_input=True, aux_logits=True, init_weights=False)
    path = tmp_path / "inception_v3.pth"
    torch.save(network.state_dict(), path)
    network.fc = nn.Identity()
    images = clips(1, seed=1, frames=2)
    with torch.no_grad():
        large = nn.functional.interpolate(images[0].float() / 255, size=(299, 299), mode="bilinear")
        wanted = network.eval()(large)
        rounded = network((large * 255).round() / 255)
    found = torchvision_inception(pinned(path))(images)
    torch.testing.assert_close(found, wanted)
    assert found.shape == (2, 2048) and not torch.equal(found, rounded)


def test_a_timm_backbone_with_local_weights(clips, tmp_path: Path) -> None:
    import timm  # noqa: PLC0415  takes seconds

    torch.manual_seed(0)
    path = tmp_path / "backbone.pth"
    torch.save(timm.create_model("test_resnet", pretrained=False).state_dict(), path)
    extractor = timm_features("test_resnet", pinned(path))
    video = clips(3, seed=1, frames=2)
    features = extractor(video)
    assert len(features) == 6 and extractor.name == "timm_test_resnet"
    torch.testing.assert_close(extractor(video[1:2]), features[2:4])
    assert TimmWeights("test_resnet", pinned(path)).pinned.sha256 == extractor.sha256


def test_latents_of_an_autoencoder_are_features_of_clips(clips, tmp_path: Path) -> None:
    write_weights(tmp_path / "vae.safetensors")
    weights = Weights(**NONE | {"vae": tiny_autoencoder(tmp_path / "vae.safetensors")})
    extractor = {one.name: one for one in weights.fallbacks()}["vae"]
    video = clips(3, seed=1)
    assert extractor(video).shape == (3, 16) and extractor.sha256 == weights.vae.sha256
    torch.testing.assert_close(extractor(video[2:]), extractor(video)[2:])
    assert not torch.allclose(extractor(video[:, :1].expand_as(video)), extractor(video))
    assert extractor(video[..., :-1, :]).shape == (3, 16), "a side that cannot be divided is resized"
    with pytest.raises(ValueError, match="expected is autoencoder.sha256"):
        Weights(**NONE | {"vae": tiny_autoencoder(tmp_path / "vae.safetensors", sha256="0" * 64)})
