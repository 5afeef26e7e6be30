"""`task=world_rate` counts the frames a world wrote, and keeps nothing."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from wm_lightning.config import compose
from wm_lightning.tasks.world_rate import WorldRate

ONCE: dict[str, Any] = dict(repeats=1, warmup=0, train_steps=0, save_dir=None)


def test_frames_and_clips_are_counted_and_nothing_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["task=world_rate", "data=worldmap", "size=debug", f"cache_dir={tmp_path}", f"run_dir={tmp_path / 'run'}"]
    config = compose([*words, "data.frames=7"])
    found = WorldRate(**ONCE)(config)
    frames = sum(config.data.world.walks.values()) * config.data.world.length
    assert f"simulated-worldmap: {frames} frames" in capsys.readouterr().out
    assert found["frames"] == pytest.approx(7 * found["clips"]) and found["clips"] > 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"], "the world's data were kept"
    report = json.loads((tmp_path / "run" / "world_rate.json").read_text())
    assert report["written"] == frames and report["clips"] == found["clips"] and len(report["seconds"]) == 1
    with pytest.raises(ValueError, match="names recordings"):
        WorldRate(**ONCE)(compose([*words, "data.root=somewhere"]))


def test_the_world_is_held_against_training_and_named_in_the_table(tmp_path: Path) -> None:
    words = ["task=world_rate", "experiment=teacher", "data=worldmap", "size=debug", f"cache_dir={tmp_path}"]
    config = compose([*words, f"run_dir={tmp_path / 'run'}"])
    found = WorldRate(repeats=2, warmup=1, train_steps=2, save_dir=str(tmp_path / "table"))(config)
    assert found["ratio"] == pytest.approx(found["clips"] / found["consumed"]) and found["consumed"] > 0
    (path,) = (tmp_path / "table").iterdir()
    report = json.loads(path.read_text())
    assert path.name == "world-rate-simulated-worldmap.json" and report["ratio"] == found["ratio"]
    assert found["frames"] == pytest.approx(report["written"] / min(report["seconds"])), "the fastest counts"


# What makes every world of `data=` small; `own` has none.
SMALL = {
    "worldmap": [],
    "rt1": ["data.world.workers=1"],
    "csgo": [],
    "recon": [],
    "map_image": ["data.walks={train: 20, val: 10, test: 10}"],
    "world_tasks": ["data.world.scenes={train: 6, val: 2, test: 2}"],
    "doom": ["data.world.episodes={train: 2, test: 1}", "data.world.length=14", "data.world.workers=1"],
}


def test_every_data_set_but_ones_own_is_listed() -> None:
    there = {path.stem for path in (Path(__file__).parents[2] / "conf" / "data").glob("*.yaml")}
    same = {"grid_films", "labelled_films", "labelled_videos", "pusher_goals", "world_tasks_coarse"}
    assert there - {"own", *same} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_every_world_has_a_rate(name: str, tmp_path: Path) -> None:
    if name == "doom" and find_spec("vizdoom") is None:
        pytest.skip("ViZDoom is not installed: pip install -e '.[doom]'")
    words = ["task=world_rate", f"data={name}", "size=debug", f"cache_dir={tmp_path}", *SMALL[name]]
    found = WorldRate(**ONCE)(compose([*words, f"run_dir={tmp_path / 'run'}"]))
    assert found["frames"] >= found["clips"] > 0
