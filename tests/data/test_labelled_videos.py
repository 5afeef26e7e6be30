"""Anybody's videos: cut without gap or overlap, labelled once, kept apart from held-out tasks, damage left out."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.making_films import counted, counting, film_folder, write_film
from tests.modules.making_wmsd import FRAMES, tasks
from tests.system.conftest import torn
from wm_lightning.clip import Pixels
from wm_lightning.data import labels
from wm_lightning.data.formats.video_files import BadFile, decode
from wm_lightning.data.formats.video_parts import decode_part
from wm_lightning.data.labelled_videos import LabelledVideosDataModule
from wm_lightning.rewards.reward import Failed
from wm_lightning.worlds.grid_labeller import grid_labeller

LENIENT = {"on_error": "quarantine", "max_bad_share": 0.5}


class Says:
    """Labels a clip by what `says` makes of its id, and remembers all that it was shown."""

    name = "somebody"

    def __init__(self, says: Callable[[str], str | Failed] = lambda name: f"[A]: do {name}") -> None:
        self.says, self.ids, self.batches = says, list[str](), list[tuple[int, ...]]()

    def __call__(self, films: Pixels, ids: Sequence[str]) -> Sequence[str | Failed]:
        self.ids += ids
        self.batches.append(tuple(films.shape))
        return [self.says(name) for name in ids]


def made(folder: Path, cache: Path, somebody: Any = None, **changes: Any) -> LabelledVideosDataModule:
    labeller = (lambda _: Says()) if somebody is None else lambda _: somebody
    settings: dict[str, Any] = dict(
        films=str(folder), frames=FRAMES, stride=1, decoder="pyav", alike=4.0, labeller=labeller, max_failed=0.2
    )
    return tasks(cache, kind=LabelledVideosDataModule, **(settings | changes))


def opened(folder: Path, cache: Path, somebody: Any = None, **changes: Any) -> LabelledVideosDataModule:
    data = made(folder, cache, somebody, **changes)
    data.prepare_data()
    return data


def told(data: LabelledVideosDataModule) -> dict[str, list[int]]:
    """The frames of every clip that is trained on, by its label."""
    reader, found = data.reader("train"), {}
    for place in range(len(reader)):
        film = reader.read(place, 0, reader.length(place))
        assert film.texts is not None and film.texts.solution == ("",)
        found[film.texts.instruction[0].removeprefix("[A]: do ")] = counted(film.video)
    return found


def test_clips_follow_one_another_and_share_no_frame(tmp_path: Path) -> None:
    folder = film_folder(tmp_path / "films", [13, 11])
    write_film(folder / "below/a.mp4", counting(5))
    (folder / "read.me").write_text("no video")
    (folder / "._0.mp4").write_text("what some systems leave beside a file")
    assert told(opened(folder, tmp_path, frames=4)) == {
        "0.mp4@0": [0, 1, 2, 3], "0.mp4@1": [4, 5, 6, 7], "0.mp4@2": [8, 9, 10, 11],
        "1.mp4@0": [0, 1, 2, 3], "1.mp4@1": [4, 5, 6, 7], "below/a.mp4@0": [0, 1, 2, 3],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("frames", "stride", "clips"), [(3, 2, (2, 2)), (2, 3, (2, 2)), (4, 3, (1, 1)), (6, 2, (1, 1))]
)
def test_strides_leave_frames_out_and_nothing_else(
    frames: int, stride: int, clips: tuple[int, int], tmp_path: Path
) -> None:
    """A video of 11 frames is just long enough for some of them."""
    found = told(opened(film_folder(tmp_path / "films", [13, 11]), tmp_path, frames=frames, stride=stride))
    assert found == {
        f"{video}.mp4@{clip}": [(clip * frames + frame) * stride for frame in range(frames)]
        for video in range(2) for clip in range(clips[video])
    }  # fmt: skip


def test_every_so_many_frames_are_those_of_the_whole_video(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", counting(20))
    whole = decode(path, "pyav")
    for start, stop, step in [(0, 20, 3), (2, 15, 4), (7, 8, 5), (0, 20, 1)]:
        assert np.array_equal(decode_part(path, "pyav", start, stop, step), whole[start:stop:step])
    with pytest.raises(BadFile, match=r"ends within frames 0\.\.20"):
        decode_part(path, "pyav", 0, 21, 5)


def test_validation_and_tests_are_on_the_tasks_and_clips_say_what_is_asked(tmp_path: Path) -> None:
    data = opened(film_folder(tmp_path / "films", [13, 11]), tmp_path)
    for split in ("val", "test"):
        [task] = data.clips(split, 2, 1, 2)
        assert task.texts is not None and all(task.texts.solution)
        assert {data.row(name).split for name in task.texts.ids} == {split}
    clip = next(iter(data.train_dataloader()))
    assert clip.texts is not None and clip.video.shape[:2] == (2, FRAMES) and clip.condition.prompt is not None
    prompt = data.prompter(clip.texts.instruction)
    assert bool((clip.condition.prompt.tokens == prompt.tokens).all())
    assert bool((clip.condition.state == 1).all()), "nothing but words drives a film"


def test_nothing_is_labelled_twice(tmp_path: Path) -> None:
    folder, somebody = film_folder(tmp_path / "films", [10, 10]), Says()
    first = opened(folder, tmp_path, somebody)
    assert somebody.ids == ["0.mp4@0", "0.mp4@1", "1.mp4@0", "1.mp4@1"]
    moved = shutil.copytree(folder, tmp_path / "moved", copy_function=shutil.copyfile)
    for place in (folder, moved):
        again = opened(place, tmp_path, somebody)
        assert again.labels == first.labels and again.content_hash() == first.content_hash()
    assert len(somebody.ids) == 4
    for asked, stride in ((6, 5), (8, 6)):  # as many clips, of other frames
        opened(folder, tmp_path, somebody, frames=2, stride=stride)
        assert len(somebody.ids) == asked, "other clips, the labels of before"
    write_film(folder / "2.mp4", counting(5))
    assert len(opened(folder, tmp_path, somebody).labels) == 5


def test_labels_are_asked_for_in_batches_that_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, many, few = film_folder(tmp_path / "films", [15, 10]), Says(), Says()
    whole = opened(folder, tmp_path / "a", many)
    clip = FRAMES * 3 * 12 * 12
    monkeypatch.setattr(labels, "BATCH_BYTES", 2 * clip + clip // 2)
    assert opened(folder, tmp_path / "b", few).labels == whole.labels
    assert [batch[0] for batch in many.batches] == [5] and [batch[0] for batch in few.batches] == [2, 2, 1]


def test_labels_that_failed_too_often_are_not_kept(tmp_path: Path) -> None:
    folder = film_folder(tmp_path / "films", [10, 10])
    ill = Says(lambda name: Failed("timeout") if name.endswith("1") else "[A]: b")
    with pytest.raises(ValueError, match=r"somebody labelled 2 of 4 films and failed on 2 .*timeout.*max_failed=0.2"):
        opened(folder, tmp_path, ill)
    assert not list((tmp_path / "labels").glob("*.json"))
    well = Says(lambda name: "" if name == "0.mp4@1" else "[A]: b")
    assert len(opened(folder, tmp_path, well).reader("train")) == 3 and len(well.ids) == 4


def test_videos_of_held_out_tasks_are_not_trained_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One is named like a test task's source, one shows a validation task's picture on its way; all of both goes."""
    plain = tasks(tmp_path)
    plain.prepare_data()
    rows, somebody = plain.parts, Says()
    folder = film_folder(tmp_path / "films", [10])
    write_film(folder / f"{rows['test'][0].source}.mp4", counting(10))
    for split in ("val", "train"):
        picture = np.kron(plain.tasks.picture(rows[split][0]), np.ones((2, 2, 1), np.uint8))
        video = np.resize(picture, (10, *picture.shape))
        video[:7] = 128
        write_film(folder / f"shows_{split}.mp4", video)
    data = opened(folder, tmp_path, somebody)
    trained = {data.films.name(place) for place in data.labels}
    assert trained == {"0.mp4", "shows_train.mp4"}
    assert not any(rows["test"][0].source in name for name in somebody.ids), "asked about what is not used"
    assert "left out 2 videos of val's or test's tasks" in caplog.text
    for name in trained:
        (folder / name).unlink()
    with pytest.raises(ValueError, match="all films are of val's or test's tasks"):
        opened(folder, tmp_path)


