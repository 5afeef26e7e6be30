"""The ladder: damage grows with its strength, and every measure sees the damage it claims to see."""

import pytest
import torch

from tests.metrics.test_published_metrics import NONE
from wm_lightning.clip import Clip
from wm_lightning.config import compose
from wm_lightning.data.worldmap import WorldMapDataModule
from wm_lightning.metrics.degradations import CLAIMS, DEGRADATIONS, STRENGTHS, broken_claims
from wm_lightning.metrics.weights import Weights
from wm_lightning.tasks.ladder import Ladder, panels
from wm_lightning.worlds.world_map import WorldMap


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_no_strength_changes_nothing_and_every_step_changes_more(name: str, clips) -> None:
    video = clips(16, seed=2)
    assert torch.equal(DEGRADATIONS[name](video, 0.0), video)
    changed = [float((DEGRADATIONS[name](video, s).float() - video.float()).abs().mean()) for s in STRENGTHS]
    assert changed == sorted(changed) and len(set(changed)) == 4 and changed[0] > 0
    assert torch.equal(DEGRADATIONS[name](video, 0.5), DEGRADATIONS[name](video, 0.5))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> WorldMapDataModule:
    world = WorldMap(
        seed=0, map_tiles=24, view=6, smoothness=2.0, stickiness=0.6, length=12,
        maps=dict(train=4, val=1, test=4), walks=dict(train=160, val=4, test=64),
    )  # fmt: skip
    made = WorldMapDataModule(
        world=world, cached_maps=8, root=None, cache_dir=str(tmp_path_factory.mktemp("cache")), frames=9, height=24,
        width=24, batch_size=2, train_batches=8, val_clips=2, val_frames=9, num_workers=0, seed=0, action_shift=1,
        augment=None,
    )  # fmt: skip
    made.prepare_data()
    return made


def test_every_measure_sees_what_it_claims_on_simulated_clips(data: WorldMapDataModule) -> None:
    ladder = Ladder(clips=64, frames=9, metrics=("mse", "psnr", "ssim"), seed=0, minimum=16, weights=Weights(**NONE))
    clip = Clip.cat(list(data.clips("test", 64, 9, 64)))
    real = torch.cat([part.video for part in data.clips("train", 128, 9, 64)])
    found = ladder.climb(clip, real, data)
    assert set(found) == {"mse", "psnr", "ssim", "fd_rand", "kd_rand", "action_error"} and set(found) <= set(CLAIMS)
    assert all(len(values) == 5 for rungs in found.values() for values in rungs.values())
    assert broken_claims(found) == []
    assert {panel.title for panel in panels(found)} == set(found)


def test_latents_are_claimed_to_see_blur_and_noise() -> None:
    for name in ("kd_vae", "fd_vae"):
        faults = broken_claims({name: dict.fromkeys(DEGRADATIONS, [1.0, 1.0, 2.0, 3.0, 4.0])})
        assert [fault.split(":")[0] for fault in faults] == [f"{name} does not see {one}" for one in ("blur", "noise")]


def test_the_protocol_has_frames_enough_for_every_measure() -> None:
    node = compose(["task=evaluate", "protocol=degradation"]).protocol
    assert node.frames >= 10 and "fvd" in node.metrics


def test_a_measure_that_does_not_see_what_it_claims_is_named() -> None:
    fine = {"psnr": {"blur": [48.0, 30.0, 20.0, 19.0, 18.0]}, "unknown": {"blur": [1.0, 0.0]}}
    assert broken_claims(fine) == []
    blind = {"psnr": {"blur": [48.0, 30.0, 30.0, 19.0, 18.0]}, "fvd": {"freeze": [0.0, 1.0, 0.5, 2.0, 3.0]}}
    faults = broken_claims(blind)
    assert len(faults) == 2 and "psnr does not see blur" in faults[0] and "fvd does not see freeze" in faults[1]
