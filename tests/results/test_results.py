"""Rows and results: round trip, whole files only, no number without sense and no null without reason."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from wm_lightning.results.results import MEASURED, Results, Row, write_whole

WANTED = {"role", "name", "steps", "cached", "cache_commit", "psnr", "ssim", "action_error", "presence"}
WANTED |= {"distance", "distance_floor", "nfe", "fps_b1", "fps_b16"}


def bare(**values) -> Row:
    return Row(role="baseline", name="copy last frame", steps=None, cached=None, cache_commit=None, **values)


def test_round_trip_through_a_file(results: Results, tmp_path: Path):
    full = replace(results, rows=(*results.rows, bare(psnr=float("nan"), reasons={"nfe": "no network runs"})))
    full.to_json(tmp_path / "results.json")
    assert Results.from_json(tmp_path / "results.json") == full


def test_the_file_is_strict_json_with_the_promised_names(results: Results, tmp_path: Path):
    path = tmp_path / "new folder" / "results.json"
    replace(results, rows=(bare(psnr=float("nan"), drift=(1.0, float("inf"))),)).to_json(path)
    values = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert WANTED <= set(values["rows"][0])
    assert {"rows", "data", "config_hash", "revision", "seconds"} <= set(values)
    assert values["rows"][0]["drift"] == [1.0, None]


def test_every_null_has_a_reason_and_no_number_is_undefined():
    entry = bare(psnr=float("nan"), ssim=0.5, extra={"terrain": float("inf")}, reasons={"nfe": "no network runs"})
    assert entry.psnr is None and entry.why("psnr") == "undefined on these clips"
    assert entry.why("nfe") == "no network runs" and entry.why("ssim") is None
    assert entry.why("terrain") == "undefined on these clips"
    assert all(entry.why(name) for name in MEASURED if name != "ssim")
    assert entry.excess is None and entry.why("excess") == entry.why("distance")


def test_excess_is_distance_minus_floor():
    assert bare(distance=0.3, distance_floor=0.1).excess == pytest.approx(0.2)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch):
    path = tmp_path / "results.json"
    write_whole(path, "old")

    def broken(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="no space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_foreign_files_are_refused(results: Results, tmp_path: Path):
    path = tmp_path / "results.json"
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="results.json holds no results"):
        Results.from_json(path)
    results.to_json(path)
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"colour": 1}))
    with pytest.raises(ValueError, match="no field colour"):
        Results.from_json(path)
    del values["world"]
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="world"):
        Results.from_json(path)


def test_unknown_roles_and_kinds_of_data_are_refused(results: Results):
    with pytest.raises(ValueError, match="'hero'.*expected one of teacher, control, student, baseline"):
        replace(results.rows[0], role="hero")
    with pytest.raises(ValueError, match="'invented'.*expected one of simulated, real"):
        replace(results, data="invented")


def test_every_measure_by_frame_survives_the_file_and_is_there_frame_by_frame(results: Results, tmp_path: Path):
    lists = {"psnr": (20.0, 18.0), "mse": (0.1, 0.2), "presence": (float("nan"), 0.5)}
    replace(results, rows=(bare(by_horizon=lists),)).to_json(tmp_path / "results.json")
    stored = json.loads((tmp_path / "results.json").read_text())["rows"][0]["by_horizon"]
    assert stored == {"psnr": [20.0, 18.0], "mse": [0.1, 0.2], "presence": [None, 0.5]}
    (row,) = Results.from_json(tmp_path / "results.json").rows
    assert row == bare(by_horizon=lists) and row.by_horizon["presence"] == (None, 0.5)
    first, second = row.at(0), row.at(1)
    assert (first.psnr, first.presence, first.measured("mse")) == (20.0, None, 0.1)
    assert (second.psnr, second.presence, second.measured("mse"), second.name) == (18.0, 0.5, 0.2, row.name)


def test_results_older_than_measures_by_frame_are_read(results: Results, tmp_path: Path):
    results.to_json(tmp_path / "results.json")
    values = json.loads((tmp_path / "results.json").read_text())
    for row in values["rows"]:
        del row["by_horizon"]
    (tmp_path / "results.json").write_text(json.dumps(values))
    assert Results.from_json(tmp_path / "results.json") == results
