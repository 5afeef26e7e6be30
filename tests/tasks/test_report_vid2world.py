"""task=report_vid2world over invented results of its whole grid: every point a line, the published ones of their own
names, and what actions are worth."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate

from wm_lightning.config import compose, grid_points
from wm_lightning.config_check import check
from wm_lightning.results.report import faults
from wm_lightning.results.results import Results, Row, Use

SCRATCH = ["experiment=vid2world_scratch"]
# As the grid's own words say them; the start of a run leaves its folder and what it logs to beside them.
POINTS = [[word for word in point if not word.startswith("seed=")] for point in grid_points("vid2world_transfer")]
CELLS = [list(words) for words in dict.fromkeys(map(tuple, [*POINTS, SCRATCH]))]
PAGE = "<!-- results:transfer -->\n<!-- /results:transfer -->\n"


def label(words: list[str]) -> str:
    said = dict(word.split("=", 1) for word in words)
    mode = said.get("module.transfer.mode")
    return said["experiment"] + (f" ({mode=!s})" if mode else "")


def results(number: int, words: list[str], seed: int) -> Results:
    """With its own actions the distance is a fifth less than with those of others."""
    own = 0.5 + 0.1 * number + 0.01 * seed
    numbers: dict[str, Any] = {
        "frames_distance": 2 * own, "ssim": 0.8, "perceptual": own / 10, "psnr": 20.0, "presence": 0.9,
        "distance_floor": 0.0, "action_error": 0.1,
    }  # fmt: skip
    others: dict[str, Any] = numbers | {"action_error": 0.2}
    rows = (
        Row(role="teacher", name="teacher", steps=16, cached=True, cache_commit="noised", distance=own, **numbers),
        Row(role="baseline", name="copy last frame", steps=None, cached=None, cache_commit=None, distance=9, **numbers),
        Row(
            role="baseline", name="shuffled actions (teacher, 16)", steps=None, cached=None, cache_commit=None,
            distance=own / 0.8, **others,
        ),
    )  # fmt: skip
    return Results(
        rows=rows, name=words[0].split("=")[1], data="simulated", world="simulated-rt1", config_hash=f"{number}{seed}",
        revision="unknown", seconds=60.0, seed=seed, clips=64, context=1, horizon=12, chunk=1, drift_of="PSNR",
        machine="1 thread", extractor_hash="e" * 64, deployed=Use("teacher", 16, "noised"),
        extra={
            "family": str(number), "losses": {"train": 0.2, "val": 0.3},
            "overrides": ["data=rt1", *words, f"seed={seed}", f"run_dir=logs/{number}_{seed}", "estimate.say=false"],
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, float]]]:
    """A folder with two seeds of every cell and their report, in the run folder and in a page; what the task gave."""
    folder = tmp_path_factory.mktemp("reported")
    for number, words in enumerate(CELLS):
        for seed in range(2):
            results(number, words, seed).to_json(folder / f"logs/{number}_{seed}/results.json")
    (folder / "PAGE.md").write_text(PAGE)
    asked = ["task=report_vid2world", "task.runs=[logs/*]", "task.into=PAGE.md", "task.block=transfer"]
    config = compose([*asked, f"run_dir={folder}/run", f"cache_dir={folder}/cache"])
    with contextlib.chdir(folder):
        yield folder, instantiate(config.task)(config)


def test_its_config_has_no_key_that_nothing_reads() -> None:
    check(compose(["task=report_vid2world"]))


def tables(text: str) -> dict[str, list[str]]:
    """First cells of every table's lines, by the first cell and the last of its heading."""
    found: dict[str, list[str]] = {}
    for block in text.split("\n\n"):
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if "|" in line]
        if len(lines) > 2:
            found[f"{lines[0][0]}/{lines[0][-1]}"] = [line[0] for line in lines[2:]]
    return found


def test_every_point_of_the_grid_is_a_line_and_the_published_ones_have_their_names(
    reported: tuple[Path, dict[str, float]],
) -> None:
    folder, counts = reported
    assert counts == {"runs": 2.0 * len(CELLS), "tables": float(len(CELLS))}
    text = (folder / "run/report.md").read_text()
    cells = [label(words) for words in CELLS]
    assert len(cells) == 7 and len(set(cells)) == 7
    own, losses, _, gains, published = tables(text).values()
    assert sorted(own) == sorted([*cells, "baseline: copy last frame"])
    assert sorted(losses) == sorted(gains) == sorted(cells)
    assert set(published) < set(cells), "what is published stands under other names than what was measured"
    assert "and not comparable with the above (table 5 of 2505.14357" in text


def test_every_claim_is_about_points_of_the_grid_and_is_judged(reported: tuple[Path, dict[str, float]]) -> None:
    text = (reported[0] / "run/report.md").read_text()
    claims = [line for line in text.splitlines() if line.startswith("| ") and " − " in line and " seeds) | " in line]
    asked = compose(["task=report_vid2world"]).task.ladder.claims
    assert len(claims) == len(asked) > 0 and "not measured" not in text
    assert {claim[end] for claim in asked for end in ("better", "than")} <= {label(words) for words in CELLS}


def test_numbers_are_those_of_the_runs_and_gains_those_of_their_actions(
    reported: tuple[Path, dict[str, float]],
) -> None:
    lines = (reported[0] / "run/report.md").read_text().splitlines()
    first = label(CELLS[0])
    [measured] = [line for line in lines if line.startswith(f"| {first} | 1 | 16 | noised | 2 |")]
    assert "| 0.5050 ± 0.0071 |" in measured, "its excess over two seeds"
    # distance, frames_distance, ssim, perceptual, psnr, action_error
    gain = "| -20.0 ± +0.0 | +0.0 ± +0.0 | +0.0 ± +0.0 | +0.0 ± +0.0 | +0.0 ± +0.0 | -50.0 ± +0.0 |"
    assert f"| {first} {gain}" in lines


def test_the_block_in_a_page_can_be_checked(reported: tuple[Path, dict[str, float]]) -> None:
    folder, _ = reported
    assert faults(folder / "PAGE.md", folder) == ()
    changed = folder / "CHANGED.md"
    changed.write_text((folder / "PAGE.md").read_text().replace("-50.0", "-55.0", 1))
    assert "it says something else than its results" in faults(changed, folder)[0]
