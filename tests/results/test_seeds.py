"""Groups of one name are told apart by what they were run with, and by nothing else."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from wm_lightning.results.freshness import Freshness
from wm_lightning.results.results import Results
from wm_lightning.results.seeds import Group, Run, groups

FRESH = Freshness(False, "")


def run(name: str, words: Sequence[str] | None, *, family: str, seed: int = 0) -> Run:
    extra = {"family": family} | ({} if words is None else {"overrides": list(words)})
    result = Results(
        rows=(), name=name, data="simulated", world="simulated-rt1", config_hash=f"{family}{seed}", revision="unknown",
        seconds=1.0, seed=seed, clips=8, context=1, horizon=12, chunk=1, drift_of="PSNR", machine="2 threads",
        extractor_hash="e" * 64, extra=extra,
    )  # fmt: skip
    return Run(Path(f"{name}/{family}/{seed}"), result, FRESH)


def labels(*runs: Run) -> list[str]:
    return [group.label for group in groups(runs)]


def test_points_of_a_grid_are_told_apart_by_their_own_overrides() -> None:
    words = ["experiment=vid2world", "data=rt1", "module.iterations=400"]
    shift = run("vid2world", [*words, "module.transfer.mode=shift"], family="a")
    masked = run("vid2world", [*words, "module.transfer.mode=masked", "module.optimizer.lr=0.01"], family="b")
    assert labels(shift, masked) == ["vid2world (mode=shift)", "vid2world (mode=masked, lr=0.01)"]
    assert labels(masked) == ["vid2world"], "with none to be told from, a name is enough"


def test_what_one_was_run_without_tells_the_other() -> None:
    plain = run("vid2world", ["experiment=vid2world"], family="a")
    longer = run("vid2world", ["experiment=vid2world", "+network.heads=2", "~callbacks.progress"], family="b")
    assert labels(plain, longer) == ["vid2world", "vid2world (heads=2, progress=)"]


def test_others_of_other_names_change_no_label() -> None:
    one = run("vid2world_nag", ["module.transfer.mode=shift"], family="a")
    other = run("vid2world", ["module.transfer.mode=masked"], family="b")
    assert labels(one, other) == ["vid2world_nag", "vid2world"]


@pytest.mark.parametrize(
    "word",
    [
        "seed=1", "run_dir=/elsewhere", "ckpt_path=last", "experiment=x", "ablation=y", "size=debug", "task=evaluate",
        "logger=wandb", "tags=[mine]", "cache_dir=/fast", "launcher=slurm", "data.num_workers=4", "estimate.say=false",
        "compute.threads=1", "+logger.csv.version=1",
    ],
)  # fmt: skip
def test_places_and_names_of_runs_tell_nothing(word: str) -> None:
    shift = run("vid2world", ["module.transfer.mode=shift", word], family="a")
    masked = run("vid2world", ["module.transfer.mode=masked"], family="b")
    assert labels(shift, masked) == ["vid2world (mode=shift)", "vid2world (mode=masked)"]


def test_seeds_of_a_point_stay_one_group_and_old_results_keep_their_name() -> None:
    shift = [run("vid2world", ["module.transfer.mode=shift", f"seed={n}"], family="a", seed=n) for n in range(2)]
    old = run("vid2world", None, family="b")
    found: tuple[Group, ...] = groups([*shift, old])
    assert [(group.label, len(group.runs)) for group in found] == [("vid2world (mode=shift)", 2), ("vid2world", 1)]
