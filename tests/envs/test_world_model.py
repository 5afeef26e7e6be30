"""Rollouts under way as values: the same as one rollout, and independent of their neighbours."""

from pathlib import Path

import pytest
import torch

from tests.tiny_world import CHUNK, tiny_world
from wm_lightning.clip import Condition, to_pixels
from wm_lightning.envs.world_model import PURPOSE, Slot, WorldModel, advance, begin
from wm_lightning.sampling.rollout import SeededNoise, rollout
from wm_lightning.tasks.environments import start_clips

SLOTS = 4
CHUNKS = 5
# Products of matrices of another size may round otherwise, and a pixel then to the value beside it.
LEVEL = 1


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> WorldModel:
    torch.set_num_threads(1)
    return tiny_world(tmp_path_factory.mktemp("world"))[0]


def moves(world: WorldModel, slots: int, seed: int) -> torch.Tensor:
    """One-hot choices for every frame of a chunk."""
    drawn = torch.randint(world.spec.dim, (slots, world.chunk), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.one_hot(drawn, world.spec.dim).float()


def rolled(world: WorldModel, rows: list[int], actions: list[torch.Tensor]) -> torch.Tensor:
    starts = start_clips(world.data, SLOTS, world.context)[torch.tensor(rows)]
    slots, video = begin(world, starts, [100 + row for row in rows]), []
    for chosen in actions:
        frames, slots = advance(world, slots, chosen[rows])
        video.append(frames)
    return torch.cat(video, 1)


def assert_near(one: torch.Tensor, other: torch.Tensor) -> None:
    assert int((one.int() - other.int()).abs().max()) <= LEVEL


def test_it_is_the_suites_rollout(world: WorldModel) -> None:
    starts = start_clips(world.data, SLOTS, world.context)
    actions = [moves(world, SLOTS, seed) for seed in range(CHUNKS)]
    stepped = rolled(world, list(range(SLOTS)), actions)
    given = starts.condition
    state = torch.cat([given.state, torch.zeros(SLOTS, CHUNKS * CHUNK, dtype=torch.int64)], 1)
    condition = Condition(torch.cat([given.actions, *actions], 1), state)
    noise = SeededNoise(0, PURPOSE, tuple(100 + row for row in range(SLOTS)))
    with torch.no_grad():
        whole = rollout(world.model, world.sampler, starts.x0, condition, world.plan, noise)
    assert stepped.float().std() > 10, "a world that shows nothing proves nothing"
    assert torch.equal(stepped, to_pixels(whole)[:, world.context :])


def test_a_slots_video_is_its_own(world: WorldModel) -> None:
    actions = [moves(world, SLOTS, seed) for seed in range(CHUNKS)]
    together = rolled(world, list(range(SLOTS)), actions)
    for row in range(SLOTS):
        assert_near(rolled(world, [row], actions)[0], together[row])
    others = [torch.cat([chosen[:1], moves(world, SLOTS - 1, 50 + number)]) for number, chosen in enumerate(actions)]
    # In a batch of the same size not a bit of it changes, whatever the others do.
    changed = rolled(world, list(range(SLOTS)), others)
    assert torch.equal(changed[0], together[0]) and not torch.equal(changed[1], together[1])


def test_slots_of_different_age_run_beside_each_other(world: WorldModel) -> None:
    starts = start_clips(world.data, SLOTS, world.context)
    old, young = begin(world, starts[:1], [1]), begin(world, starts[1:2], [2])
    alone: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    slots: dict[int, list[Slot]] = {0: old, 1: young}
    for number in range(CHUNKS):
        for row in (0, 1) if number else (0,):
            frames, slots[row] = advance(world, slots[row], moves(world, 2, number)[row : row + 1])
            alone[row].append(frames)
    frames, old = advance(world, old, moves(world, 2, 0)[:1])
    both, beside = [*old, *young], {0: [frames], 1: []}
    for number in range(1, CHUNKS):
        frames, both = advance(world, both, moves(world, 2, number))
        for row in (0, 1):
            beside[row].append(frames[row : row + 1])
    for row in (0, 1):
        assert_near(torch.cat(beside[row]), torch.cat(alone[row]))
    assert both[0].past.frame.tolist() != both[1].past.frame.tolist()


def test_what_is_no_chunk_is_refused(world: WorldModel) -> None:
    starts = start_clips(world.data, 2, world.context)
    with pytest.raises(ValueError, match=r"takes \(2, 3, 5\)"):
        advance(world, begin(world, starts, [1, 2]), moves(world, 2, 0)[:, :2])
    with pytest.raises(ValueError, match="every start needs a seed"):
        begin(world, starts, [1])


def test_vid2worlds_slots_keep_what_they_were_told(tmp_path: Path) -> None:
    """Guided towards the newest action, and told of its first frame: both travel with a slot."""
    words = ["module.action_dropout={share: 0.1, granularity: frame}", "rollout=vid2world", "rollout.window=5"]
    world, _ = tiny_world(tmp_path, *words)
    actions = [moves(world, SLOTS, seed) for seed in range(8)]
    together = rolled(world, list(range(SLOTS)), actions)
    assert world.chunk == 1 and together.shape[1] == 8
    assert_near(rolled(world, [2], actions)[0], together[2])