def test_damaged_and_too_short_videos_are_left_out_or_refused(tmp_path: Path) -> None:
    folder = film_folder(tmp_path / "films", [13, 5, 8, 4])
    torn(folder / "0.mp4", folder / "torn.mp4")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for strict in ({"on_error": "raise"}, {"on_error": "quarantine", "max_bad_share": 0.3}):
        with pytest.raises(
            ValueError, match=r"2 unusable(?s:.)*3\.mp4: has 4 frames, a clip takes 5 frames(?s:.)*torn"
        ):
            opened(folder, tmp_path, **strict)
    data = opened(folder, tmp_path, **LENIENT)
    assert {path.rsplit("/", 1)[1] for path in data.quarantined} == {"3.mp4", "torn.mp4"}
    assert list(told(data)) == ["0.mp4@0", "0.mp4@1", "1.mp4@0", "2.mp4@0"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(ValueError, match=r"a clip takes 5 frames every 3: it is too short"):
        opened(folder, tmp_path, stride=3)


def test_videos_damaged_since_are_replaced_while_training_and_counted(tmp_path: Path) -> None:
    folder = film_folder(tmp_path / "films", [10, 10, 10])
    whole, strict = opened(folder, tmp_path, **LENIENT), opened(folder, tmp_path, on_error="raise")
    torn(folder / "1.mp4", folder / "1.mp4")
    clips = list(whole.train_dataloader())
    names = {text for clip in clips if clip.texts is not None for text in clip.texts.ids}
    assert len(clips) == 8 and {name.split("@")[0] for name in names} == {"0.mp4", "2.mp4"}
    assert list(whole.index.damaged) == ["1.mp4"]
    with pytest.raises(BadFile, match=r"1\.mp4: .*damaged"):
        list(strict.train_dataloader())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"films": None}, "data.films=null: name the folder of your videos"),
        ({"films": "/nowhere"}, "data.films=/nowhere is not a folder"),
        ({"films": str(Path(__file__).parent)}, "holds no video; expected files that end in .mp4"),
        ({"stride": 0}, "data.stride=0 of 1 or more"),
        ({"frames": 1}, "data.frames=1 of 2 or more"),
        ({"val_frames": FRAMES}, f"data.val_frames={FRAMES} of 1 are expected"),
        ({"decoder": "eyes"}, "data.decoder=eyes is not one of"),
        ({"alike": -1.0}, "data.alike=-1.0 is a number of grey levels"),
        ({"max_failed": 1.0}, "data.max_failed=1.0 is a share"),
        ({"labeller": grid_labeller}, "knows the scenes of its own films alone"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_used_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = film_folder(tmp_path / "films", [10])
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        opened(folder, tmp_path, **changes)
