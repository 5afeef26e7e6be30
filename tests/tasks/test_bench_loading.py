"""The loader and the reader by hand give the same frames, so their times are times of the same work."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from tests.data import fault_sets
from tests.tiny_run import NETWORK, QUIET, TRAINING
from wm_lightning.config import compose
from wm_lightning.data.source_datamodule import SourceDataModule
from wm_lightning.results.benches import bench_table, read_benches
from wm_lightning.results.freshness import Freshness
from wm_lightning.results.report import faults
from wm_lightning.tasks import bench_loading
from wm_lightning.tasks.bench_entries import Comparison, Waiting, page

SETS = {
    "rt1": ["data.world.pixels=64", "data.world.length=12", "data.world.episodes={train: 6, val: 2, test: 2}"],
    "csgo": ["data.world.length=12", "data.world.episodes={train: 6, test: 4}"],
    "recon": ["data.world.length=12", "data.world.episodes={train: 6, val: 2, test: 2}"],
}  # fmt: skip
SHORT = ["data.frames=7", "data.val_frames=7", "data.val_clips=2", "rollout.window=7"]


def words(name: str, folder: Path) -> list[str]:
    places = [f"cache_dir={folder / 'cache'}", f"run_dir={folder / 'run'}"]
    return ["experiment=teacher", f"data={name}", *NETWORK, *TRAINING, *QUIET, *SHORT, *SETS[name], *places]


@pytest.mark.parametrize("name", ["rt1", *(pytest.param(name, marks=pytest.mark.slow) for name in ("csgo", "recon"))])
def test_all_ways_load_the_same_frames(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data: SourceDataModule = instantiate(compose(words(name, tmp_path)).data, _convert_="all")
    data.prepare_data()
    data.setup("fit")
    kept, direct = bench_loading.loading(data, batches=2, repeats=1, least=3.0, least_direct=1.0)
    assert (kept.name, kept.same, kept.least) == ("loading, kept", True, 3.0)
    assert (direct.name, direct.same, direct.least) == ("loading, direct", True, 1.0)
    assert kept.other_value == direct.other_value, "both stand against the same times of the reader by hand"
    # A reader by hand that is off by a frame would be told from one that does the same.
    right = bench_loading.plain_reading(data.open_source("train"))
    assert right is not None
    late = lambda episode, start, stop: right(episode, max(0, start - 1), max(0, start - 1) + stop - start)  # noqa: E731
    monkeypatch.setattr(bench_loading, "plain_reading", lambda source: late)
    wrong = bench_loading.loading(data, batches=1, repeats=1, least=3.0, least_direct=1.0)
    assert [entry.same for entry in wrong] == [False, False]


def test_every_second_frame_is_loaded_and_not_read_by_hand(tmp_path: Path) -> None:
    short = ["data.stride=2", "data.frames=4", "data.val_frames=4"]
    data: SourceDataModule = instantiate(compose([*words("recon", tmp_path), *short]).data, _convert_="all")
    data.prepare_data()
    (found,) = bench_loading.loading(data, batches=2, repeats=1, least=3.0, least_direct=1.0)
    assert found.name == "loading" and found.ours_value > 0 and found.least is None


@pytest.mark.parametrize("form", ["mp4", "rlds", "lerobot2", "lerobot3", "csgo", "recon", "folders"])
def test_frames_and_actions_by_hand_are_those_of_every_form(form: str, tmp_path: Path) -> None:
    fault_sets.SETS[form].make(tmp_path / "set")  # type: ignore[operator]
    data = fault_sets.opened(tmp_path / "set", form, tmp_path, "data.store=direct", "data.batch_size=2")
    assert isinstance(data, SourceDataModule)
    source = data.open_source("train")
    by_hand = bench_loading.plain_reading(source)
    assert by_hand is not None
    for episode in range(2):
        video, actions = by_hand(episode, 2, 6)
        assert np.array_equal(video, source.frames(episode, 2, 6))
        assert np.allclose(actions[:-1], source.actions(episode)[2:5])
    data.train_batches = 2
    [direct] = bench_loading.loading(data, batches=2, repeats=1, least=3.0, least_direct=1.0)
    assert (direct.name, direct.same) == ("loading, direct", True) and bench_loading.cache_of(data) is None


def test_a_bench_is_kept_and_makes_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ["task=bench", "task.parts=[loading]", "task.repeats=1", "task.batches=1", f"task.save_dir={tmp_path}/kept"]
    config = compose([*words("rt1", tmp_path), *few])
    instantiate(config.task)(config)
    page = tmp_path / "PAGE.md"
    page.write_text("<!-- results:loading -->\n<!-- /results:loading -->\n")
    monkeypatch.chdir(tmp_path)
    asked = ["task=report", "task.runs=[kept/bench-*.json]", "task.into=PAGE.md", "task.block=loading"]
    config = compose([*asked, f"run_dir={tmp_path}/report"])
    assert instantiate(config.task)(config) == {"runs": 1.0, "tables": 1.0}
    [kept] = (tmp_path / "kept").glob("bench-*.json")
    report = json.loads(kept.read_text())
    ratios = [f"{entry['ratio']:.2f}×" for entry in report["comparisons"]]
    text = page.read_text()
    assert len(ratios) == 2 and all(f"| {ratio} | yes |" in text for ratio in ratios) and report["device"] in text
    assert "loading, kept" in text and "loading, direct" in text and "medians of 1 rounds" in text
    assert "simulated-pusher" in (tmp_path / "report/report.html").read_text()
    assert faults(page, tmp_path) == ()
    stale = read_benches(["kept"], root=tmp_path, age=lambda revision, code: Freshness(True, f"{code}"))
    assert "simulated-pusher *(stale)* |" in bench_table(stale) and "wm_lightning/data" in bench_table(stale)
    kept.write_text(kept.read_text().replace(f"{report['comparisons'][0]['ratio']!r}", "77.0"))
    assert "says something else" in faults(page, tmp_path)[0]
    kept.write_text("{}")
    with pytest.raises(ValueError, match="is no result of task=bench"):
        read_benches(["kept"], root=tmp_path)


def test_the_first_round_is_not_timed_and_every_stream_gives_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(bench_loading.time, "perf_counter", lambda: float(next(ticks)))
    given: list[str] = []

    def stream(name: str) -> object:
        return (given.append(name) for _ in itertools.count())

    streams = {name: lambda name=name: stream(name) for name in "ab"}
    speed = bench_loading.clips_per_second(streams, 3, 4, repeats=2)  # type: ignore[arg-type]
    assert speed == {"a": 12.0, "b": 12.0}, "every timing lasts one tick"
    assert "".join(given) == "aaabbb" * 3


def test_a_training_waits_for_a_slow_loader_and_hardly_for_a_quick_one(tmp_path: Path) -> None:
    few = ["task=bench", "task.parts=[waiting]", "task.warmup=1", "task.waiting_steps=4", "task.batches=1"]
    config = compose([*words("rt1", tmp_path), *few])
    found = instantiate(config.task)(config)
    assert list(found) == ["teacher, waiting"] and 0 < found["teacher, waiting"] < 1
    report = json.loads((tmp_path / "run/bench.json").read_text())
    [entry] = report["waiting"]
    assert entry["share"] == pytest.approx(entry["waited"] / entry["seconds"]) and entry["steps"] == 4
    assert report["cache"]["mib"] > 12 * 6 * 3 * 32 * 32 / 2**20 and "frames-simulated-pusher" in report["cache"]["key"]
    text = (tmp_path / "run/bench.md").read_text()
    assert "teacher, waiting" in text and "under 5 %" in text and "simulated data" in text


@pytest.mark.nightly
def test_waiting_is_told_from_working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ["task=bench", "task.parts=[waiting]", "task.warmup=1", "task.waiting_steps=3", "task.batches=1"]
    config = compose([*words("rt1", tmp_path), *few])
    read, pause = torch.utils.data.DataLoader.__iter__, 0.3

    def slow(self: object) -> object:
        import time  # noqa: PLC0415  beside the module whose clock another test replaces

        for clip in read(self):  # type: ignore[arg-type]
            time.sleep(pause)
            yield clip

    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", slow)
    instantiate(config.task)(config)
    [entry] = json.loads((tmp_path / "run/bench.json").read_text())["waiting"]
    assert entry["waited"] == pytest.approx(3 * pause, rel=0.3) and entry["met"] is False


def test_a_target_is_judged_and_shown() -> None:
    slow, quick = (Comparison("x", "clips/s", "a", "b", ours, 2.0, least=3.0) for ours in (5.9, 6.1))
    assert (slow.met, quick.met, Comparison("x", "u", "a", "b", 1.0, 1.0).met) == (False, True, None)
    assert Waiting("x", 10, 2.0, 0.09, 0.05).met and not Waiting("x", 10, 2.0, 0.11, 0.05).met
    described = dict.fromkeys(("name", "data", "world", "device", "threads", "precision", "torch"), "?")
    report = {**described, "revision": "r", "config_hash": "c", "settings": {"repeats": 3}, "cache": None}
    lines = page([slow, quick], report).splitlines()
    assert lines[4].endswith("| 2.95× | at least 3× | no |") and lines[5].endswith("| 3.05× | at least 3× | yes |")
