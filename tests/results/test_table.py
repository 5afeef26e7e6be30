"""Tables: every number and every reason is there, and the reader learns what is simulated."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from wm_lightning.results.results import Results, Row
from wm_lightning.results.table import markdown, terminal, verdict, write_markdown
from wm_lightning.results.targets import judge


@pytest.fixture
def partial(results: Results) -> Results:
    """With a baseline that lacks speed and distance."""
    reasons = dict.fromkeys(("nfe", "fps_b1", "fps_b16", "first_frame_latency", "peak_memory"), "no network runs")
    reasons |= dict.fromkeys(("distance", "distance_floor", "distance_low", "distance_high"), "1 clip is too few")
    copy = Row(
        role="baseline",
        name="copy [last] frame",
        steps=None,
        cached=None,
        cache_commit=None,
        psnr=20.125,
        ssim=0.5,
        perceptual=0.1,
        frames_distance=2.0,
        action_error=0.4,
        object_error=0.5,
        presence=0.6,
        extra={"terrain_distance": 0.7},
        reasons=reasons,
    )
    return replace(results, rows=(*results.rows, copy))


def printed(results: Results, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    for table in terminal(results):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("data", ["simulated", "real"])
def test_the_kind_of_data_stands_in_title_caption_and_verdict(results: Results, targets, data: str):
    text = markdown(replace(results, data=data), targets)
    assert f"({data})" in text.splitlines()[0] and f"{data} data (world map)" in text
    assert f"on {data} data" in text
    assert f"Quality · {data}" in printed(replace(results, data=data), 120)


def test_nulls_are_dashes_with_a_numbered_reason(partial: Results, targets):
    text = markdown(partial, targets)
    line = next(line for line in text.splitlines() if "copy [last] frame" in line and "– [2]" in line)
    assert line.count("– [2]") == 5
    assert "– [1] 1 clip is too few" in text and "– [2] no network runs" in text
    assert "None" not in text and "nan" not in text.lower()


def test_numbers_of_a_row_stand_in_order(partial: Results):
    line = next(line for line in markdown(partial, None).splitlines() if "copy [last] frame" in line)
    assert [cell.strip() for cell in line.strip("|").split("|")][3:] == [
        "20.1",
        "0.500",
        "0.400",
        "0.500",
        "0.600",
        "0.700",
    ]


def test_every_row_of_a_table_has_as_many_cells_as_its_head(partial: Results, targets):
    counts = []
    for line in markdown(partial, targets).splitlines():
        counts.append(line.replace("| |", "|").count("|") if line.startswith("|") else 0)
    for before, after in zip(counts, counts[1:], strict=False):
        assert before == 0 or after in (0, before)


def test_terminal_cuts_nothing_at_80_columns(partial: Results):
    text = printed(partial, 80)
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    assert "[last]" in text and "no network runs" in text and "0.0900" in text


def test_the_verdict_counts_what_is_met(results: Results, targets):
    assert "12 of 12 targets that could be judged are met" in markdown(results, targets)
    console = Console(file=io.StringIO(), width=120)
    console.print(verdict(judge(results, targets)))
    assert isinstance(console.file, io.StringIO) and console.file.getvalue().count("yes") == 12


def test_what_is_about_a_student_is_left_out_where_there_is_none(results: Results, targets):
    alone = replace(results, rows=results.of("teacher"), extra={"how": ["transfer shift", "no guidance (scale 1)"]})
    text = markdown(alone, targets)
    assert "What it says" not in text and "judged" not in text
    assert text.splitlines()[2] == "Made with transfer shift, no guidance (scale 1)."
    assert "Made with" not in markdown(results, targets)


def test_names_no_published_metric_for_itself(results: Results, targets):
    text = markdown(results, targets)
    assert "kd_rand" in text and "no published FID or FVD" in text and "eeeeeeeeeeee" in text


def test_written_file_equals_the_text(results: Results, targets, tmp_path):
    write_markdown(results, targets, tmp_path / "results.md")
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == markdown(results, targets)
