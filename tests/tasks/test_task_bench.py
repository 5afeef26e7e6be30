"""Benchmarks of tasks: who may judge, what is counted, what may be compared, and whole runs judged over HTTP."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from tests.judge_server import MODEL, Behaviour, Running, judge_server
from wm_lightning.config import compose
from wm_lightning.config_check import check
from wm_lightning.config_record import save_record
from wm_lightning.results.task_bench import read_baseline
from wm_lightning.rewards.bus import Scores
from wm_lightning.tasks.build import build_card, build_data
from wm_lightning.tasks.evaluate import evaluate
from wm_lightning.tasks.fit import fit
from wm_lightning.tasks.role_stage import Played
from wm_lightning.tasks.scored_bench import read_scores
from wm_lightning.tasks.task_bench import require_verdicts
from wm_lightning.tasks.teachers import prepare_start
from wm_lightning.tasks.training_judge import UNKNOWN, judge_of_training, require_another, same_judge
from wm_lightning.tasks.worldtasks_verdicts import Judged
from wm_lightning.worlds.grid_reward import task_of

SMALL = [
    "size=debug", "trainer.precision=32-true", "callbacks.progress=null", "+trainer.enable_progress_bar=false",
    "data.world.frames=5", "data.world.looks=0.0", "rollout.chunk=4",
]  # fmt: skip
OF_BASE = [
    "module.start.module.iterations=2", "module.start.module.validate_every=2", "module.start.data.world.frames=5",
    "module.start.rollout.chunk=4", "module.start.data.world.looks=0.0",
]  # fmt: skip
EXECUTOR = ["experiment=wmsd_full", "sampler.steps.steps=2", "surrogate.draws=2", *SMALL, *OF_BASE]
BENCH = ["task=evaluate", "protocol=worldtasks_bench", "protocol.repeats=0", "protocol.pictures=1"]
ENDPOINT = {"_target_": "wm_lightning.rewards.vlm.endpoint_judges", "endpoint": {"model": "Org/Judge-8B", "url": "a"}}
GRID = {"_target_": "wm_lightning.worlds.grid_reward.grid_judges", "hackable": False, "weights": {"task": 1.0}}


@pytest.mark.parametrize("name", ["worldtasks_bench", "dreamgen", "vbvr"])
def test_a_benchmark_is_composed_at_every_size_and_keeps_published_numbers_apart(name: str) -> None:
    for size in ("debug", "paper"):
        check(compose(["experiment=wmsd_full", "task=evaluate", f"protocol={name}", f"size={size}"]))
    node = compose(["experiment=wmsd_full", "task=evaluate", f"protocol={name}"]).protocol
    assert node.name == name and node.paper.source and all("model" in row for row in node.published)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (ENDPOINT | {"endpoint": {"model": "judge-8b", "url": "b"}, "version": "v2"}, True),
        (ENDPOINT | {"endpoint": {"model": "Org/Judge-32B", "url": "a"}}, False),
        (GRID, False),
    ],
)
def test_a_model_is_the_same_judge_wherever_it_runs_and_whatever_it_is_asked(other: dict, same: bool) -> None:
    assert same_judge(ENDPOINT, other) is same
    assert same_judge(GRID, GRID | {"weights": {"task": 0.5, "consistency": 1.0}})
    assert not same_judge(GRID, GRID | {"hackable": True})


def test_the_judge_in_the_checkpoints_own_record_is_refused_whatever_the_command_says(tmp_path: Path) -> None:
    path = tmp_path / "best.ckpt"
    torch.save({"provenance": {"config": {"module": {"judges": GRID}, "reward": ENDPOINT}}}, path)
    words = ["experiment=wmsd_full", "reward=grid_hackable", *BENCH, f"ckpt_path={path}"]
    config = compose([*words, "reward@protocol.judges=grid"])
    assert judge_of_training(config, False) == GRID
    with pytest.raises(ValueError, match=r"grid_judges, which also taught .*best.ckpt.*same_judge=true"):
        require_another(config, GRID, allowed=False)
    require_another(config, GRID, allowed=True)
    require_another(compose(words), GRID, allowed=False)
    config.ckpt_path = str(tmp_path / "executor.safetensors")
    with pytest.raises(ValueError, match=r"executor.safetensors has no record of the judges that taught it"):
        judge_of_training(config, False)
    assert judge_of_training(config, True) == UNKNOWN
    base = compose(["experiment=wmsd_base", "data=world_tasks", *BENCH, f"ckpt_path={tmp_path}/base.safetensors"])
    assert judge_of_training(base, False) is None, "a base was taught by films"


def scores(value: list[list[float]], failures: dict[str, dict[str, int]]) -> Scores:
    """Two criteria of some videos; NaN is a failure."""
    given = torch.tensor(value)
    return Scores(("task", "agent"), torch.ones(2), given, given.isfinite(), failures)


NAN = float("nan")
FIRST = scores([[1.0, 2.0], [NAN, 1.0], [-1.0, -1.0], [3.0, -2.0]], {"task": {"timeout": 1}, "agent": {}})


def test_rates_are_over_valid_judgements_and_the_average_has_a_count_of_its_own() -> None:
    judged = Judged.of([FIRST], draws=100, seed=0)
    task, agent, average = judged.share("task"), judged.share("agent"), judged.average()
    assert (task.rate, task.n, task.asked, task.failures) == (pytest.approx(2 / 3), 3, 4, {"timeout": 1})
    assert task.failed == 0.25 and task.low == pytest.approx(0.2077, abs=1e-3)  # Wilson's of 2 in 3
    assert (agent.rate, agent.n) == (0.5, 4)
    assert (average.rate, average.n) == (pytest.approx((1 + 0 + 0.5) / 3), 3)
    assert [said.by["task"] for said in judged.verdicts("abcd")] == [[True], [None], [False], [True]]
    found = judged.by(["near", "far", "far", "far"])
    assert list(found) == ["far", "near"] and (found["far"]["task"].n, found["far"]["task"].rate) == (2, 0.5)


def test_several_videos_of_a_task_widen_the_interval_as_the_tasks_do() -> None:
    """Videos that always agree tell no more than one: taken for independent ones the interval would shrink."""
    value = [[1.0, 1.0] if place % 2 else [-1.0, 1.0] for place in range(40)]
    once, thrice = (Judged.of([scores(value, {})] * count, draws=2000, seed=0).share("task") for count in (1, 3))
    widths = [share.high - share.low for share in (once, thrice) if share.high is not None and share.low is not None]
    assert thrice.n == 120 and widths[1] == pytest.approx(widths[0], rel=0.15)


def baseline(path: Path, judged: Judged, **changes: Any) -> Path:
    """The file of another run with those verdicts."""
    verdicts = [{"id": said.id, "by": said.by} for said in judged.verdicts("abcd")]
    words = {"protocol": "bench", "name": "other", "checkpoint": "c" * 64, "judge": "J", "index": "i"}
    path.write_text(json.dumps(words | {"verdicts": verdicts} | changes))
    return path


def test_gains_pair_what_both_runs_have_valid_task_by_task(tmp_path: Path) -> None:
    other = Judged.of([scores([[-1.0, NAN], [1.0, 1.0], [-1.0, 1.0], [-1.0, -2.0]], {})], draws=200, seed=0)
    read = read_baseline(baseline(tmp_path / "results.json", other))
    assert read_baseline(tmp_path).verdicts == read.verdicts
    read.require("bench", "J", "i", list("abcd"), ["task", "agent"])
    found = Judged.of([FIRST], draws=200, seed=0).against(read, list("abcd")).gains
    value, low, high, n = found["task"]  # of tasks a, c and d: +1, 0, +1
    assert (value, n) == (pytest.approx(2 / 3), 3) and 0 <= low <= value <= high <= 1
    assert found["agent"][0] == pytest.approx(-1 / 3) and found["agent"][3] == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"judge": "K"}, "judged by K, not by J"), ({"protocol": "else"}, "protocol else, not bench"),
        ({"index": "k"}, "the same tasks in other words"),
        ({"verdicts": [{"id": "a", "by": {"task": [True]}}]}, r"3 of this run's tasks are not in it \(b, c, d\)"),
    ],
)  # fmt: skip
def test_a_run_on_other_tasks_or_before_another_judge_is_no_baseline(tmp_path: Path, changes: dict, said: str) -> None:
    path = baseline(tmp_path / "results.json", Judged.of([FIRST], draws=9, seed=0), **changes)
    with pytest.raises(ValueError, match=said):
        read_baseline(path).require("bench", "J", "i", list("abcd"), ["task"])


def test_a_table_without_verdicts_is_no_baseline(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"rows": [{"role": "executor", "agent": 0.5}]}))
    with pytest.raises(ValueError, match=r"holds no verdicts by task"):
        read_baseline(tmp_path)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An executor after two iterations, beside its base."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("executor")
    config = compose([*EXECUTOR, f"run_dir={folder}/run", f"cache_dir={folder}/cache"])
    save_record(config, EXECUTOR, Path(config.run_dir))
    data = build_data(config)
    fit(config, data, build_card(config, data, "executor"), prepare_start(config, data))
    return folder


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Running]:
    data = build_data(compose([*EXECUTOR, f"cache_dir={home}/cache"]))
    tasks = [task for row in data.parts["test"] if (task := task_of(row)) is not None]  # type: ignore[attr-defined]
    with judge_server(tasks, 4) as running:
        yield running


def benched(home: Path, folder: Path, server: Running, *words: str) -> dict[str, Any]:
    """The results of a whole benchmark before the server, of the executor unless `words` begin with another."""
    own = [] if words[0].startswith("experiment") else EXECUTOR
    at = "protocol.judges.endpoint.{}={}".format
    reach = [at("url", server.url), at("model", MODEL), at("retries", 0), at("encoding", "png"), at("concurrency", 1)]
    places = [f"run_dir={folder}", f"cache_dir={home}/cache", "protocol.judges.judgements=null"]
    config: DictConfig = compose([*own, *words, *BENCH, *reach, *places])
    check(config)
    evaluate(config)
    return json.loads((folder / "results.json").read_text())


def test_scores_of_other_videos_or_scales_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("id,score\na,0.5\nb,\n")
    assert read_scores(path, ["b", "a"]) == {"b": None, "a": 0.5}
    with pytest.raises(ValueError, match=r"1 tasks are not in it \(c\), 1 are of none \(b\)"):
        read_scores(path, ["a", "c"])
    path.write_text("id,score\na,50\nb,1\n")
    with pytest.raises(ValueError, match=r"the score of a is 50.0, not from 0 to 1"):
        read_scores(path, ["a", "b"])


@pytest.mark.slow
def test_videos_go_to_a_benchmarks_own_programs_and_come_back_as_scores(home: Path, tmp_path: Path) -> None:
    places = [f"run_dir={tmp_path}", f"cache_dir={home}/cache", f"ckpt_path={home}/run/checkpoints/last.ckpt"]
    words = [*EXECUTOR, "task=evaluate", "protocol=vbvr", "protocol.kinds=null", "protocol.tasks=3", *places]
    with pytest.raises(ValueError, match="make the videos first"):
        evaluate(compose([*words, f"protocol.scores={tmp_path}/scores.csv"]))
    assert evaluate(compose(words)) == {"videos": 3.0}
    ids = [task["id"] for task in json.loads((tmp_path / "tasks.json").read_text())["tasks"]]
    assert sorted(path.stem for path in (tmp_path / "videos").glob("*.mp4")) == sorted(ids) and len(ids) == 3
    (tmp_path / "scores.csv").write_text(f"id,score\n{ids[0]},0.5\n{ids[1]},1\n{ids[2]},\n")
    assert evaluate(compose([*words, f"protocol.scores={tmp_path}/scores.csv"]))["mean"] == pytest.approx(0.75)
    text = (tmp_path / "scores.md").read_text()
    assert "LTX-2" not in text.split("## Published")[0] and "n=2) | 3 |" in text and "3 tasks, not 200" in text


@pytest.mark.nightly
def test_an_executor_is_judged_over_http_and_compared_with_its_base_task_by_task(
    home: Path, server: Running, tmp_path: Path
) -> None:
    best = f"ckpt_path={home}/run/checkpoints/last.ckpt"
    server.behaviour = Behaviour(noise=15.0, faults=iter(["refuses", "nothing", "refuses"]))
    found = benched(home, tmp_path / "executor", server, best, "protocol.tasks=6")
    assert [found["rows"][0][key] for key in ("role", "n")] == ["executor", 6] and found["judge"].startswith(MODEL)
    assert sum(sum(share["failures"].values()) for share in found["shares"].values()) == 3
    for name, share in found["shares"].items():
        said = [entry["by"][name][0] for entry in found["verdicts"]]
        assert share["asked"] == 6 and share["n"] == 6 - sum(share["failures"].values()) == 6 - said.count(None)
        assert share["rate"] == pytest.approx(said.count(True) / share["n"])
    assert len(server.requests) == 18 and found["judge_of_training"] == "grid_judges"
    text = (tmp_path / "executor/results.md").read_text()
    ours, published = text.split("## Published")
    assert "LTX-2" not in ours and "LTX-2, 8 steps + WMSD" in published and "6 tasks, not 200" in ours
    assert all((tmp_path / "executor" / name).stat().st_size > 0 for name in ("rollouts.gif", "rollouts.png"))

    server.behaviour = Behaviour(noise=15.0)
    [base] = (home / "cache/teachers").glob("*/teacher.safetensors")
    words = ["experiment=wmsd_base", "module.sampler.steps.steps=2", *SMALL, f"ckpt_path={base}", "data=world_tasks"]
    told = [
        "protocol.tasks=6",
        "protocol.told=solution",
        "protocol.videos=2",
        f"protocol.against={tmp_path / 'executor'}",
    ]
    other = benched(home, tmp_path / "base", server, *words, *told)
    assert other["rows"][0]["role"] == "demonstrator" and other["rows"][0]["n"] == 12
    assert other["index"] == found["index"] and other["judge_of_training"] is None
    for name, (value, low, high, n) in other["against"]["gains"].items():
        assert low <= value <= high and n == found["shares"][name]["n"]
    with pytest.raises(ValueError, match=r"2 of its tasks are not in this run"):
        benched(home, tmp_path / "fewer", server, best, "protocol.tasks=4", f"protocol.against={tmp_path / 'executor'}")
    with pytest.raises(ValueError, match=r"told=solution is for a base"):
        benched(home, tmp_path / "told", server, best, "protocol.told=solution")


def test_a_result_without_any_verdict_is_none() -> None:
    def played(valid: bool) -> Played:
        value = torch.tensor([[torch.nan], [1.0 if valid else torch.nan]])
        scores = Scores(("task",), torch.ones(1), value, ~value.isnan(), {"task": {"no connection": 1 if valid else 2}})
        return Played("executor", torch.zeros(1, 1, 3, 4, 4, dtype=torch.uint8), scores, None, {})

    require_verdicts([played(False), played(True)])
    with pytest.raises(ValueError, match=r"none of the judgements is valid \(no connection: 4\); see that the judge"):
        require_verdicts([played(False), played(False)])
