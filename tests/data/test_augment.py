"""Colours and shifts of training clips."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from wm_lightning.data.augment import Augmentation, colours
from wm_lightning.data.worldmap import WorldMapDataModule

NONE = dict(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, shift=0)
ALL = dict(brightness=0.1, contrast=0.1, saturation=0.1, hue=0.05, shift=2)


def video(clips: int = 3, frames: int = 4, side: int = 12) -> torch.Tensor:
    source = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (clips, frames, 3, side, side), generator=source, dtype=torch.uint8)


def test_nothing_asked_for_changes_nothing() -> None:
    assert torch.equal(Augmentation(**NONE)(video(), 0, [0, 1, 2]), video())


def test_a_sample_is_changed_the_same_way_in_any_batch() -> None:
    augment = Augmentation(**ALL)
    together, alone = augment(video(), 5, [7, 8, 9]), augment(video()[1:2], 5, [8])
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(augment(video()[1:2], 6, [8]), alone) and not torch.equal(
        augment(video()[1:2], 5, [9]), alone
    )


def test_all_frames_of_a_clip_are_changed_alike() -> None:
    still = video(frames=1).expand(-1, 5, -1, -1, -1)
    changed = Augmentation(**ALL)(still, 0, [1, 2, 3])
    assert torch.equal(changed, changed[:, :1].expand_as(changed)) and not torch.equal(changed, still)


def test_a_shift_moves_the_picture_and_reflects_its_edge() -> None:
    augment = Augmentation(**NONE | {"shift": 2})
    original = video(clips=40, frames=1)
    moved = augment(original, 0, list(range(40)))
    found = set()
    for before, after in zip(original[:, 0], moved[:, 0], strict=True):
        shifts = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(before.roll((down, right), (1, 2))[:, 2:-2, 2:-2], after[:, 2:-2, 2:-2])
        ]
        assert len(shifts) == 1
        found.update(shifts)
        down, right = shifts[0]
        if down > 0:  # the first rows uncovered mirror those below the edge
            assert torch.equal(after[:, down - 1, 2:-2], before.roll(right, 2)[:, 1, 2:-2])
    assert len(found) > 15


def test_colours_do_what_their_names_say() -> None:
    clip = video()[0].float()
    luma = lambda x: (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)  # noqa: E731
    torch.testing.assert_close(colours(clip, 1.1, 1.0, 1.0, 0.0), 1.1 * clip)
    contrast = colours(clip, 1.0, 0.5, 1.0, 0.0)
    torch.testing.assert_close(luma(contrast).std(), 0.5 * luma(clip).std())
    torch.testing.assert_close(luma(contrast).mean(), luma(clip).mean())
    grey = colours(clip, 1.0, 1.0, 0.0, 0.0)
    torch.testing.assert_close(grey, luma(clip)[:, None].expand_as(grey))
    turned = colours(clip, 1.0, 1.0, 1.0, 0.25)
    torch.testing.assert_close(luma(turned), luma(clip), atol=0.05, rtol=1e-3)
    torch.testing.assert_close(colours(turned, 1.0, 1.0, 1.0, -0.25), clip, atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("changes", [{"brightness": 1.0}, {"hue": 0.6}, {"shift": -1}, {"contrast": -0.1}])
def test_settings_out_of_range_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="data.augment"):
        Augmentation(**ALL | changes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shift=12 is as large"):
        Augmentation(**NONE | {"shift": 12})(video(), 0, [0, 1, 2])


def test_training_batches_are_augmented_and_validation_is_not(
    make_data: Callable[..., WorldMapDataModule], tmp_path: Path
) -> None:
    plain, other = (make_data(cache_dir=str(tmp_path), augment=augment) for augment in (None, Augmentation(**ALL)))
    plain.prepare_data()
    clip = next(iter(plain.train_dataloader()))
    same = next(iter(other.train_dataloader()))
    assert torch.equal(clip.video, same.video), "the loader reads, the device augments"
    changed = other.augmented(same)
    assert not torch.equal(changed.video, clip.video) and changed.video.shape == clip.video.shape
    assert torch.equal(changed.condition.actions, clip.condition.actions)
    assert torch.equal(plain.augmented(clip).video, clip.video)
    other.trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    for stage, expected in ((other.trainer, changed), (None, same)):
        other.trainer.training = stage is not None
        assert torch.equal(other.on_after_batch_transfer(same, 0).video, expected.video)
