"""task=rollout protocol=action_control: what it writes, that it says what it measured, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image

from tests.tiny_run import tiny, tiny_teacher
from wm_lightning.config import compose
from wm_lightning.data.formats.video_files import decode
from wm_lightning.modules.action_control import Shown
from wm_lightning.tasks.evaluate import evaluate

SIZES = [
    "protocol.starts=3", "protocol.horizon=5", "protocol.fit_clips=8", "protocol.draws=10", "protocol.batch_size=4",
    "sampler.steps.steps=2", "module.sampler.steps.steps=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    torch.set_num_threads(1)
    tiny_teacher(folder)
    return folder


def asked(trained: Path, run: Path, *words: str, task: str = "rollout") -> DictConfig:
    config = tiny(trained, "experiment=teacher", f"task={task}", "protocol=action_control", *SIZES, *words)
    config.ckpt_path, config.run_dir = str(trained / "run/checkpoints/last.ckpt"), str(run)
    return config


def done(trained: Path, run: Path, *words: str) -> dict[str, Any]:
    config = asked(trained, run, *words)
    measured = instantiate(config.task)(config)
    found = json.loads((run / "action_control_simulated.json").read_text())
    seen = [row for row in found["variants"] if row["seen"]]
    assert measured == {"seen": len(seen), "steer": sum(row["verdict"].startswith("steers") for row in seen)}
    return found


def test_writes_one_video_of_all_variants_and_a_table(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = done(trained, tmp_path, "protocol.look.video_columns=1")
    names = ["left", "right", "up", "down"]
    assert [row["name"] for row in found["variants"]] == names and found["rest"]["name"] == "stay"
    assert found["expected_from"] == "simulator" and found["unit"] == "tiles" and found["starts"] == 3
    assert {row["name"]: [round(value, 6) for value in row["expected"]] for row in found["variants"]}["left"][0] < 0
    for key in ("checkpoint", "revision", "config_hash", "content", "index"):
        assert found[key], key
    assert (
        "simulated data (simulated-worldmap)" in found["departures"]
        and "wm_lightning/tasks/rollout.py" in found["code"]
    )
    said, printed = (tmp_path / "action_control_simulated.md").read_text(), capsys.readouterr().out
    for name in ("stay", *names):
        assert f"| {name} |" in said and name in printed
    assert found["verdict"] in said
    video = decode(tmp_path / "action_control_simulated.mp4", "pyav")
    with Image.open(tmp_path / "action_control_simulated.gif") as gif:
        assert gif.n_frames == len(video) == 6  # type: ignore[attr-defined]
    assert (tmp_path / "action_control_simulated.png").stat().st_size > 0


def test_the_video_and_the_strips_have_all_variants_beside_their_truth(tmp_path: Path) -> None:
    protocol = instantiate(compose(["protocol=action_control"]).protocol, _convert_="all")
    # The model in red, the simulator in green, each variant at a brightness of its own.
    levels = [80 + 10 * place for place in range(9)]
    shown = []
    for level in levels:
        made, truth = torch.zeros(2, 1, 4, 3, 24, 24, dtype=torch.uint8).unbind()
        made[:, :, 0], truth[:, :, 1] = level, level
        shown.append(Shown(f"variant {level}", made, truth))
    protocol.draw(shown, tmp_path / "all.json", "a caption")
    with Image.open(tmp_path / "all.gif") as gif, Image.open(tmp_path / "all.png") as png:
        gif.seek(3)
        for picture in (np.asarray(gif.convert("RGB")), np.asarray(png.convert("RGB"))):
            for level in levels:
                made, truth = (np.argwhere((picture == colour).all(-1)) for colour in ((level, 0, 0), (0, level, 0)))
                assert len(made) == len(truth) >= 96 * 96
        assert decode(tmp_path / "all.mp4", "pyav").shape[0] == gif.n_frames == 4  # type: ignore[attr-defined]


def test_task_evaluate_finds_the_same(trained: Path, tmp_path: Path) -> None:
    found = done(trained, tmp_path / "rollout")
    evaluate(asked(trained, tmp_path / "evaluate", task="evaluate"))
    other = json.loads((tmp_path / "evaluate/action_control_simulated.json").read_text())
    assert other["variants"] == found["variants"] and other["index"] == found["index"]


def test_a_committed_list_of_starts_is_used(trained: Path, tmp_path: Path) -> None:
    found = done(trained, tmp_path / "one")
    (tmp_path / "list.json").write_text(json.dumps(found["entries"][1:]))
    other = done(trained, tmp_path / "two", f"protocol.index={tmp_path / 'list.json'}")
    assert other["entries"] == found["entries"][1:] and "2 starts, not 3" in other["departures"]


def test_an_unknown_column_is_refused_before_a_checkpoint_is_read(trained: Path, tmp_path: Path) -> None:
    config = asked(trained, tmp_path, "+protocol.variants.usual.moves.x={nowhere: 1.0}")
    config.ckpt_path = None
    with pytest.raises(ValueError, match="names the column nowhere; the data have stay, left"):
        instantiate(config.task)(config)
    assert not list(tmp_path.glob("action_control*"))


def test_data_of_ones_own_need_variants_and_short_episodes_are_told(trained: Path, tmp_path: Path) -> None:
    config = asked(trained, tmp_path)
    config.protocol.variants.usual.moves = {}
    with pytest.raises(ValueError, match=r"add some to protocol\.variants\.usual\.moves"):
        instantiate(config.task)(config)
    found = done(trained, tmp_path, "protocol.horizon=50")
    assert "clips have 20 frames, not 51" in found["departures"] and found["frames"] == 20
