import wm_lightning  # noqa: F401, I001  (before lightning: it makes a CPU torch and torchvision agree)

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.data.fault_trial import Clean, clean_set
from wm_lightning.data.worldmap import WorldMapDataModule
from wm_lightning.worlds.world_map import WorldMap


def small_world(**changes: Any) -> WorldMap:
    settings: dict[str, Any] = dict(seed=0, map_tiles=16, view=6, smoothness=2.0, stickiness=0.6, length=20)
    settings |= dict(maps=dict(train=3, val=2, test=2), walks=dict(train=20, val=8, test=8))
    return WorldMap(**(settings | changes))


def small_data(**changes: Any) -> WorldMapDataModule:
    settings: dict[str, Any] = dict(world=small_world(), cached_maps=4, root=None, frames=5)
    settings |= dict(height=24, width=24, batch_size=3, train_batches=12, val_clips=4, val_frames=7)
    settings |= dict(num_workers=0, seed=0, action_shift=1, augment=None)
    return WorldMapDataModule(**(settings | changes))


@pytest.fixture
def make_world() -> Callable[..., WorldMap]:
    return small_world


@pytest.fixture
def make_data(tmp_path: Path) -> Callable[..., WorldMapDataModule]:
    """DataModules over one cache; settings can be changed by keyword."""

    def make(**changes: Any) -> WorldMapDataModule:
        return small_data(**({"cache_dir": str(tmp_path / "cache")} | changes))

    return make


@pytest.fixture
def data(make_data: Callable[..., WorldMapDataModule]) -> WorldMapDataModule:
    """A prepared DataModule."""
    module = make_data()
    module.prepare_data()
    return module


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Clean]:
    """Sound sets by form, each made once, with what is served of their stores."""
    place, made = tmp_path_factory.mktemp("clean"), {}

    def get(form: str) -> Clean:
        if form not in made:
            made[form] = clean_set(form, place)
        return made[form]

    return get
