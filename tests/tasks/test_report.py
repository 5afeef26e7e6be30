"""task=report: what is joined and what never is, mean and spread, age, and blocks that cannot lie for long."""

import json
import subprocess
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig

from tests.tiny_run import tiny
from wm_lightning.results import report, seeds
from wm_lightning.results.freshness import Freshness, freshness
from wm_lightning.results.report import Recipe, faults, render, splice
from wm_lightning.results.results import Results, Row, Use
from wm_lightning.results.seeds import Run, groups, spread

FRESH = Freshness(False, "")
PAGE = "# Page\n\n<!-- results:quick -->\nearlier\n<!-- /results:quick -->\n\nThe end\n"


def results(seed: int, **other: Any) -> Results:
    measured = {"action_error": 0.1 + 0.01 * seed, "fps_b1": 10.0, "distance": 0.3, "distance_floor": 0.1}
    rows = (
        Row(role="teacher", name="teacher", steps=32, cached=True, cache_commit="clean", **measured),
        Row(role="student", name="student", steps=4, cached=True, cache_commit="clean", **measured | {"fps_b1": 70.0}),
    )
    values: dict[str, Any] = dict(
        rows=rows, name="dmd", data="simulated", world="simulated-worldmap", config_hash=f"c{seed}", revision="unknown",
        seconds=60.0 + seed, seed=seed, clips=256, context=1, horizon=12, chunk=3, drift_of="PSNR", machine="2 threads",
        extractor_hash="e" * 64, extra={"family": "f"},
    )  # fmt: skip
    return Results(**values | other)


