"""The move between two views of one texture is found exactly, on every channel count, and its sign is the view's."""

import pytest
import torch

from wm_lightning.metrics.phase_correlation import phase_shift


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (4, 0), (-4, 0), (0, 5), (3, -6)])
@pytest.mark.parametrize("channels", [1, 3])
def test_moves_are_found(rows: int, columns: int, channels: int) -> None:
    texture = torch.rand(8, channels, 60, 60, generator=torch.Generator().manual_seed(0))
    texture = torch.nn.functional.avg_pool2d(texture, 3, 1)
    before = texture[..., 16:40, 16:40]
    after = texture[..., 16 + rows : 40 + rows, 16 + columns : 40 + columns]
    assert phase_shift(before, after).tolist() == [[rows, columns]] * 8


def test_brightness_changes_nothing() -> None:
    before = torch.randint(0, 200, (4, 3, 32, 24), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    after = before.roll((-3, 2), (2, 3))
    assert torch.equal(phase_shift(before, after), phase_shift(before, (after + 40).to(torch.uint8)))
    assert phase_shift(before, after).tolist() == [[3, -2]] * 4
