"""Curves of a run: over the module's own iteration, joined over the starts of a continued run."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from wm_lightning.results.curves import Curve, Level, Panel
from wm_lightning.results.results import Results, Row, Use
from wm_lightning.tasks.curves import GROUPS, UNITS, dashed, draw_run_curves, explained, joined, levels, with_log_axis

FIRST = "epoch,iteration,step,train/critic,val/score\n0,1,0,0.5,\n0,2,1,0.4,\n0,2,1,,1.5\n0,3,2,0.9,\n"
SECOND = "epoch,iteration,step,train/critic,val/score\n0,3,2,0.3,\n0,4,3,0.2,\n0,4,3,,1.0\n"


def write(path: Path, text: str, time: int) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text)
    os.utime(path, (time, time))


def curve(name: str, *points: tuple[float, float]) -> Curve:
    return Curve(name, tuple(float(x) for x, _ in points), tuple(y for _, y in points))


def test_a_later_start_replaces_what_was_lost() -> None:
    first = (curve("loss", (1, 0.5), (2, 0.4), (3, 0.9)), curve("val", (2, 1.5)))
    second = (curve("loss", (3, 0.3), (4, 0.2)), curve("val", (4, 1.0)))
    assert joined([first, second]) == {
        "loss": curve("loss", (1, 0.5), (2, 0.4), (3, 0.3), (4, 0.2)),
        "val": curve("val", (2, 1.5), (4, 1.0)),
    }


def test_draws_all_starts_of_a_run(tmp_path: Path) -> None:
    write(tmp_path / "csv/version_1/metrics.csv", SECOND, 2_000_000_000)
    write(tmp_path / "csv/version_0/metrics.csv", FIRST, 1_900_000_000)
    path = draw_run_curves(tmp_path, "simulated-worldmap, dmd")
    assert path == tmp_path / "curves.png"
    with Image.open(path) as image:
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 10


def test_a_run_that_logged_nothing_has_no_curves(tmp_path: Path) -> None:
    assert draw_run_curves(tmp_path, "x") is None
    write(tmp_path / "csv/metrics.csv", "epoch,step,val/score\n0,5,1.0\n", 2_000_000_000)
    assert draw_run_curves(tmp_path, "x") is None
    assert not (tmp_path / "curves.png").exists()


def test_the_axis_is_logarithmic_only_where_it_can_be_and_helps() -> None:
    for values, expected in (((0.1, 2.0), True), ((0.1, 0.5), False), ((-1.0, 100.0), False), ((0.0, 100.0), False)):
        panel = Panel("x", (curve("x", *enumerate(values)),))
        assert with_log_axis(panel).log is expected


def test_panels_say_their_unit_and_what_controls_reach() -> None:
    row = dict(cached=True, cache_commit="clean", distance=0.5, distance_floor=0.1)
    rows = (
        Row(role="teacher", name="teacher", steps=32, psnr=12.0, **row),
        Row(role="teacher", name="teacher", steps=16, psnr=11.0, **row),
        Row(role="control", name="undistilled, Euler", steps=4, psnr=13.0, **row),
        Row(role="control", name="undistilled, Euler", steps=2, psnr=14.0, **row),
        Row(role="student", name="student", steps=4, psnr=15.0, **row),
    )  # fmt: skip
    results = Results(
        rows=rows, name="x", data="simulated", world="w", config_hash="c", revision="r", seconds=1.0, seed=0, clips=4,
        context=1, horizon=12, chunk=3, drift_of="PSNR", machine="m", deployed=Use("student", 4, "clean"),
    )  # fmt: skip
    panel = explained(Panel("Validation: PSNR (dB)", (curve("val/psnr", (0, 1.0)),)), results)
    assert panel.y_label == "dB"
    assert panel.levels == (Level("undistilled, Euler, 4 steps", 13.0), Level("teacher, 32 steps", 12.0))
    assert explained(panel, None).levels == () and levels("val/object_error", results) == ()
    assert levels("train/critic", results) == levels("val/score", results) == ()
    assert dashed([panel]) == "; dashed: measured on the test clips"
    assert dashed([explained(panel, None)]) == ""
    teacher = replace(results, deployed=Use("teacher", 32, "clean"))
    assert levels("val/psnr", teacher) == (), "a teacher has no control"


def test_every_curve_that_is_drawn_has_a_unit() -> None:
    assert {name for names in GROUPS.values() for name in names} == set(UNITS)
