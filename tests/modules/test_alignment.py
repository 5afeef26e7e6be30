"""One convention of actions from the files to the measured rollout: an oracle that obeys the actions makes no error.

The oracle knows the map and where each clip starts. A frame is the view after the move that `actions[:, f]` names,
so data whose actions are shifted by one frame send it elsewhere.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.modules.making import FEW, FRAMES, MOVES, PATH, PLAN, data, dmd, trainer
from wm_lightning.clip import Clip, Condition, to_unit
from wm_lightning.data.worldmap import WorldMapDataModule
from wm_lightning.modules.dmd import DMDModule
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.networks.state import State, empty_state
from wm_lightning.sampling.rollout import Commit
from wm_lightning.tasks.subjects import Subject


class Oracle(nn.Module):
    """Predicts the view at the place the actions lead to; remembers places."""

    def __init__(self, clips: WorldMapDataModule) -> None:
        super().__init__()
        self.views: dict[str, Any] = {}
        for split in ("train", "val", "test"):
            reader = clips.reader(split)
            self.views[split] = [torch.from_numpy(reader._view(i).copy()) for i in reader.maps]  # type: ignore[attr-defined]

    def look(self, split: str, clip: Clip) -> None:
        """Finds map and place of every clip: those that show all of its frames."""
        found = [self._find(self.views[split], row, clip) for row in range(len(clip))]
        self.maps, self.start = [views for views, _ in found], torch.stack([place for _, place in found])

    def _find(self, maps: list[Tensor], row: int, clip: Clip) -> tuple[Tensor, Tensor]:
        places = clip.truth["position"][row]
        for views in maps:
            if torch.equal(views[places[:, 0], places[:, 1]], clip.video[row]):
                return views, places[0]
        raise AssertionError("the clip stands on no map of its split")

    def forward(
        self, x_t: Tensor, label: Tensor, condition: Condition, past: State | None = None, *, mask: Any,
        memory_only: bool = False,
    ) -> tuple[Tensor | None, State]:  # fmt: skip
        state = empty_state(len(x_t)) if past is None else past
        moves = MOVES[condition.actions.argmax(-1)]
        place, places = state.memory["place"][:, -1] if state.length else self.start, []
        for frame in range(x_t.shape[1]):
            if state.length or frame:
                limit = torch.tensor(self.maps[0].shape[:2]) - 1
                place = (place + moves[:, frame]).clamp(torch.zeros(2, dtype=torch.long), limit)
            places.append(place)
        path = torch.stack(places, dim=1)
        seen = [views[p[:, 0], p[:, 1]] for views, p in zip(self.maps, path, strict=True)]
        memory = {"place": torch.cat([state.memory["place"], path], dim=1) if state.length else path}
        return (None if memory_only else to_unit(torch.stack(seen))), state.advanced(memory, x_t.shape[1])


Made = Callable[[int], tuple[DMDModule, WorldMapDataModule, Oracle]]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def make(shift: int) -> tuple[DMDModule, WorldMapDataModule, Oracle]:
        clips = data(tmp_path / "cache", action_shift=shift)
        clips.prepare_data()
        oracle, module = Oracle(clips), dmd()
        module.student = module.average.network = oracle
        return module, clips, oracle

    return make


def error(made: Tensor, clip: Clip) -> float:
    return float((made - to_unit(clip.video)).abs().mean())


@pytest.mark.parametrize("shift", [0, 1])
def test_training_rollouts_follow_the_actions_of_the_files(made: Made, shift: int) -> None:
    module, clips, oracle = made(shift)
    clip = next(clips.clips("train", 16, FRAMES, 16))
    oracle.look("train", clip)
    window = module.generate(clip, "critic rollout", learn=False)
    assert (error(window.x, clip) == 0) == (shift == 1)
    assert torch.equal(window.condition.actions, clip.condition.actions)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("mode", ["clean", "last"])
def test_inference_rollouts_follow_the_actions_of_the_files(made: Made, shift: int, mode: Any) -> None:
    _, clips, oracle = made(shift)
    clip = next(clips.clips("test", 16, FRAMES, 16))
    oracle.look("test", clip)
    plan = replace(PLAN, commit=Commit(mode, 0.0))
    subject = Subject("student", "student", Denoiser(oracle, PATH), FEW, plan, 2, cached=True)
    video = subject.generate(clip, 1, seed=0, device=torch.device("cpu"))
    assert torch.equal(video, clip.video) == (shift == 1)


@pytest.mark.parametrize("shift", [0, 1])
def test_validation_measures_no_error_where_the_actions_are_obeyed(
    made: Made, shift: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module, clips, oracle = made(shift)
    step = DMDModule.validation_step

    def shown(self: DMDModule, clip: Clip, batch_idx: int) -> None:
        oracle.look("val", clip[: len(clip) // 2])
        step(self, clip, batch_idx)

    monkeypatch.setattr(DMDModule, "validation_step", shown)
    runner = trainer(tmp_path / "run", limit_val_batches=1.0)
    runner.validate(module, datamodule=clips, verbose=False)
    logged = {name: float(value) for name, value in runner.callback_metrics.items()}
    errors = [logged["val/action_error"], logged["val/object_error"]]
    assert logged["val/presence"] == 1
    if shift == 1:
        assert errors == [0, 0] and logged["val/excess"] == pytest.approx(0, abs=1e-6)
        assert logged["val/score"] == pytest.approx(logged["val/excess"], abs=1e-6)
    else:
        assert min(errors) > 0.2
        assert logged["val/score"] == pytest.approx(logged["val/excess"] + 0.2 * errors[0], abs=1e-6)
