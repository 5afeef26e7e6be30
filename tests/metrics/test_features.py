"""The fixed extractor: pinned, deterministic, blind to batching and precision, awake to time."""

import hashlib

import pytest
import torch

from wm_lightning.metrics import features
from wm_lightning.metrics.features import ASSET, SHA256, ClipFeatures


@pytest.fixture(scope="module")
def extractor() -> ClipFeatures:
    return ClipFeatures.load()


def test_the_stored_file_is_the_pinned_one_and_small(extractor: ClipFeatures):
    assert hashlib.sha256(ASSET.read_bytes()).hexdigest() == SHA256 == extractor.extractor_hash
    assert ASSET.stat().st_size < 1_000_000


def test_the_stored_weights_can_be_drawn_again(extractor: ClipFeatures):
    for key, value in features.draw(0).items():
        torch.testing.assert_close(extractor.weights[key], value)


def test_a_changed_file_is_refused(tmp_path):
    path = tmp_path / "random_features.safetensors"
    content = bytearray(ASSET.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected " + SHA256):
        ClipFeatures.load(path)
    with pytest.raises(ValueError, match="missing"):
        ClipFeatures.load(tmp_path / "nothing.safetensors")


def test_values_do_not_change_between_versions(extractor: ClipFeatures):
    ramp = torch.arange(2 * 3 * 3 * 24 * 24).reshape(2, 3, 3, 24, 24).mul(37).remainder(256).to(torch.uint8)
    found = extractor(ramp)
    assert found.shape == (2, extractor.dim)
    expected = torch.tensor([[0.17161, 0.73253, 0.4197, 0.38793], [0.16863, 0.79268, 0.41081, 0.3923]])
    torch.testing.assert_close(found[:, ::64], expected, rtol=1e-3, atol=1e-4)


def test_clips_are_independent_of_their_batch(clips):
    video = clips(7, seed=0)
    whole = ClipFeatures.load(batch_size=7)(video)
    torch.testing.assert_close(ClipFeatures.load(batch_size=2)(video), whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ClipFeatures.load()(video[3:4]), whole[3:4], rtol=1e-4, atol=1e-5)


def test_an_owner_neither_stores_nor_casts_it(extractor: ClipFeatures, clips):
    video = clips(2, seed=0)
    expected = extractor(video)
    owner = torch.nn.ModuleList([ClipFeatures.load()]).to(torch.bfloat16)
    assert owner.state_dict() == {} and torch.equal(owner[0](video), expected)


def test_autocast_changes_nothing(extractor: ClipFeatures, clips):
    video = clips(3, seed=0)
    expected = extractor(video)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(extractor(video), expected)


@pytest.mark.parametrize("size", [16, 24, 64, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_frame_size_and_grey_or_colour(extractor: ClipFeatures, size: int, channels: int, clips):
    video = clips(2, seed=0, frames=2, size=size)[:, :, :channels]
    assert extractor(video).isfinite().all()
    assert extractor(video).shape == (2, extractor.dim)


def test_grey_equals_the_same_grey_in_colour(extractor: ClipFeatures, clips):
    grey = clips(2, seed=0)[:, :, :1]
    torch.testing.assert_close(extractor(grey), extractor(grey.expand(-1, -1, 3, -1, -1)))


def test_sees_the_order_of_frames(extractor: ClipFeatures, clips):
    video = clips(4, seed=0)
    order = [0, 4, 1, 5, 2, 6, 3, 7]
    appearance, dynamics = (extractor(video) - extractor(video[:, order])).abs().split(128, dim=1)
    assert appearance.max() < 1e-4
    assert dynamics.max() > 1e-2


def test_clips_without_features_are_refused(extractor: ClipFeatures, clips):
    with pytest.raises(ValueError, match="at least 2 frames"):
        extractor(clips(2, seed=0, frames=1))
    with pytest.raises(ValueError, match="1 or 3 channels"):
        extractor(clips(2, seed=0)[:, :, :2])
