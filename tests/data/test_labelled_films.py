"""Films labelled automatically: asked about once, kept where there is a label, and none of it kept where it fails."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.modules.making_wmsd import FRAMES, films
from wm_lightning.clip import Pixels
from wm_lightning.data.labelled_films import LabelledFilmsDataModule
from wm_lightning.rewards.reward import Failed
from wm_lightning.worlds.grid_reward import HasRows


class Says:
    """Labels a film by its number in the order of asking."""

    name = "somebody"

    def __init__(self, says: Callable[[int], str | Failed]) -> None:
        self.says, self.asked = says, 0

    def __call__(self, films: Pixels, ids: Sequence[str]) -> Sequence[str | Failed]:
        assert films.shape[1] == FRAMES and len(films) == len(ids)
        first, self.asked = self.asked, self.asked + len(films)
        return [self.says(number) for number in range(first, self.asked)]


def opened(cache: Path, labeller: Callable[[HasRows], object], **changes: object) -> LabelledFilmsDataModule:
    data = films(cache, labeller=labeller, **changes)
    data.prepare_data()
    return data


def test_films_have_labels_and_nothing_tells_how(tmp_path: Path) -> None:
    data = films(tmp_path)
    data.prepare_data()
    [clip] = data.clips("train", 8, FRAMES, 8)
    assert clip.texts is not None and clip.video.shape[:2] == (8, FRAMES)
    assert all(text.startswith("[") for text in clip.texts.instruction) and set(clip.texts.solution) == {""}
    solutions = {row.solution for row in data.parts["train"]}
    every = [data.reader("train").read(place, 0, 1).texts for place in range(len(data.reader("train")))]
    assert not solutions & {text for texts in every if texts is not None for text in texts.instruction}
    [task] = data.clips("val", 2, 1, 2)
    assert task.texts is not None and task.video.shape[1] == 1 and all(task.texts.solution)


def test_whoever_labels_is_asked_once_and_what_is_empty_is_left_out(tmp_path: Path) -> None:
    somebody = Says(lambda number: "" if number % 3 else f"[A]: {number}")
    data = opened(tmp_path, lambda _: somebody)
    asked = somebody.asked
    assert asked == 2 * len(data.parts["train"]) and len(data.reader("train")) == -(-asked // 3)
    film = data.reader("train").read(1, 0, 1)
    assert film.texts is not None and film.texts.instruction == ("[A]: 3",)
    again = opened(tmp_path, lambda _: somebody)
    assert somebody.asked == asked and again.labels == data.labels
    opened(tmp_path, lambda _: somebody, variants=1)
    assert somebody.asked == asked + asked // 2, "other films, the labels of before"


def test_labels_that_failed_too_often_are_not_kept(tmp_path: Path) -> None:
    ill = Says(lambda number: Failed("timeout") if number % 2 else "[A]: b")
    with pytest.raises(ValueError, match=r"somebody labelled \d+ of \d+ films and failed on .*timeout.*max_failed=0.2"):
        opened(tmp_path, lambda _: ill)
    well = Says(lambda number: "[A]: b")
    assert len(opened(tmp_path, lambda _: well).labels) == well.asked > 0
    with pytest.raises(ValueError, match="labelled 0 of"):
        opened(tmp_path, lambda _: Says(lambda number: ""), variants=1)


def test_validation_is_on_pictures(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="and 1: validation is on pictures"):
        films(tmp_path, val_frames=FRAMES)
