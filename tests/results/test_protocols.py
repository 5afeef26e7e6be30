"""Protocols side by side: equal clips share a table, other features a column of their own, old code is marked."""

import json
from pathlib import Path
from typing import Any

import pytest

from wm_lightning.results.freshness import Freshness
from wm_lightning.results.protocols import Scored, protocol_groups, protocol_plot, protocol_table, read_protocols
from wm_lightning.tasks.report import kept_protocols

FRESH = Freshness(False, "")


def written(folder: Path, name: str, **changes: Any) -> Path:
    """A protocol's JSON as task=evaluate writes it, in the folder of its run."""
    frames = {"psnr": {"frames": [20.0, 22.0], "mean": 21.0, "extractor": None, "low": 20.5, "high": 21.5}}
    distance = {"name": "fid", "value": 3.0, "low": 2.5, "high": 3.5, "floor": 1.0, "extractor": "a" * 64, "n": 8}
    kernel = {
        "name": "kd_rand",
        "value": 5.0,
        "low": 3.0,
        "high": 4.5,
        "floor": 0.5,
        "excess": 4.5,
        "extractor": "b" * 64,
    }
    scored = {"frames": frames, "distances": [distance, kernel]}
    copied = {"frames": {"psnr": {"frames": [9.0, 9.0], "mean": 9.0, "extractor": None}}, "distances": []}
    result = {
        "protocol": "csgo", "name": name, "kind": "teacher", "checkpoint": name * 8, "revision": "unknown",
        "data": "real-csgo", "simulated": False, "content": "c", "clips": 8, "clips_asked": 500, "index": "i" * 64,
        "context": 4, "frames": 16, "resized": {"scored": [150, 280]}, "frames_scored": [4, 5], "video_frames": [4, 16],
        "departures": ["8 clips, not 500"], "model": scored, "copy_last_frame": copied,
        "actions": {"ignored": False, "means": {"action_gap": 0.5, "action_gap_error": 0.1, "sweep_gain": None}},
    } | changes  # fmt: skip
    path = folder / name / "protocol_csgo.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(result))
    return path


def read(folder: Path, stale: bool = False) -> tuple[Scored, ...]:
    return read_protocols(["*"], root=folder, age=lambda *_: Freshness(stale, "3 commits" if stale else ""))


def test_runs_of_equal_clips_share_a_table_with_baseline_and_floor(tmp_path: Path) -> None:
    for name in ("one", "two"):
        written(tmp_path, name)
    [group] = protocol_groups(read(tmp_path))
    lines = protocol_table(group).splitlines()
    assert "real data (real-csgo) · 8 of 500 clips" in lines[0] and "- 8 clips, not 500" in lines
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines if "|" in line
    }
    assert rows[""] == ["psnr", "fid", "kd rand", "action gap"]
    # The bounds of a kernel distance are those of its excess; what stands here is the distance.
    numbers = ["21 (20.5 to 21.5)", "3 (2.5 to 3.5)", "5 (3.5 to 5)", "0.5 (0.304 to 0.696)"]
    assert rows["one oneoneon"] == rows["two twotwotw"] == numbers
    assert rows["copy last frame"] == ["9", "–", "–", "–"] and rows["real clips (floor)"] == ["–", "1", "0.5", "–"]


@pytest.mark.parametrize(
    "changes",
    [{"index": "j" * 64}, {"data": "simulated-maze", "simulated": True}, {"resized": {"scored": None}}],
    ids=str,
)
def test_other_clips_stand_apart(tmp_path: Path, changes: dict[str, Any]) -> None:
    written(tmp_path, "one")
    written(tmp_path, "two", **changes)
    assert [len(group) for group in protocol_groups(read(tmp_path))] == [1, 1]


def test_numbers_of_other_features_share_no_column(tmp_path: Path) -> None:
    path = written(tmp_path, "one")
    other = json.loads(path.read_text())
    other["model"]["distances"][0] |= {"extractor": "f" * 64, "value": 7.0}
    written(tmp_path, "two", model=other["model"])
    [group] = protocol_groups(read(tmp_path))
    head, _, one, two, *_ = [line for line in protocol_table(group).splitlines() if line.startswith("|")]
    assert "fid [aaaaaa]" in head and "fid [ffffff]" in head and "kd rand" in head and "kd rand [" not in head
    cells = [line.split("|")[2:-1] for line in (head, one, two)]
    columns = {heading.strip(): (a.strip(), b.strip()) for heading, a, b in zip(*cells, strict=True)}
    assert columns["fid [aaaaaa]"] == ("3 (2.5 to 3.5)", "–") and columns["fid [ffffff]"] == ("–", "7 (2.5 to 3.5)")
    plot = protocol_plot(group)
    assert plot.startswith("<svg") and "<script" not in plot


def test_old_code_is_marked_and_other_files_are_named(tmp_path: Path) -> None:
    written(tmp_path, "one")
    [group] = protocol_groups(read(tmp_path, stale=True))
    assert "one oneoneon *(stale)*" in protocol_table(
        group
    ) and "**Stale** (one oneoneon): 3 commits." in protocol_table(group)
    (tmp_path / "one/protocol_csgo.json").write_text("{}")
    with pytest.raises(ValueError, match=r"protocol_csgo.json is no result of a protocol"):
        read(tmp_path)


def test_copies_make_the_same_table_again(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in ("one", "two"):
        written(runs, name)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/protocol_pages_7.json").write_text("of an earlier report")
    paths = kept_protocols(read(runs), tmp_path / "kept", "pages")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [
        "protocol_pages_0.json",
        "protocol_pages_1.json",
    ]
    again = read_protocols(paths, root=tmp_path, age=lambda *_: FRESH)
    assert protocol_table(again) == protocol_table(read(runs))
