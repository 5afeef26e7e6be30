"""Claims over seeds: the interval is Student's, the verdict follows it, and published numbers stand apart."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from wm_lightning.results.freshness import Freshness
from wm_lightning.results.ladder import (
    Claim,
    Ladder,
    claim_lines,
    difference,
    draw_steps,
    gain_lines,
    loss_lines,
    published_lines,
)
from wm_lightning.results.report import Recipe, compared
from wm_lightning.results.results import Results, Row, Use
from wm_lightning.results.seeds import Group, Run, groups

CLAIM = Claim(says="it helps", better="flow", than="base", by="distance")


def ladder(**changes: Any) -> Ladder:
    settings: dict[str, Any] = dict(
        baselines=["copy"], source="elsewhere", claims=[asdict(CLAIM)],
        published={"flow": {"KID": 0.103, "epochs": 3000}, "base": {"KID": 0.157, "duration": "2 h"}},
        steps_of=["distance"], drawn=["flow"], picture=None,
    )  # fmt: skip
    return Ladder(**(settings | changes))


def results(name: str, seed: int, distance: float, loss: float) -> Results:
    def row(role: str, called: str, steps: int | None, value: float) -> Row:
        used: dict[str, Any] = (
            dict(cached=True, cache_commit="clean") if steps else dict(cached=None, cache_commit=None)
        )
        return Row(role=role, name=called, steps=steps, distance=value, distance_floor=0.0, **used)

    rows = (
        row("teacher", "teacher", 10, distance), row("teacher", "teacher", 5, 2 * distance),
        row("baseline", "copy", None, 0.5),
    )  # fmt: skip
    return Results(
        rows=rows, name=name, data="simulated", world="simulated-mapimage", config_hash=f"{name}{seed}",
        revision="unknown", seconds=60.0, seed=seed, clips=64, context=1, horizon=1, chunk=1, drift_of="PSNR",
        machine="1 thread", extractor_hash="e" * 64, deployed=Use("teacher", 10, "clean"),
        extra={"family": name, "losses": {"train": loss, "val": loss + 0.1}},
    )  # fmt: skip


def found(flow: list[float], base: list[float]) -> tuple[Group, ...]:
    made = [results("flow", seed, value, 0.2) for seed, value in enumerate(flow)]
    made += [results("base", seed, value, 0.3) for seed, value in enumerate(base)]
    return groups([Run(Path(f"{n}"), result, Freshness(False, "")) for n, result in enumerate(made)])


def test_the_interval_is_students_over_paired_seeds() -> None:
    gap = difference(CLAIM, found([0.10, 0.21, 0.29], [0.20, 0.30, 0.40]))
    assert gap is not None and gap.seeds == 3 and gap.mean == pytest.approx(-0.1)
    # Differences -0.10, -0.09, -0.11: deviation 0.01, t(2) = 4.303.
    assert (gap.low, gap.high) == pytest.approx((-0.1 - 0.02484, -0.1 + 0.02484), abs=1e-5)
    assert gap.verdict is True


@pytest.mark.parametrize(
    ("flow", "word"), [([0.1, 0.2, 0.3], "supported"), ([0.4, 0.5, 0.6], "contradicted"), ([0.1, 0.6, 0.2], "open")]
)
def test_the_verdict_follows_the_interval(flow: list[float], word: str) -> None:
    [line] = claim_lines(ladder(), found(flow, [0.3, 0.41, 0.5]))
    assert line[-1] == word


@pytest.mark.parametrize(("value", "word"), [(0.32, "supported"), (0.40, "contradicted")])
def test_comparable_is_within_the_margin(value: float, word: str) -> None:
    claim = asdict(CLAIM) | {"margin": 0.1}
    [line] = claim_lines(ladder(claims=[claim]), found([value - 0.001, value, value + 0.001], [0.30, 0.301, 0.302]))
    assert line[-1] == word and "1.1 × base" in line[1]
    assert line[2].startswith(f"{value - 1.1 * 0.301:+.4f}")


def test_what_is_published_stands_in_columns() -> None:
    assert published_lines(ladder()) == [
        ["published", "KID", "epochs", "duration"], ["flow", "0.103", "3000", "–"], ["base", "0.157", "–", "2 h"],
    ]  # fmt: skip


def test_seeds_of_one_side_alone_count_for_nothing() -> None:
    assert difference(CLAIM, found([0.1, 0.2, 0.3], [0.3])) is None
    gap = difference(CLAIM, found([0.1, 0.2, 9.0], [0.3, 0.41]))
    assert gap is not None and gap.seeds == 2
    [line] = claim_lines(ladder(claims=[Claim(says="x", better="flow", than="none", by="distance")]), found([1.0], []))
    assert line[2:] == ["not measured", "–"]
    [line] = claim_lines(ladder(), found([0.1, 0.2, 0.3], [0.3]))
    assert line[2:] == ["one seed, no interval", "–"]


def test_steps_and_losses_can_be_named() -> None:
    pair = found([0.1, 0.2, 0.3], [0.15, 0.24, 0.35])
    same = difference(Claim(says="", better="flow@5", than="base@10", by="distance"), pair)
    assert same is not None and same.mean == pytest.approx(0.4 - (0.15 + 0.24 + 0.35) / 3)
    loss = difference(Claim(says="", better="flow", than="base", by="train_loss"), pair)
    assert loss is not None and loss.mean == pytest.approx(-0.1)
    assert loss_lines(pair)[0] == ["flow", "0.2000 ± 0.0000", "0.3000 ± 0.0000", "60 ± 0"]


def test_points_of_a_grid_are_named_by_what_tells_them_apart() -> None:
    runs = []
    for mode, values in {"shift": [0.20, 0.30, 0.40], "masked": [0.10, 0.21, 0.29]}.items():
        for seed, value in enumerate(values):
            own = {"family": mode, "overrides": [f"module.transfer.mode={mode}", f"seed={seed}"]}
            runs.append(Run(Path(mode), replace(results("flow", seed, value, 0.2), extra=own), Freshness(False, "")))
    claim = Claim(says="", better="flow (mode=masked)", than="flow (mode=shift)", by="distance")
    gap = difference(claim, groups(runs))
    assert gap is not None and gap.seeds == 3 and gap.mean == pytest.approx(-0.1)
    at_five = difference(
        Claim(says="", better="flow (mode=masked)@5", than="flow (mode=shift)", by="distance"), groups(runs)
    )
    assert at_five is not None and at_five.mean == pytest.approx(0.1)


def test_published_numbers_stand_in_a_table_of_their_own() -> None:
    recipe = Recipe(["x"], ["distance"], None, True, ladder())
    text = compared(found([0.1, 0.2, 0.3], [0.15, 0.24, 0.35]), recipe)
    ours, published = text.split("Published, and not comparable with the above (elsewhere):")
    assert "| flow | 0.103 |" in published and "0.103" not in ours and "0.2000" not in published
    assert "| baseline: copy |" in ours and "| it helps | flow − base, distance | -0.0467" in ours
    with pytest.raises(ValueError, match="has no baseline 'none'"):
        compared(found([0.1], []), Recipe(["x"], ["distance"], None, True, ladder(baselines=["none"])))


@pytest.mark.parametrize("changes", [{}, {"gains": ["distance", "psnr"]}])
def test_a_block_can_be_made_again_from_itself(changes: dict[str, Any]) -> None:
    recipe = Recipe(["x"], ["distance"], None, True, ladder(**changes))
    assert Recipe.from_comment(recipe.to_comment()) == recipe


def driven(values: list[tuple[float | None, float | None]]) -> tuple[Group, ...]:
    """A rung over seeds: the distance with its own actions, and with those of other clips."""
    made = []
    for seed, (own, other) in enumerate(values):
        whole = results("flow", seed, 1.0, 0.2)
        shuffled = Row(role="baseline", name="shuffled actions (teacher, 10)", steps=None, cached=None,
                       cache_commit=None, distance=other, distance_floor=0.0)  # fmt: skip
        rows = (replace(whole.rows[0], distance=own), *whole.rows[1:], shuffled)
        made.append(Run(Path(f"{seed}"), replace(whole, rows=rows), Freshness(False, "")))
    return groups(made)


def test_a_gain_is_the_change_against_other_actions_in_per_cent() -> None:
    asked = ladder(gains=["distance", "psnr"])
    # (0.3 - 0.5) / 0.5 = -40 %, (0.6 - 0.5) / 0.5 = 20 %: mean -10, deviation 60 / sqrt(2).
    assert gain_lines(asked, driven([(0.3, 0.5), (0.6, 0.5)])) == [["flow", "-10.0 ± +42.4", "–"]]
    # Against the magnitude: less is less, also below zero, where an unbiased distance may lie.
    assert gain_lines(asked, driven([(-0.3, -0.2)])) == [["flow", "-50.0", "–"]]


@pytest.mark.parametrize("pair", [(None, 0.5), (0.3, None), (0.3, 0.0)])
def test_without_both_numbers_there_is_no_gain(pair: tuple[float | None, float | None]) -> None:
    assert gain_lines(ladder(gains=["distance"]), driven([pair, (0.4, 0.5)])) == [["flow", "-20.0"]]
    assert gain_lines(ladder(gains=["distance"]), driven([pair])) == [["flow", "–"]]
    assert gain_lines(ladder(gains=["distance"]), found([0.1], [])) == [["flow", "–"]], "never driven by other actions"


def test_gains_stand_beside_the_table_where_they_are_asked_for() -> None:
    told = [
        compared(driven([(0.3, 0.5)]), Recipe(["x"], ["distance"], None, True, ladder(gains=names)))
        for names in ([], ["distance"])
    ]
    assert "another clip's actions" not in told[0] and "| flow | -40.0 |" not in told[0]
    assert "another clip's actions" in told[1] and "| flow | -40.0 |" in told[1]


def test_without_claims_nothing_is_said_of_differences() -> None:
    assert "Differences over seeds" in compared(found([0.1], []), Recipe(["x"], ["distance"], None, True, ladder()))
    recipe = Recipe(["x"], ["distance"], None, True, ladder(claims=[]))
    assert "Differences over seeds" not in compared(found([0.1], []), recipe)


def test_draws_measures_against_steps(tmp_path: Path) -> None:
    draw_steps(tmp_path / "steps.png", ladder(), found([0.1, 0.2], [0.3, 0.4]))
    assert (tmp_path / "steps.png").stat().st_size > 5000
