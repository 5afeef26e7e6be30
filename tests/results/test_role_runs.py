"""Tables of executors over seeds and grid points: what is joined, what the gains say, and what never shares a table."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate

from tests.tiny_run import tiny
from wm_lightning.results.curves import Curve
from wm_lightning.results.freshness import STALE, Freshness
from wm_lightning.results.role_runs import RoleRun, gain_text, read_roles, role_groups, role_table, roles_compared
from wm_lightning.results.roles import RoleResults, RoleRow
from wm_lightning.tasks.report_curves import mean_of

FRESH = Freshness(False, "")
Gains = Mapping[str, tuple[float, float, float]]


def row(role: str, task: float | None, gains: Gains | None = None, **other: Any) -> RoleRow:
    rates: dict[str, Any] = {"task": task, "agent": 0.9, "consistency": 0.8}
    intervals = {name: None if value is None else (value - 0.05, value + 0.05) for name, value in rates.items()}
    values: dict[str, Any] = rates | dict(
        role=role, average=None, n=100, valid=98, valid_by={}, intervals=intervals, gains=gains or {}, by_task={},
        by_agent={}, seconds=0.5,
    )  # fmt: skip
    return RoleRow(**values | other)


def results(seed: int, task: float = 0.7, low: float = 0.05, **other: Any) -> RoleResults:
    """An executor that is 0.1 above its demonstrator, with a lower bound of `low`."""
    gains = {"demonstrator": (task - 0.6, low, 0.2), "base": (0.5, 0.4, 0.6)}
    rows = (row("base", 0.2), row("demonstrator", 0.6), row("executor", task, gains))
    values: dict[str, Any] = dict(
        rows=rows, name="wmsd_full", data="simulated", world="simulated-grid_tasks", split="test", judge="programs",
        steps=8, revision="unknown", config_hash=f"c{seed}", seed=seed, seconds=60.0, machine="2 threads",
        extra={"family": "f", "overrides": ["experiment=wmsd_full", f"seed={seed}"]},
    )  # fmt: skip
    return RoleResults(**values | other)


def run(result: RoleResults, name: str = "x", freshness: Freshness = FRESH) -> RoleRun:
    return RoleRun(Path(name), result, freshness)


def point(anchor: float, seed: int = 0, **other: Any) -> RoleResults:
    """A point of a grid."""
    extra = {"family": f"f{anchor}", "overrides": [f"algorithm.anchor={anchor}", f"seed={seed}", "size=debug"]}
    return results(seed, name="wmsd_anchor", extra=extra, **other)


def test_seeds_give_mean_and_deviation_and_how_often_the_gain_is_above_0() -> None:
    seeds = [results(2, 0.8), results(0, 0.6, low=-0.05), results(1, 0.7)]
    [group] = role_groups([run(one, str(one.seed)) for one in seeds])
    assert [entry.results.seed for entry in group.runs] == [0, 1, 2]
    text = role_table(group)
    assert (
        "| executor, told the instruction | 0.700 ± 0.100 | 0.900 ± 0.000 | 0.800 ± 0.000 | 300 | 294 | 0.50 |" in text
    )
    assert "+0.100 ± 0.100 (above 0 in 2 of 3, lowest bound -0.050)" in text and "seeds 0, 1, 2: mean" in text
    assert gain_text(group, "distilled") == "–"


def test_one_seed_has_the_intervals_of_its_own_tasks() -> None:
    text = role_table(role_groups([run(results(0))])[0])
    assert (
        "| 0.700 (0.65 to 0.75) |" in text
        and "+0.100 (+0.050 to +0.200)" in text
        and "±" not in text.split("seed 0")[0]
    )


def test_a_seed_that_could_not_be_judged_is_counted_out() -> None:
    broken = results(1)
    lost = replace(broken.rows[-1], task=None)
    [group] = role_groups(
        [run(results(0)), run(replace(broken, rows=(*broken.rows[:-1], lost)), "y"), run(results(2, 0.8), "z")]
    )
    assert "0.750 ± 0.071 (2 of 3)" in role_table(group)


@pytest.mark.parametrize(
    "other", [{"judge": "else"}, {"data": "real"}, {"steps": 4}, {"extra": {"family": "g"}}, {"name": "else"}]
)
def test_what_is_measured_otherwise_is_never_joined(other: dict[str, Any]) -> None:
    assert len(role_groups([run(results(0)), run(results(1), "y")])) == 1
    assert len(role_groups([run(results(0)), run(results(1, **other), "y")])) == 2


def test_the_same_seed_twice_is_no_second_sample() -> None:
    with pytest.raises(ValueError, match="one and two are the same config and seed"):
        role_groups([run(results(0), "one"), run(results(0), "two")])


def test_points_of_a_grid_share_a_table_by_what_tells_them_apart() -> None:
    found = role_groups([run(point(anchor, seed), f"{anchor}{seed}") for anchor in (0.0, 0.1) for seed in (0, 1)])
    assert [group.label for group in found] == ["wmsd_anchor (anchor=0.0)", "wmsd_anchor (anchor=0.1)"]
    lines = roles_compared(found).splitlines()
    assert sum(line.startswith("| wmsd_anchor") for line in lines) == 2
    assert sum(line.startswith("| demonstrator |") for line in lines) == 1, "equal in all, so said once"
    other = point(0.5)
    other = replace(other, rows=(other.rows[0], replace(other.rows[1], task=0.4), other.rows[2]))
    text = roles_compared(role_groups([*(entry for group in found for entry in group.runs), run(other, "o")]))
    assert "| demonstrator of wmsd_anchor (anchor=0.5) | 0.400" in text


def test_executors_of_other_tasks_or_judges_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"x: .*programs.*y: .*a model"):
        roles_compared(role_groups([run(point(0.0)), run(point(0.1, judge="a model"), "y")]))


def test_age_is_shown() -> None:
    text = role_table(role_groups([run(results(0), freshness=Freshness(True, "2 commits"))])[0])
    assert STALE in text and "**Stale** (seed 0): 2 commits." in text


def test_runs_without_a_family_are_joined_by_what_they_were_started_with(tmp_path: Path) -> None:
    for seed in (0, 1):
        results(seed, extra={}).to_json(tmp_path / f"{seed}/results.json")
        (tmp_path / f"{seed}/overrides.yaml").write_text(f"- experiment=wmsd_full\n- seed={seed}\n- run_dir=a{seed}\n")
    found = read_roles(["*"], root=tmp_path, age=lambda revision, code: FRESH)
    assert [entry.results for entry in found] == [results(seed, extra={}) for seed in (0, 1)]
    assert len(role_groups(found)) == 1


def test_curves_are_means_at_the_iterations_that_all_seeds_have() -> None:
    runs = [{"a": Curve("a", (2.0, 4.0, 6.0), (0.0, 0.5, 1.0))}, {"a": Curve("a", (2.0, 4.0), (1.0, 1.0))}, {}]
    found = mean_of("label", "a", runs)
    assert found is not None and (found.name, found.x, found.y) == ("label", (2.0, 4.0), (0.5, 0.75))
    assert mean_of("label", "b", runs) is None


def test_a_report_of_a_grid_has_table_curves_and_films_and_can_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place, anchor in enumerate((0.0, 0.1)):
        folder = tmp_path / f"logs/{place}"
        point(anchor).to_json(folder / "results.json")
        (folder / "csv/version_0").mkdir(parents=True)
        (folder / "csv/version_0/metrics.csv").write_text("epoch,iteration,step,val/task_met\n0,2,1,0.1\n0,4,3,0.3\n")
        (folder / "rollouts.gif").write_bytes(b"GIF89a")
    (tmp_path / "PAGE.md").write_text("<!-- results:grid -->\n<!-- /results:grid -->\n")
    words = ["task.runs=[logs/*]", "task.compare=true", "task.keep=kept", "task.into=PAGE.md", "task.block=grid"]
    config = tiny(tmp_path, "task=report", *words)
    assert instantiate(config.task)(config) == {"runs": 2.0, "tables": 2.0}
    text, whole = (tmp_path / "PAGE.md").read_text(), (tmp_path / "run/report.html").read_text()
    assert "| wmsd_anchor (anchor=0.1) | 0.700 (0.65 to 0.75) |" in text and "kept/roles_grid_1_seed0.json" in text
    assert (tmp_path / "run/curves.png").stat().st_size > 0
    assert whole.count("data:image/png") == 1 and whole.count("data:image/gif") == 2
    config = tiny(tmp_path, "task=report", "task.check=true", "task.into=PAGE.md")
    assert instantiate(config.task)(config) == {"faults": 0.0}
    point(0.1, task=0.9).to_json(tmp_path / "kept/roles_grid_1_seed0.json")
    with pytest.raises(ValueError, match="it says something else than its results"):
        instantiate(config.task)(config)
