"""Curves: read what Lightning writes, draw a picture, leave matplotlib as it was."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from wm_lightning.results.curves import Curve, Level, Panel, draw_curves, panels, read_curves

CSV = """critic/loss,epoch,iteration,step,student/loss,val/distance
0.5,0,0,0,,
,0,0,0,1.5,
0.25,0,10,20,,
,0,10,20,,0.3
nan,0,20,40,1.0,
"""


def test_reads_each_quantity_where_it_was_logged(tmp_path):
    (tmp_path / "metrics.csv").write_text(CSV)
    found = {curve.name: curve for curve in read_curves(tmp_path / "metrics.csv", "iteration")}
    assert found == {
        "critic/loss": Curve("critic/loss", (0.0, 10.0), (0.5, 0.25)),
        "student/loss": Curve("student/loss", (0.0, 20.0), (1.5, 1.0)),
        "val/distance": Curve("val/distance", (10.0,), (0.3,)),
    }


def test_missing_file_and_column_are_named(tmp_path):
    with pytest.raises(ValueError, match="metrics.csv is missing"):
        read_curves(tmp_path / "metrics.csv", "iteration")
    (tmp_path / "metrics.csv").write_text(CSV)
    with pytest.raises(ValueError, match="no column 'update'.*iteration"):
        read_curves(tmp_path / "metrics.csv", "update")


def test_panels_keep_the_order_asked_for_and_leave_out_what_is_absent():
    curves = [Curve("b", (0.0,), (1.0,)), Curve("a", (0.0,), (1.0,))]
    found = panels(curves, {"loss": ["a", "b", "c"], "other": ["d"]}, "iteration")
    assert [(panel.title, [curve.name for curve in panel.curves]) for panel in found] == [("loss", ["a", "b"])]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_draws_every_panel(count: int, tmp_path):
    shown = [
        Panel(str(n), (Curve("a", (0.0, 1.0), (1.0, 2.0)), Curve("b", (0.0, 1.0), (2.0, 1.0)))) for n in range(count)
    ]
    draw_curves(tmp_path / "curves.png", shown, "simulated")
    with Image.open(tmp_path / "curves.png") as image:
        blue = (np.abs(np.asarray(image.convert("RGB")).astype(int) - (0x33, 0x66, 0xAA)) < 30).all(axis=-1)
    assert blue.sum() > 100 * count


def test_nothing_to_draw_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="nothing was logged"):
        draw_curves(tmp_path / "curves.png", [], "simulated")


def test_leaves_matplotlib_alone(tmp_path):
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy()\n"
        "from wm_lightning.results.curves import *\n"
        "shown = [Panel('x', (Curve('a', (0., 1.), (1., 2.)),))]\n"
        f"draw_curves(Path({str(tmp_path / 'curves.png')!r}), shown, 'real')\n"
        "assert 'matplotlib.pyplot' not in sys.modules and matplotlib.rcParams.copy() == before"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_axes_have_units_plain_numbers_and_the_levels(tmp_path, monkeypatch):
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, format: (drawn.append(self), self.canvas.draw()))
    curve = Curve("val/excess", (0.0, 40.0, 80.0), (3.0, 0.7, 0.06))
    panel = Panel("Excess", (curve,), "iteration", log=True, y_label="kernel distance", levels=(Level("control", 0.4),))
    draw_curves(tmp_path / "curves.png", [panel], "simulated")
    [axes] = drawn[0].axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("iteration", "kernel distance")
    shown = [text.get_text() for text in axes.get_yticklabels()]
    assert {"0.1", "0.2", "0.5", "1", "2"} <= set(shown) and not any("10^" in text for text in shown)
    assert all(float(text.get_text().replace("−", "-")) % 1 == 0 for text in axes.get_xticklabels())
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["val/excess", "control"]
    level = next(line for line in axes.lines if line.get_label() == "control")
    assert list(level.get_ydata()) == [0.4, 0.4]
