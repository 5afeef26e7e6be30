"""Every file of conf and sweeps: it composes, its targets and keys are real, and it says what it is."""

import pytest
import yaml
from omegaconf import OmegaConf

from wm_lightning.config import CONFIG_DIR, compose, grid_points
from wm_lightning.config_check import check
from wm_lightning.config_record import config_hash
from wm_lightning.environment import inherited

EXPERIMENTS = sorted(path.stem for path in (CONFIG_DIR / "experiment").glob("*.yaml"))
GRIDS = sorted(path.stem for path in (CONFIG_DIR.parent / "sweeps/ablation").glob("*.yaml"))
OTHER_SEEDS = ("seed=1", "seed=2")  # points that differ from another in nothing else


# That of tests is composed where experiments are built.
@pytest.mark.parametrize("more", [["size=small"], ["size=paper", "data=rt1"]], ids=str)
@pytest.mark.parametrize("words", [[], *([f"experiment={name}"] for name in EXPERIMENTS)], ids=str)
def test_every_experiment_is_composed_and_checked(words: list[str], more: list[str]) -> None:
    check(compose([*words, *more]))


def test_what_a_choice_is_built_upon_is_found() -> None:
    def names(choice: str) -> set[str]:
        found = inherited(CONFIG_DIR / f"{choice}.yaml")
        return {path.relative_to(CONFIG_DIR).with_suffix("").as_posix() for path in found}

    rungs = {"world", "world_film", "flow", "diffusion"}
    assert names("experiment/worldgen_flow") == {f"experiment/worldgen_{rung}" for rung in rungs}
    assert names("module/dmd") == {"module/dmd", "module/teacher", "rollout/chunkwise", "sampler/euler"}
    assert names("protocol/nwm_rollout") == {
        "protocol/nwm_rollout", "protocol/nwm_time", "protocol/_base", "metrics/weights/none",
    }  # fmt: skip
    choices = [path for path in CONFIG_DIR.rglob("*.yaml") if path.parent != CONFIG_DIR]
    assert all(path.is_file() for choice in choices for path in inherited(choice))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_is_a_claim_and_at_most_25_lines(experiment: str) -> None:
    lines = (CONFIG_DIR / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert len(lines) <= 25
    assert any(line.startswith("#") and "@package" not in line for line in lines), "the claim is missing"
    assert f"name: {experiment}" in lines


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("vid2world", ["module", "module.start.module"]), ("vid2world_base", ["module"]),
        ("vid2world_nag", ["module", "module.start.module"]), ("vid2world_scratch", ["module"]),
        ("vid2world_dmd", ["module.teacher.recipe", "module.teacher.recipe.start.module"]),
    ],
)  # fmt: skip
def test_at_the_published_size_no_part_is_trained_as_a_small_one(name: str, places: list[str]) -> None:
    config = compose([f"experiment={name}", "size=paper"])
    for place in places:
        part = OmegaConf.select(config, place)
        found = (part.iterations, part.batch_size, part.optimizer.lr, part.clip_norm, part.schedule.final)
        assert found == (100_000, 16, 1e-5, 0.5, 1.0), place


@pytest.mark.parametrize("grid", GRIDS)
def test_every_point_of_every_grid_is_composed_and_checked(grid: str) -> None:
    # A saved point keeps its experiment and its own values, so nothing else may hang on the grid.
    content = yaml.safe_load((CONFIG_DIR.parent / f"sweeps/ablation/{grid}.yaml").read_text())
    assert content.keys() | {"name"} == {"name", "defaults", "hydra"}
    # A grid over experiments leaves them their names.
    assert ("name" in content) != ("experiment" in content["hydra"]["sweeper"]["params"])
    points = [point for point in grid_points(grid) if not any(word in point for word in OTHER_SEEDS)]
    assert len(points) > 1
    configs = [compose([f"ablation={grid}", "size=debug", *point]) for point in points]
    for config in configs:
        check(config)
    assert len({config_hash(config) for config in configs}) == len(points), "two points are the same run"


@pytest.mark.slow
def test_every_file_is_reachable() -> None:
    """A YAML whose targets fail the check as it stands would be found only by whoever chooses it."""
    for path in sorted(CONFIG_DIR.glob("*/[!_]*.yaml")):
        group = path.parent.name
        if group not in ("experiment", "size", "protocol"):  # composed by tests of their own
            compose([f"{group}={path.stem}"])


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_what_an_experiment_states_holds_for_data_with_settings_of_their_own(experiment: str) -> None:
    stated = OmegaConf.load(CONFIG_DIR / "experiment" / f"{experiment}.yaml")
    composed_config = compose([f"experiment={experiment}", "data=rt1"])
    for group in ("module", "sampler", "rollout", "data"):
        if group in stated:
            found = OmegaConf.masked_copy(composed_config, [group])
            assert OmegaConf.merge(found, {group: stated[group]}) == found, group
