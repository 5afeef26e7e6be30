"""report.html: one file with tables, plots over what runs differ in, rollouts of bounded size, and the differences."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from wm_lightning.results.configs import Axis, axis_of, differences
from wm_lightning.results.page import PageSettings, page
from wm_lightning.results.plots import drawn, over_axis, over_horizon, over_steps
from wm_lightning.results.report import Recipe, chosen_columns
from wm_lightning.results.results import Results, Use
from wm_lightning.results.seeds import Group, groups, read_runs
from wm_lightning.results.targets import Targets

COLUMNS = ["psnr", "excess", "fps_b1"]
GIF = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00"
)
GIF += b"\x01\x00\x00\x02\x02D\x01\x00;"
NO_GIF = PageSettings(axis=None, gif_mib=0.0)
Write = Callable[..., list[Group]]


@pytest.fixture
def write(tmp_path: Path, results: Results) -> Write:
    """Writes the results of several points (name -> changes of config and results) and seeds, and groups them."""

    def written(points: dict[str, dict[str, Any]], seeds: int = 2, configs: bool = True) -> list[Group]:
        for name, changes in points.items():
            for seed in range(seeds):
                folder = tmp_path / name / str(seed)
                values = {"extra": {"family": name}, "deployed": Use("student", 4, "clean")}
                known = changes.get("results", {})
                made = replace(results, name=name, seed=seed, config_hash=f"{name}{seed}", **values | known)
                shift = [replace(row, psnr=row.psnr and row.psnr + seed) for row in made.rows]
                replace(made, rows=tuple(shift)).to_json(folder / "results.json")
                if configs:
                    config = {"name": name, "seed": seed, "lr": 0.1, "run_dir": str(folder)}
                    (folder / "config.yaml").write_text(yaml.safe_dump(config | changes.get("config", {})))
            (tmp_path / name / "sweep.json").write_text("{}")  # a grid's own, which is no result
        return list(groups(read_runs([f"{name}/*" for name in points], root=tmp_path)))

    return written


def steps(value: int) -> dict[str, Any]:
    return {"config": {"sampler": {"steps": value}, "module": {"sampler": {"steps": value}}}}


def compared(runs: int = 2) -> Recipe:
    return Recipe(["x"] * runs, COLUMNS, None, compare=True)


def test_the_axis_is_the_one_number_in_which_configs_differ(write: Write) -> None:
    found = write({"one": steps(1), "four": steps(4)})
    assert axis_of(found, None) == Axis("sampler.steps", (1.0, 4.0))
    (entry,) = differences(found)
    assert (entry.key, entry.values, entry.others) == ("sampler.steps", (1, 4), 1)
    assert axis_of(found, "sampler.steps") == Axis("sampler.steps", (1.0, 4.0))
    with pytest.raises(ValueError, match=r"task\.axis=lr has values that several groups share"):
        axis_of(found, "lr")
    with pytest.raises(ValueError, match=r"task\.axis=steps is not in .*one/0/config\.yaml"):
        axis_of(found, "steps")


def test_two_numbers_or_a_word_that_differ_give_names(write: Write) -> None:
    found = write({"a": {"config": {"lr": 0.2, "wd": 1}}, "b": {"config": {"lr": 0.3, "wd": 2}}})
    assert axis_of(found, None) == Axis("", ("a", "b")) and not axis_of(found, None).numeric
    found = write({"a": {"config": {"variant": "dmd"}}, "b": {"config": {"variant": "sid"}}})
    assert axis_of(found, None).values == ("a", "b")
    assert axis_of(found, "variant") == Axis("variant", ("dmd", "sid"))


def test_without_configs_the_results_own_counts_serve(write: Write) -> None:
    found = write({"a": {"results": {"chunk": 1}}, "b": {"results": {"chunk": 3}}}, configs=False)
    assert axis_of(found, None) == Axis("chunk", (1.0, 3.0)) and differences(found) == ()


def test_a_plot_has_a_panel_per_column_and_says_what_it_is_over(write: Write) -> None:
    found = write({"one": steps(1), "four": steps(4)})
    columns = chosen_columns(found[0], COLUMNS)
    svg = over_axis(found, columns, axis_of(found, None))
    texts = re.findall(r">([^<>]+)</text>", svg)
    assert svg.startswith("<svg") and {"PSNR dB", "excess", "frames/s batch 1"} <= set(texts)
    assert texts.count("sampler.steps") == 3 and {"1", "4"} <= set(texts)
    assert svg == over_axis(found, columns, axis_of(found, None)), "the same numbers give the same file"
    named = over_axis(found, columns, Axis("", ("one", "four")))
    assert {"one", "four"} <= set(re.findall(r">([^<>]+)</text>", named))
    rows = over_steps(found[0], columns)
    assert rows is not None and {"denoising steps", "8", "16", "32"} <= set(re.findall(r">([^<>]+)</text>", rows))
    assert "student: DMD, cache last" in rows and "control: re-noising, cache clean" in rows


def test_every_measure_that_results_have_by_frame_has_a_panel(write: Write, results: Results) -> None:
    old = write({"old": {}}, seeds=1)[0]
    assert over_horizon(old) is None, "results that do not say are drawn as before"
    assert "by generated frame" not in page([old], [], Recipe(["x"], COLUMNS, None), NO_GIF, "Old")
    lists = {"psnr": tuple(20.0 - place for place in range(30)), "mse": (0.1,) * 30, "presence": (None,) * 30}
    rows = tuple(replace(row, by_horizon=lists) for row in results.rows)
    found = write({"new": {"results": {"rows": rows}}})[0]
    svg = over_horizon(found)
    assert svg is not None
    texts = re.findall(r">([^<>]+)</text>", svg)
    assert {"PSNR dB", "MSE"} <= set(texts) and not {"presence", "SSIM"} & set(texts), "a panel per measure, none empty"
    assert {"student: DMD, 4 steps", "teacher: Euler, 32 steps"} <= set(texts)
    assert "teacher: Euler, 16 steps" not in texts and "control: own sampler, 4 steps" not in texts
    assert texts.count("generated frame") == 2 and texts.count("27") == 2 and "28" not in texts, "thirty ticks crowd"
    assert svg in page([found], [], Recipe(["x"], COLUMNS, None), NO_GIF, "New")


def test_a_column_of_zeros_is_drawn(write: Write, results: Results) -> None:
    rows = tuple(replace(row, presence=0.0) for row in results.rows)
    found = write({name: steps(n) | {"results": {"rows": rows}} for name, n in (("one", 1), ("four", 4))}, seeds=1)
    svg = over_axis(found, chosen_columns(found[0], ["presence"]), axis_of(found, None))
    assert "presence" in re.findall(r">([^<>]+)</text>", svg)


def test_every_seed_is_a_dot_and_one_seed_has_the_excess_interval(write: Write) -> None:
    made: dict[tuple[int, str], str] = {}
    for seeds in (1, 3):
        found = write({f"of{seeds}": steps(1), f"and{seeds}": steps(4)}, seeds=seeds)
        for name in ("psnr", "excess"):
            made[seeds, name] = over_axis(found, chosen_columns(found[0], [name]), axis_of(found, None))
    one, three = (text.count("<use ") for text in (made[1, "psnr"], made[3, "psnr"]))
    assert three >= one + 6, "three dots at each of two places"
    bars = re.findall(r'id="LineCollection_1">\s*<path d="([^"]+)"', made[1, "excess"])
    ends = [float(value) for value in re.findall(r"[ML] [\d.]+ ([\d.]+)", bars[0])]
    assert len(ends) == 2 and abs(ends[0] - ends[1]) > 5, "the bootstrapped interval of the only seed"


def test_other_feature_extractors_are_never_joined(write: Write) -> None:
    other = steps(4) | {"results": {"extractor_hash": "f" * 64}}
    found = write({"one": steps(1), "four": other})
    columns = chosen_columns(found[0], COLUMNS)
    for make in (
        lambda: over_axis(found, columns, axis_of(found, None)),
        lambda: page(found, [], compared(), NO_GIF, "x"),
    ):
        with pytest.raises(ValueError, match="cannot stand in one table, their feature extractor differ: .*four"):
            make()
    apart = page(found, [], replace(compared(), compare=False), NO_GIF, "x")
    assert apart.count("<svg") == 2 and apart.count("features <code>") == 2, "each in a table and a plot of its own"


def test_a_page_needs_no_other_file_and_bounds_its_films(write: Write, tmp_path: Path) -> None:
    found = write({"one": steps(1), "four": steps(4)})
    (tmp_path / "four/1/rollouts.gif").write_bytes(GIF)
    text = page(found, [], compared(), PageSettings(None, 1.0), "Steps")
    assert (
        text.startswith("<!doctype html>") and ">one</td>" in text and "<code>sampler.steps</code> and 1 more" in text
    )
    assert text.count("data:image/gif;base64,R0lGODlh") == 1 and "four, simulated data (world map), seed 1" in text
    assert not re.search(r'(?:src|href)="(?!data:|#)', text), "nothing is loaded from elsewhere"
    small = page(found, [], compared(), PageSettings(None, 1e-6), "Steps")
    assert "base64" not in small and "more than task.gif_mib=1e-06" in small


def test_names_in_results_bring_no_markup(write: Write) -> None:
    found = write({"a": steps(1), "b": steps(2)})
    evil = "<script>alert(1)</script>"
    named = [Group(tuple(replace(run, results=replace(run.results, name=evil)) for run in g.runs)) for g in found]
    assert "<script" not in page(named, [], compared(), NO_GIF, evil)


def test_nothing_measured_gives_an_empty_plot_and_no_fault() -> None:
    assert drawn([], [], Axis("", ())).startswith("<svg")


# -- The line that says what a block was made from ---------------------------------------------------------------------


USUAL = Targets(
    teacher_steps=32, speed_cached={4: 6.5, 2: 10.0}, speed_uncached={4: 18.0, 2: 28.0}, speed_last={4: 7.5, 2: 14.0},
    action_ratio=1.1, action_slack=0.01, excess_control=0.7, excess_teacher=2.5, presence_gap=None,
    presence_least=0.95, extra_slack={"terrain_distance": 0.12},
)  # fmt: skip
ALL = ["psnr", "action_error", "presence", "distance", "excess", "nfe", "fps_b1", "fps_b16"]


def test_the_comment_says_only_what_is_unusual() -> None:
    said = {
        Recipe(["a"], ALL, USUAL).to_comment(): {"runs": ["a"]},
        Recipe(["a"], ["psnr"], None, True).to_comment(): {
            "runs": ["a"], "columns": ["psnr"], "targets": None, "compare": True,
        },
        Recipe(["a"], ALL, replace(USUAL, presence_gap=0.1, presence_least=None)).to_comment(): {
            "runs": ["a"], "targets": {"presence_gap": 0.1, "presence_least": None},
        },
    }  # fmt: skip
    for comment, expected in said.items():
        assert json.loads(comment.removeprefix("<!-- made from ").removesuffix(" -->")) == expected


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(["a"], ALL, USUAL),
        Recipe(["a"], ["psnr"], None, True),
        Recipe(["a"], ALL, replace(USUAL, speed_last={2: 3.0})),
    ],
)
def test_a_comment_leads_back_to_its_recipe_short_or_long(recipe: Recipe) -> None:
    assert Recipe.from_comment(recipe.to_comment()) == recipe
    targets = None if recipe.targets is None else recipe.targets.__dict__
    long = {"runs": recipe.runs, "columns": recipe.columns, "targets": targets, "compare": recipe.compare}
    assert Recipe.from_comment(f"<!-- made from {json.dumps(long)} -->") == recipe


def test_a_report_imports_no_torch() -> None:
    code = (
        "import sys, wm_lightning.tasks.start, wm_lightning.tasks.report\n"
        "heavy = {'torch', 'lightning', 'pyarrow'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