def run(result: Results, name: str = "x") -> Run:
    return Run(Path(name), result, FRESH)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three seeds in run folders, a page, and the current folder there."""
    for seed in range(3):
        results(seed).to_json(tmp_path / f"logs/run{seed}/results.json")
    (tmp_path / "PAGE.md").write_text(PAGE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(folder: Path, *words: str) -> DictConfig:
    columns = "task.columns=[action_error,fps_b1,excess]"
    return tiny(folder, "task=report", columns, *words)


def made(folder: Path, *words: str) -> dict[str, float]:
    config = asked(folder, *words)
    return instantiate(config.task)(config)


def test_seeds_give_mean_and_standard_deviation(folder: Path) -> None:
    rows = groups([run(results(seed), str(seed)) for seed in (2, 0, 1)])[0].rows()
    found = spread(rows[0], "action_error")
    assert found is not None and found.count == 3
    assert found.mean == pytest.approx(0.11) and found.deviation == pytest.approx(stdev([0.10, 0.11, 0.12]))
    assert made(folder, "task.runs=[logs/*]") == {"runs": 3.0, "tables": 1.0}
    text = (folder / "run/report.md").read_text()
    assert "| 0.110 ± 0.010 | 70.0 ± 0.0 | 0.2000 ± 0.0000 |" in text
    assert "seeds 0, 1, 2: mean ± standard deviation" in text and "simulated data" in text
    whole = (folder / "run/report.html").read_text()
    assert "<svg" in whole and "0.110 ± 0.010" in whole and "made from" not in whole


def test_one_seed_has_no_spread(folder: Path) -> None:
    made(folder, "task.runs=logs/run1", "task.targets=false")
    text = (folder / "run/report.md").read_text()
    assert "| 0.110 | 10.0 | 0.2000 |" in text and "±" not in text


@pytest.mark.parametrize(
    "other",
    [
        {"data": "real"}, {"extractor_hash": "a" * 64}, {"extra": {"family": "g"}}, {"machine": "a GPU"},
        {"clips": 16}, {"world": "simulated-pusher"}, {"horizon": 24},
    ],
)  # fmt: skip
def test_what_is_measured_otherwise_is_never_joined(other: dict[str, Any]) -> None:
    together = groups([run(results(0)), run(results(1))])
    assert [len(group.runs) for group in together] == [2]
    apart = groups([run(results(0)), run(results(1, **other))])
    assert [len(group.runs) for group in apart] == [1, 1]


def test_without_a_family_only_the_same_config_is_joined() -> None:
    assert len(groups([run(results(0, extra={})), run(results(1, extra={}))])) == 2


def test_the_same_seed_twice_is_no_second_sample() -> None:
    with pytest.raises(ValueError, match="one and two are the same config and seed"):
        groups([run(results(0), "one"), run(results(0), "two")])


def test_a_number_that_some_seeds_lack_says_so(folder: Path) -> None:
    some = results(2)
    replace(some, rows=(replace(some.rows[0], action_error=None), some.rows[1])).to_json(
        folder / "logs/run2/results.json"
    )
    made(folder, "task.runs=[logs/*]")
    assert "0.105 ± 0.007 (2 of 3)" in (folder / "run/report.md").read_text()


def test_targets_are_judged_seed_by_seed(folder: Path) -> None:
    slow = results(1)
    replace(slow, rows=(slow.rows[0], replace(slow.rows[1], fps_b1=50.0))).to_json(folder / "logs/run1/results.json")
    made(folder, "task.runs=[logs/*]", "metrics.targets.speed_cached={4: 6.5}")
    text = (folder / "run/report.md").read_text()
    assert "batch 1, student 4 against cached teacher 32 | at least 6.5× | 2 of 3 | 7.00×; 5.00×; 7.00× |" in text
    assert "| speed at batch 16, student 4 against cached teacher 32 | at least 6.5× | cannot be judged |" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "task.runs is empty"),
        (["task.runs=[nowhere/*]"], "nowhere/.* leads to no results.json"),
        (["task.runs=[logs/*]", "task.into=PAGE.md"], "task.into and task.block go together"),
        (["task.runs=[logs/*]", "task.columns=[speeed]"], "no column speeed .*there are psnr"),
        (["task.runs=[logs/*]", "task.into=PAGE.md", "task.block=slow"], "PAGE.md: expected the lines .*results:slow"),
        (["task.check=true"], "needs task.into"),
    ],
)
def test_what_cannot_be_reported_is_refused(folder: Path, words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made(folder, *words)
    assert (folder / "PAGE.md").read_text() == PAGE


def test_a_block_takes_the_table_and_leaves_the_rest(folder: Path) -> None:
    words = ["task.runs=[logs/*]", "task.into=PAGE.md", "task.block=quick"]
    made(folder, *words)
    once = (folder / "PAGE.md").read_text()
    assert once.startswith("# Page\n\n<!-- results:quick -->\n<!-- made from ") and "earlier" not in once
    assert once.endswith("<!-- /results:quick -->\n\nThe end\n") and "0.110 ± 0.010" in once
    made(folder, *words)
    assert (folder / "PAGE.md").read_text() == once
    assert not list(folder.glob("*.partial"))


@pytest.mark.parametrize("page", [PAGE + PAGE, PAGE.replace("/results", "results"), ""])
def test_a_page_without_its_one_block_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        splice(page, "quick", "new")


def test_the_check_finds_a_changed_number_a_missing_run_and_a_hand_made_table(folder: Path) -> None:
    page = folder / "PAGE.md"
    assert "it does not say what it was made from" in faults(page, folder)[0]
    made(folder, "task.runs=[logs/*]", "task.into=PAGE.md", "task.block=quick", "task.keep=kept")
    assert sorted(path.name for path in (folder / "kept").iterdir()) == [f"quick_0_seed{n}.json" for n in range(3)]
    assert faults(page, folder) == ()
    assert made(folder, "task.check=true", "task.into=[PAGE.md]") == {"faults": 0.0}
    good = page.read_text()
    page.write_text(good.replace("0.110 ± 0.010", "0.101 ± 0.010", 1))
    with pytest.raises(ValueError, match="PAGE.md, quick: it says something else than its results"):
        made(folder, "task.check=true", "task.into=PAGE.md")
    page.write_text(good)
    kept = folder / "kept/quick_0_seed1.json"
    changed = json.loads(kept.read_text())
    changed["rows"][0]["action_error"] = 0.2
    kept.write_text(json.dumps(changed))
    assert len(faults(page, folder)) == 1
    kept.unlink()
    assert "kept/quick_0_seed1.json leads to no results.json" in faults(page, folder)[0]


def test_experiments_are_compared_in_one_table(folder: Path) -> None:
    for seed in range(2):
        other = results(seed, name="dmd_last", chunk=1, deployed=Use("student", 4, "clean"), extra={"family": "g"})
        other.to_json(folder / f"logs/last{seed}/results.json")
        results(seed, deployed=Use("student", 4, "clean")).to_json(folder / f"logs/run{seed}/results.json")
    made(
        folder,
        "task.runs=[logs/run0,logs/run1,logs/last*]",
        "task.into=PAGE.md",
        "task.block=quick",
        "task.compare=true",
    )
    page = (folder / "PAGE.md").read_text()
    assert "| dmd | 3 | 4 | clean | 2 | 0.105 ± 0.007 | 70.0 ± 0.0 | 0.2000 ± 0.0000 |" in page
    assert "| dmd_last | 1 | 4 | clean | 2 |" in page and "teacher" not in page
    assert faults(folder / "PAGE.md", folder) == ()


def test_what_cannot_be_compared_is_refused(folder: Path) -> None:
    deployed = Use("student", 4, "clean")
    results(0, deployed=deployed, distance_floor=0.1).to_json(folder / "logs/run0/results.json")
    unlike = {"extractor": {"extractor_hash": "f" * 64}, "frames": {"horizon": 24}, "drawn": {"distance_floor": 0.2}}
    for name, other in (unlike | {"own": {}}).items():
        values = {"deployed": deployed if name != "own" else None, "extra": {"family": name}, **other}
        results(0, name=name, **values).to_json(folder / f"logs/{name}/results.json")
        with pytest.raises(ValueError, match=f"{'which row is the network' if name == 'own' else name}"):
            made(folder, f"task.runs=[logs/run0,logs/{name}]", "task.compare=true")


def test_kept_results_of_another_name_stay(folder: Path) -> None:
    other = folder / "kept/quick_last_0_seed0.json"
    results(0).to_json(other)
    results(0).to_json(folder / "kept/quick_7_seed0.json")  # of an earlier report of the same name
    (folder / "logs/run0/rollouts.gif").write_bytes(b"a film of run 0")
    made(folder, "task.runs=[logs/*]", "task.into=PAGE.md", "task.block=quick", "task.keep=kept")
    names = sorted(path.name for path in (folder / "kept").iterdir())
    assert names == ["quick_0_seed0.json", "quick_0_seed1.json", "quick_0_seed2.json", "quick_last_0_seed0.json"]
    film = b64encode(b"a film of run 0").decode()
    assert film in (folder / "run/report.html").read_text(), "what lies beside a kept run is not shown"


@pytest.mark.parametrize("page", ["README.md", "docs/dmd.md", "docs/worldgen.md", "docs/report.md"])
def test_the_tables_of_the_pages_are_those_of_the_results_beside_them(page: str) -> None:
    root = Path(__file__).parents[2]
    assert faults(root / page, root) == ()


def test_the_check_takes_no_offence_at_age(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(folder, "task.runs=[logs/*]", "task.into=PAGE.md", "task.block=quick")
    read = seeds.read_runs
    old = Freshness(True, "3 commits have changed the code since abc")
    monkeypatch.setattr(report, "read_runs", lambda patterns, root: read(patterns, root=root, age=lambda *_: old))
    block = (folder / "PAGE.md").read_text()
    marked = render(Recipe.from_comment(block), folder)
    assert "student *(stale)*" in marked and "**Stale** (seed 0): 3 commits have changed" in marked
    (folder / "STALE.md").write_text(splice(PAGE, "quick", marked))
    monkeypatch.setattr(report, "read_runs", lambda patterns, root: read(patterns, root=root, age=lambda *_: FRESH))
    assert faults(folder / "STALE.md", folder) == ()


@pytest.fixture
def repository(tmp_path: Path) -> Callable[..., str]:
    """Commits a text to a file of a new repository and returns the revision."""

    def git(*arguments: str) -> str:
        settings = ["-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false"]
        command = ["git", *settings, *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    def commit(name: str, text: str) -> str:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        git("add", "-A")
        git("commit", "-m", text)
        return git("rev-parse", "HEAD")

    git("init", "-q")
    return commit


def test_results_age_with_the_code_and_with_nothing_else(repository: Callable[..., str], tmp_path: Path) -> None:
    repository("conf/module/dmd.yaml", "a first setting")
    first = repository("wm_lightning/modules/dmd.py", "one")
    assert freshness(first, folder=tmp_path) == FRESH
    repository("README.md", "a page")
    repository("wm_lightning/results/table.py", "how numbers are shown")
    repository("conf/task/report.yaml", "what is asked of a table")
    repository("conf/task/report.yaml", "and what more")
    repository("wm_lightning/callbacks/progress.py", "a bar")
    repository("wm_lightning/callbacks/progress.py", "another bar")
    repository("wm_lightning/modules/other.py", "what was not there yet")
    assert freshness(first, folder=tmp_path) == FRESH
    other = repository("wm_lightning/modules/other.py", "changed")
    assert freshness(first, folder=tmp_path).stale
    assert freshness(first, ["wm_lightning/modules/dmd.py"], folder=tmp_path) == FRESH
    second = repository("conf/module/dmd.yaml", "a setting")
    assert freshness(other, ["conf/data/rt1.yaml"], folder=tmp_path) == FRESH
    assert freshness(other, ["conf/module"], folder=tmp_path).stale
    assert freshness(other, folder=tmp_path) == Freshness(True, f"1 commit has changed the code since {other[:9]}")
    assert freshness(second, folder=tmp_path) == FRESH
    assert freshness(f"{second}-modified", folder=tmp_path).stale
    (tmp_path / "wm_lightning/modules/dmd.py").write_text("two")
    assert "uncommitted changes" in freshness(second, folder=tmp_path).reason


def test_age_that_cannot_be_told_is_said_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert freshness("unknown", folder=tmp_path) == Freshness(False, "measured outside git, so its age cannot be told")
    assert "there is no git here" in freshness("a" * 40, folder=tmp_path).reason
    monkeypatch.setenv("PATH", "")
    found = freshness("a" * 40, folder=tmp_path)
    assert not found.stale and "there is no git here" in found.reason


def test_a_revision_of_another_repository(repository: Callable[..., str], tmp_path: Path) -> None:
    repository("a", "a")
    assert "is not in this repository" in freshness("a" * 40, folder=tmp_path).reason
