"""What a newcomer would stumble over: halves under autocast, actions under other bounds."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from wm_lightning.clip import ActionSpec, Clip, Condition
from wm_lightning.compute import prepare_cpu
from wm_lightning.data.checks import ranges
from wm_lightning.data.formats.frame_store import BadBudget
from wm_lightning.data.frame_cache import Tolerance


def test_latents_are_joined_under_autocast() -> None:
    actions = Condition(torch.zeros(1, 2, 1), torch.zeros(1, 2, dtype=torch.long))
    video = torch.zeros(1, 2, 3, 0, 0, dtype=torch.uint8)
    clip = Clip(video, actions, torch.zeros(1, dtype=torch.long), latents=torch.ones(1, 2, 4, 2, 2).half())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        joined = Clip.cat([clip, replace(clip)])
    assert joined.latents is not None and joined.latents.shape[0] == 2 and bool((joined.latents == 1).all())


def test_columns_that_use_little_of_their_bounds_are_told() -> None:
    spec = ActionSpec(("raw", "used", "still"), (-1.75, -1.0, -1.0), (1.75, 1.0, 1.0))
    rows = np.array([[0.02, 0.9, 0.0], [-0.03, -0.8, 0.0]], np.float32)
    assert [column.moves_little for column in ranges([rows], spec.names, spec)] == [True, False, False]


def test_the_share_that_would_do_is_named() -> None:
    tolerance = Tolerance("quarantine", 0.001)
    with pytest.raises(ValueError, match="max_bad_share=0.43 "), tolerance.named("train", 7):
        raise BadBudget("3 unusable, 0 allowed:", 3)


@pytest.mark.parametrize(
    ("maker", "precision"), [("AuthenticAMD", "medium"), ("GenuineIntel", "highest"), ("", "highest")]
)
def test_the_precision_of_products_goes_by_the_maker(maker: str, precision: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("wm_lightning.compute.cpu_maker", lambda: maker)
    prepare_cpu(matmul_precision="auto", threads=1)
    assert torch.get_float32_matmul_precision() == precision
