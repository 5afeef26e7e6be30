"""Every target: met where the numbers meet it, missed a little beyond, and silent where a number is absent."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from wm_lightning.results.results import Results, Use
from wm_lightning.results.targets import Statement, Targets, judge


def about(statements: tuple[Statement, ...], word: str) -> Statement:
    (found,) = [entry for entry in statements if word in entry.subject]
    return found


def test_all_targets_of_the_invented_run_are_met(results: Results, targets: Targets):
    judged = judge(results, targets)
    assert [entry.met for entry in judged if entry.target != "no target"] == [True] * 12


@pytest.mark.parametrize(
    ("word", "change"),
    [
        ("batch 1, student 4 against cached teacher", ("student", 4, "clean", {"fps_b1": 64.0})),
        ("batch 1, student 4 against uncached", ("student", 4, "clean", {"fps_b1": 71.0})),
        ("batch 1, student 4 against cached, last-step", ("student", 4, "last", {"fps_b1": 82.0})),
        ("action error", ("student", 4, "clean", {"action_error": 0.111})),
        ("the teacher", ("student", 4, "clean", {"distance": 0.12})),
        ("better control", ("control", 4, "clean", {"distance": 0.13})),
        ("terrain distance", ("student", 4, "clean", {"extra": {"terrain_distance": 0.23}})),
    ],
)
def test_a_little_worse_and_the_target_is_missed(word: str, change: tuple, changed: Callable, targets: Targets):
    role, steps, commit, values = change
    found = about(judge(changed(role, steps, commit, **values), targets), word)
    assert found.met is False


def test_quality_is_judged_of_the_student_as_it_was_trained(results: Results, targets: Targets) -> None:
    used = replace(results, deployed=Use("student", 4, "last"))
    rows = [replace(row, action_error=0.5) if row.cache_commit == "last" else row for row in used.rows]
    assert about(judge(replace(used, rows=tuple(rows)), targets), "action error").met is False
    assert about(judge(replace(results, rows=tuple(rows)), targets), "action error").met
    unknown = judge(replace(results, deployed=None), targets)
    assert about(unknown, "quality").found == "no row of the student as it was trained"


def test_an_absent_number_is_never_met_and_says_why(changed: Callable, targets: Targets):
    changes = {"action_error": None, "distance": None, "presence": None, "fps_b1": None}
    reasons = dict.fromkeys(changes, "1 clip is too few")
    judged = judge(changed("student", 4, reasons=reasons, **changes), targets)
    for word in ("action error", "the teacher", "better control", "batch 1, student 4 against uncached"):
        assert about(judged, word).met is None
    assert about(judged, "better control").found == "1 clip is too few"
    assert all(entry.met is None for entry in judged if entry.subject == "presence")


def test_the_slack_holds_where_the_ratio_is_stricter(changed: Callable, targets: Targets):
    exact = changed("teacher", 32, action_error=0.0)
    rows = [replace(row, action_error=0.0099) if row.role == "student" else row for row in exact.rows]
    assert about(judge(replace(exact, rows=tuple(rows)), targets), "action error").met is True


def test_a_teacher_whose_excess_may_be_0_is_judged_by_its_upper_bound(changed: Callable, targets: Targets):
    low = {"distance": 0.011, "distance_low": -0.03}
    wide = about(judge(changed("teacher", 32, distance_high=0.05, **low), targets), "the teacher")
    tight = about(judge(changed("teacher", 32, distance_high=0.03, **low), targets), "the teacher")
    assert (wide.met, tight.met) == (True, False)
    assert "upper bound" in wide.found


def test_a_control_whose_excess_may_be_0_judges_nobody(changed: Callable, targets: Targets):
    found = about(judge(changed("control", 4, distance=0.011, distance_low=-0.01), targets), "better control")
    assert found.met is None and "covers 0" in found.found


def test_the_better_control_is_that_with_the_smaller_excess(results: Results, targets: Targets):
    assert "re-noising 0.2" in about(judge(results, targets), "better control").found


def test_presence_rules(changed: Callable, targets: Targets):
    low = judge(changed("student", 4, presence=0.88), targets)
    assert [entry.met for entry in low if entry.subject == "presence"] == [False, False]
    under = judge(changed("control", 4, presence=0.98), targets)
    assert [entry.met for entry in under if entry.subject == "presence"] == [True, False]


def test_speed_at_equal_distance_takes_the_fastest_teacher_that_is_as_good(
    changed: Callable, results, targets: Targets
):
    found = about(judge(results, targets), "equal distance")
    assert found.found.startswith("3.6×") and "16 steps" in found.found and found.met is None
    better = about(judge(changed("student", 4, distance=0.04), targets), "equal distance")
    assert better.found == "no teacher row reaches the student's distance"


def test_speed_is_judged_at_both_batches(changed: Callable, targets: Targets):
    found = judge(changed("student", 4, fps_b16=3.0), targets)
    for batch, met in ((1, True), (16, False)):
        assert about(found, f"speed at batch {batch}, student 4 against cached teacher").met is met
