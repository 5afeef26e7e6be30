"""task=evaluate protocol=policy: what it writes, how it adds up, and what it refuses."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image

from tests.tiny_run import NETWORK, QUIET, TRAINING, WORLD
from tests.tiny_world import FEW, PUSHER, checkpoint
from wm_lightning.config import compose
from wm_lightning.config_check import check
from wm_lightning.results import policies as words
from wm_lightning.tasks.evaluate import evaluate
from wm_lightning.tasks.policy_stage import horizon_of
from wm_lightning.tasks.policy_tally import against_truth, judged, shares

PRESETS = ("policy", "policy_planning", "vid2world_policies")
SMALL = ["protocol=policy", "size=debug", "protocol.decision=null", "protocol.starts=3"]
DATA = [*PUSHER, "data.world.length=30", "data.world.episodes={train: 12, val: 3, test: 4}"]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("size", ["debug", "small", "paper"])
def test_presets_are_composed_and_checked(name: str, size: str) -> None:
    config = compose(["task=evaluate", f"protocol={name}", "data=rt1", f"size={size}"])
    check(config)
    node = config.protocol
    assert node.name == name and set(node.films) <= set(node.policies) and node.paper.source
    assert name == "vid2world_policies" or len(node.policies) >= 8
    check(compose(["task=clone_policy", "data=rt1", f"size={size}"]))


def test_vid2worlds_has_three_checkpoints_forty_frames_and_a_window_of_ten() -> None:
    node = compose(["protocol=vid2world_policies", "data=rt1"]).protocol
    assert (list(node.policies), node.horizon, node.window) == (["begin", "fifteen_percent", "converged"], 40, 10)
    lengths = [policy.iterations for policy in node.policies.values()]
    assert lengths[1] == 0.15 * lengths[2]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    torch.set_num_threads(1)
    return checkpoint(tmp_path_factory.mktemp("policies"), *SMALL, data=DATA)


@pytest.fixture(scope="module")
def result(config: DictConfig, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    folder = tmp_path_factory.mktemp("other")
    checkpoint(folder, *SMALL, data=DATA, seed=1)
    said = [*NETWORK, *DATA, *TRAINING, *QUIET, *FEW, "experiment=teacher", "size=debug", "rollout=framewise"]
    config.protocol.against = [" ".join(map(shlex.quote, [str(folder / "teacher.safetensors"), *said]))]
    measured = evaluate(config)
    found = json.loads((Path(config.run_dir) / "results.json").read_text())
    assert measured["mmrv"] == found["models"][0]["mmrv"]
    return found


def test_every_policy_acts_in_every_world(config: DictConfig, result: Mapping[str, Any]) -> None:
    names = list(config.protocol.policies)
    assert len(names) >= 8 and list(result["real"]) == names
    assert [model["chunk"] for model in result["models"]] == [3, 1]
    assert len({model["checkpoint"] for model in result["models"]}) == 2
    for rows in (result["real"], *(model["policies"] for model in result["models"])):
        for row in rows.values():
            assert row["n"] == 3 and row["low"] <= row["rate"] <= row["high"]
            assert sum(block["n"] for block in row["by_block"].values()) == 3
            assert row["world_seconds"] > 0
    assert (result["horizon"], result["decision"], result["starts"]) == (6, 3, 3)
    count = 3 * len(names)
    assert result["judge"]["n"] == count and all(model["same_actions"]["n"] == count for model in result["models"])
    first, second = result["models"]
    assert first["with_first"] is None and second["with_first"]["pearson"]["n"] == len(names)
    assert first["times_faster_than_first"] == 1
    for key in ("revision", "config_hash", "content", "machine"):
        assert result[key], key
    assert "wm_lightning/envs/scripted.py" in result["code"]


def test_table_plot_and_film_are_written(config: DictConfig, result: Mapping[str, Any]) -> None:
    folder = Path(config.run_dir)
    page = (folder / "results.md").read_text()
    for text in (*config.protocol.policies, *(model["name"] for model in result["models"]), "MMRV", "simulated-pusher"):
        assert text in page, text
    with Image.open(folder / "policies.png") as plot, Image.open(folder / "policies.gif") as film:
        assert plot.width > plot.height and film.n_frames == 7  # type: ignore[attr-defined]


def test_what_cannot_be_compared_is_refused(config: DictConfig, tmp_path: Path) -> None:
    def changed(**changes: Any) -> DictConfig:
        other = config.copy()
        for key, value in changes.items():
            other.protocol[key] = value
        return other

    for said, changes in (
        ("protocol.decision=2: .* makes 3 frames at a time", {"decision": 2}),
        ("protocol.horizon=2 in decisions of 3 actions is 0 frames", {"horizon": 2}),
    ):
        with pytest.raises(ValueError, match=said):
            evaluate(changed(against=[], **changes))
    with pytest.raises(InstantiationException, match="2 at least can be ranked"):
        evaluate(changed(policies={"scripted": config.protocol.policies.scripted}, films=[]))
    with pytest.raises(InstantiationException, match=r"protocol\.films names \['nobody'\]"):
        evaluate(changed(films=["nobody"]))
    elsewhere = checkpoint(tmp_path, "protocol=policy", "size=debug", data=WORLD)
    with pytest.raises(ValueError, match="needs the pusher's simulator"):
        evaluate(elsewhere)


def test_rates_and_ranks_add_up() -> None:
    targets = np.array([0, 0, 1, 1])
    real = {"good": np.array([1, 1, 1, 1], bool), "fair": np.array([1, 1, 0, 0], bool), "bad": np.zeros(4, bool)}
    model = {"good": np.array([1, 1, 1, 0], bool), "fair": np.array([1, 0, 0, 0], bool), "bad": np.zeros(4, bool)}
    assert shares(real, targets)["fair"]["by_block"]["green"]["rate"] == 1.0
    found = against_truth(real, model, targets, draws=10, seed=0)
    assert (found["spearman"]["value"], found["spearman"]["p"]) == (pytest.approx(1), pytest.approx(1 / 3))
    # 1, 0.5, 0 against 0.75, 0.25, 0.
    assert found["mmrv"] == 0 and found["mean_gap"] == pytest.approx(0.5 / 3)
    assert found["points"]["pearson"]["n"] == 6
    assert judged(model, real) == {
        "true_yes": 4, "false_yes": 0, "false_no": 2, "true_no": 6, "n": 12, "agreement": 10 / 12, "precision": 1.0,
        "recall": 4 / 6, "kappa": pytest.approx((10 / 12 - 0.5) / 0.5),
    }  # fmt: skip


def test_words_say_how_sure_an_order_is(result: Mapping[str, Any]) -> None:
    model = {**result["models"][0], "spearman": {"value": 0.9, "p": 0.002, "n": 11}, "mmrv": 0.01}
    other = {**result["models"][1], "spearman": {"value": None, "p": None, "n": 11}}
    first, second = words.verdict({**result, "models": [model, other]})
    assert "Spearman's 0.90 (surely beyond chance, p = 0.002), MMRV 0.010" in first
    assert "no order of policies can be told" in second
    slow = {**model, "name": "other", "spearman": {"value": 0.5, "p": 0.33, "n": 3}, "times_faster_than_first": 6.0}
    _, third = words.verdict({**result, "models": [model, slow]})
    assert "not surely" in third and f"6.0 times as fast as {model['name']}" in third


def test_an_episode_is_whole_decisions() -> None:
    assert horizon_of([], 40, 3) == 39
    assert instantiate(compose(["protocol=policy"]).protocol.goal).hold == 2
