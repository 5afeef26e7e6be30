"""`task=world_rate` counts the frames a world wrote, and keeps nothing."""

from pathlib import Path

import pytest

from wm_lightning.config import compose
from wm_lightning.tasks.world_rate import WorldRate


def test_frames_and_clips_are_counted_and_nothing_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["task=world_rate", "data=worldmap", "size=debug", f"cache_dir={tmp_path}", f"run_dir={tmp_path / 'run'}"]
    config = compose([*words, "data.frames=7"])
    found = WorldRate(repeats=1)(config)
    frames = sum(config.data.world.walks.values()) * config.data.world.length
    assert f"simulated-worldmap: {frames} frames" in capsys.readouterr().out
    assert found["frames"] == pytest.approx(7 * found["clips"]) and found["clips"] > 1
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="names recordings"):
        WorldRate(repeats=1)(compose([*words, "data.root=somewhere"]))
