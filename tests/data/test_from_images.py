"""A folder of pictures becomes WorldTasks: the whole way against a server, and every part of it by itself."""

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import chain, cycle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image, ImageFilter

from tests.judge_server import MODEL, Running, judge_server
from tests.task_writer import REPEATED, UNFINISHED, stage_of
from wm_lightning.config import compose
from wm_lightning.config_check import check
from wm_lightning.data.formats.world_tasks import TABLE, read_tasks
from wm_lightning.data.world_tasks import WorldTasksDataModule
from wm_lightning.worlds.grid_tasks import GridTasks, Task

CELL = 32  # pictures of 192 x 192, at which the filters measure here
WORLD = GridTasks(seed=3, frames=12, most_walls=8, tasks_per_scene=8, slack=0)
SCENES = [tasks for number in range(40) if len(tasks := WORLD.scene("train", number)) == 8][:12]
CLIPS = 6
# What is wrong with a picture -> the filter that must remove it, and how many there are.
BAD = {
    "black": "too dark", "white": "too bright", "half_black": "mostly black", "half_white": "mostly white",
    "blurred": "blurred", "cut": "damaged", "empty": "damaged", "twin": "copy", "jpeg": "near copy",
    "noise": "screening",
}  # fmt: skip


def picture(tasks: list[Task]) -> Image.Image:
    return Image.fromarray(tasks[0].picture(CELL))


def fill(root: Path) -> Path:
    """Twelve scenes in six folders, one of each bad picture among them, and a file that is no picture."""
    for number, tasks in enumerate(SCENES):
        folder = root / f"clip{number % CLIPS}"
        folder.mkdir(parents=True, exist_ok=True)
        picture(tasks).save(folder / f"{number:04d}.png")
    source, bad = np.random.default_rng(0), root / "clip1"
    noise = np.kron(source.integers(0, 256, (32, 32, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    scene = np.array(picture(SCENES[0]))
    scene[:, :150] = 0
    half = noise // 2 + 64
    half[:, :150] = 255
    for name, pixels in {"black": noise * 0, "white": noise * 0 + 255, "half_black": scene, "half_white": half}.items():
        Image.fromarray(pixels).save(bad / f"{name}.png")
    Image.fromarray(noise).save(bad / "noise.png")
    picture(SCENES[2]).filter(ImageFilter.GaussianBlur(8)).save(bad / "blurred.png")
    whole = (root / "clip3/0003.png").read_bytes()
    (bad / "cut.png").write_bytes(whole[: len(whole) // 2])
    (bad / "empty.png").write_bytes(b"")
    (root / "clip5/twin.png").write_bytes(whole)
    picture(SCENES[4]).save(root / "clip5/jpeg.jpg", quality=95)
    (root / "notes.txt").write_text("no picture")
    return root


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("frames"))


@pytest.fixture
def server() -> Iterator[Running]:
    with judge_server([task for tasks in SCENES for task in tasks], CELL) as running:
        running.behaviour.careless = True
        yield running


@cache
def composed() -> DictConfig:
    return compose(["task=convert", "data=world_tasks", "from=images"])


def config_of(frames: Path, into: Path, server: Running, **changes: Any) -> DictConfig:
    config = composed().copy()
    config.data.root, config.task.into = str(frames), str(into)
    config.data.val_share, config.data.test_share = 0.2, 0.2
    given = {
        "words": [5, 140], "ranking.keep": 1.0, "asking.endpoint.url": server.url, "asking.endpoint.model": MODEL,
        "asking.endpoint.concurrency": 4, "asking.endpoint.retries": 0, "asking.endpoint.backoff": 0.0,
        "asking.endpoint.timeout": 600.0, "asking.tries": 1, "filters.short_side": 256,
    }  # fmt: skip
    for name, value in {**given, **changes}.items():
        OmegaConf.update(config.task.images, name, value)
    check(config)
    return config


def convert(frames: Path, into: Path, server: Running, **changes: Any) -> dict[str, float]:
    config = config_of(frames, into, server, **changes)
    return instantiate(config.task)(config)


def asked(server: Running) -> Counter[str | None]:
    """How often every stage asked, the first question of all apart, which only tries the server."""
    stages = [stage_of(body["messages"][0]["content"][-1]["text"]) for body in server.requests[1:]]
    return Counter(stages)


def report_of(into: Path) -> dict[str, Any]:
    return json.loads((into / "report.json").read_text())


def opened(into: Path) -> WorldTasksDataModule:
    words = [
        "data=world_tasks",
        f"data.root={into}",
        "data.subset=mine",
        "data.batch_size=4",
        "data.val_clips=4",
        "data.train_batches=2",
    ]
    return instantiate(compose(words).data, _convert_="all")


def removed_by(into: Path) -> dict[str, str]:
    lines = [json.loads(line) for line in (into / "verdicts/removed.jsonl").read_text().splitlines()]
    return {line["picture"]: line["removed_by"] for line in lines if "picture" in line}


def test_every_stage_removes_what_it_shall_and_the_rest_is_a_set(frames: Path, server: Running, tmp_path: Path) -> None:
    into = tmp_path / "set"
    found = convert(frames, into, server)
    assert found == {"tasks": 72, "pictures": 12, "found": 22, "unanswered": 0}
    names = {Path(name).stem: by for name, by in removed_by(into).items()}
    assert names == BAD
    report = report_of(into)
    assert {name: count for name, count in report["pictures"]["removed"].items() if count} == Counter(BAD.values())
    # Of eight tasks a picture one is written twice, which the form shows, and one breaks off, which grammar shows.
    assert report["tasks"] == {"written": 96, "removed": {"task of another pair": 12, "grammar": 12}, "kept": 72}
    assert asked(server) == {"screening": 13, "generation": 12, "grammar": 84}
    assert {stage: tally["asked"] for stage, tally in report["asked"].items()} == asked(server)
    assert report["made_by"]["model"] == MODEL
    assert report["made_by"]["prompts"] == ["screening.v1", "generation.v1", "grammar.v1"]

    rows = read_tasks(into).rows
    written = Counter((row.prompt, row.solution, row.task_type) for row in rows)
    left = [
        task for tasks in SCENES for place, task in enumerate(tasks) if place not in (UNFINISHED, REPEATED)
    ]  # fmt: skip
    assert written == Counter((task.prompt, task.solution, task.category) for task in left)
    assert report["task_type"] == Counter(row.task_type for row in rows) and report["agent_type"] == {"object": 72}
    assert {row.id.rsplit("_", 1)[1] for row in rows} == {"0", "1", "3", "4", "6", "7"}
    quality = pq.read_table(into / TABLE).to_pylist()[0]["quality"]
    assert quality["sharpness"] > 60 and quality["aesthetic"] is None
    page = (into / "report.md").read_text()
    assert "| near copy | 1 | 13 |" in page and "| screening | 1 | 12 |" in page and "| interaction |" in page


def test_no_clip_is_in_two_splits_and_the_set_is_read_as_any_other(
    frames: Path, server: Running, tmp_path: Path
) -> None:
    convert(frames, tmp_path / "set", server)
    data = opened(tmp_path / "set")
    data.prepare_data()
    sources = {split: {row.source for row in rows} for split, rows in data.parts.items()}
    assert {split: len(found) for split, found in sources.items()} == {"train": 4, "val": 1, "test": 1}
    assert set.union(*sources.values()) == {f"clip{number}" for number in range(CLIPS)}
    clip = next(iter(data.train_dataloader()))
    assert clip.video.shape == (4, 1, 3, 24, 24) and clip.texts is not None
    assert all(data.row(name).split == "train" for name in clip.texts.ids)
    splits = report_of(tmp_path / "set")["splits"]
    assert {split: counts["tasks"] for split, counts in splits.items()} == {"train": 48, "val": 12, "test": 12}


@pytest.mark.usefixtures("interrupts_heeded")
def test_an_interrupted_run_goes_on_and_asks_what_is_missing(frames: Path, server: Running, tmp_path: Path) -> None:
    whole, into = tmp_path / "whole", tmp_path / "set"
    convert(frames, whole, server)
    complete = [*server.requests]
    server.requests.clear()

    def interrupt(number: int) -> float:
        if number not in (7, 20, 50):  # within each of the three stages
            return 0.0
        os.kill(os.getpid(), signal.SIGINT)
        return 30.0  # the answer never arrives

    server.behaviour.latency = interrupt
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            convert(frames, into, server, **{"asking.endpoint.concurrency": 1})
        assert not (into / TABLE).exists()
    convert(frames, into, server, **{"asking.endpoint.concurrency": 1})
    # The three that were interrupted are asked again, and nothing else.
    assert len(server.requests) == len(complete) + 3
    assert read_tasks(into).rows == read_tasks(whole).rows and report_of(into) == report_of(whole)
    requests = len(server.requests)
    convert(frames, into, server)
    assert len(server.requests) == requests and report_of(into) == report_of(whole)


def test_what_cannot_be_read_is_counted_and_asked_again(frames: Path, server: Running, tmp_path: Path) -> None:
    into, behaviour = tmp_path / "set", server.behaviour
    behaviour.aimed = "generation"
    behaviour.faults = iter([None, "seven", "chats", "breaks_off", "half", "refuses", "http 500"])
    found = convert(frames, into, server)
    assert found == {"tasks": 36, "pictures": 6, "found": 22, "unanswered": 6}
    report = report_of(into)
    reasons = (
        "not eight tasks",
        "no list of tasks",
        "list of tasks cut short",
        "malformed reply",
        "refused",
        "http 500",
    )
    failed = dict.fromkeys(reasons, 1)
    assert report["asked"]["generation"] == {"asked": 12, "answered": 6, "unanswered": 6, "failed": failed}
    assert report["pictures"]["removed"]["no answer yet"] == 6 and report["pictures"]["kept"] == 6
    before, first = len(server.requests), {row.id for row in read_tasks(into).rows}
    # Once more: one of the six fails in both tries of this run, with another seed each.
    behaviour.faults = iter(["chats", None, None, None, None, None, "chats"])
    assert convert(frames, into, server, **{"asking.tries": 2})["unanswered"] == 1
    seeds = [
        body["seed"]
        for body in server.requests[before:]
        if stage_of(body["messages"][0]["content"][-1]["text"]) == "generation"
    ]
    assert seeds == [1] * 6 + [2] and {row.id for row in read_tasks(into).rows} > first
    assert convert(frames, into, server)["unanswered"] == 0
    assert report_of(into)["asked"]["generation"]["asked"] == 12 + 7 + 1
    assert convert(frames, tmp_path / "whole", server) == {"tasks": 72, "pictures": 12, "found": 22, "unanswered": 0}
    assert read_tasks(into).rows == read_tasks(tmp_path / "whole").rows


@pytest.mark.parametrize("stage", ["screening", "grammar"])
def test_a_failure_is_no_yes(frames: Path, server: Running, tmp_path: Path, stage: str) -> None:
    server.behaviour.aimed = stage
    # The first question of all only tries the server.
    server.behaviour.faults = chain([None] if stage == "screening" else [], cycle(["muses", "silent"]))
    with pytest.raises(ValueError, match=r"no task is left of 22 pictures; .*report.md says what removed them"):
        convert(frames, tmp_path / "set", server, **{"asking.stop_after": 1000})
    report = report_of(tmp_path / "set")
    waiting = 13 if stage == "screening" else 12
    assert report["pictures"]["kept"] == 0 and report["pictures"]["removed"]["no answer yet"] == waiting
    assert set(report["asked"][stage]["failed"]) == {"neither yes nor no", "no log-probabilities"}
    assert not (tmp_path / "set" / TABLE).exists()


def test_a_server_that_answers_nothing_more_ends_the_run(frames: Path, server: Running, tmp_path: Path) -> None:
    server.behaviour.aimed = "generation"
    server.behaviour.faults = iter([None] * 3 + ["http 503"] * 5)
    patience = {"asking.stop_after": 5, "asking.endpoint.concurrency": 1}
    with pytest.raises(
        ValueError, match=r"(?s)5 questions in a row got no answer from http.*5 x http 503.*goes on from here"
    ):
        convert(frames, tmp_path / "set", server, **patience)
    assert convert(frames, tmp_path / "set", server, **patience)["tasks"] == 72
    assert report_of(tmp_path / "set")["asked"]["generation"]["asked"] == 12 + 5


def test_a_server_without_log_probabilities_is_read_by_its_words(frames: Path, server: Running, tmp_path: Path) -> None:
    server.behaviour.always = "bare"
    with pytest.raises(ValueError, match=r"no log-probabilities\), expected yes or no .*task.images.logprobs=null"):
        convert(frames, tmp_path / "set", server)
    assert not (tmp_path / "set").exists()
    before, words = len(server.requests), {"logprobs": None, "judging.max_tokens": 4}
    server.behaviour.always = None
    assert convert(frames, tmp_path / "set", server, **words)["tasks"] == 72
    judged = [body for body in server.requests[before:] if "seed" not in body]
    assert all("logprobs" not in body and body["max_tokens"] == 4 for body in judged)


def test_the_best_share_is_kept(frames: Path, server: Running, tmp_path: Path) -> None:
    found = convert(frames, tmp_path / "set", server, **{"ranking.keep": 0.5})
    # Half of the thirteen that pass the filters, the larger half; one of them may be the unfit one.
    assert report_of(tmp_path / "set")["pictures"]["removed"]["rank"] == 6 and 6 <= found["pictures"] <= 7
    assert asked(server)["screening"] == 7


def refusals(frames: Path, folder: Path) -> Mapping[str, tuple[dict[str, Any], str]]:
    """What is changed of `data` and `task`, and what is said."""
    (folder / "nothing").mkdir()
    (folder / "other").mkdir()
    (folder / "other/mine.txt").write_text("mine")
    (folder / "flat").mkdir()
    for number in range(3):
        shutil.copy(frames / f"clip0/{0:04d}.png", folder / f"flat/walk_{number}.png")
    return {
        "no root": ({"data.root": None}, "from=images needs data.root=FOLDER"),
        "no folder": ({"data.root": str(folder / "none")}, "none is not a folder; from=images needs one that holds"),
        "no pictures": ({"data.root": str(folder / "nothing")}, r"nothing holds no picture \(\.bmp"),
        "one clip": ({"data.root": str(folder / "flat")}, r"are of 1 clips \(walk\), one each is needed"),
        "not empty": ({"task.into": str(folder / "other")}, "other is there already and holds no settings.json"),
        "inside": ({"task.into": str(frames / "set")}, "among the pictures; name a folder elsewhere"),
        "no target": ({"task.into": None}, "from=images needs task.into=FOLDER"),
        "other form": ({"task.to": "mp4"}, "leave task.to=mp4 out"),
        "nobody there": ({"task.images.asking.endpoint.url": "http://127.0.0.1:9/v1"}, "no connection.*start a server"),
    }  # fmt: skip


def test_what_cannot_work_is_refused_before_anything_is_begun(frames: Path, server: Running, tmp_path: Path) -> None:
    for name, (changes, said) in refusals(frames, tmp_path).items():
        config = config_of(frames, tmp_path / "set", server)
        for key, value in changes.items():
            OmegaConf.update(config, key, value)
        with pytest.raises(ValueError, match=said):
            instantiate(config.task)(config)
        assert not (tmp_path / "set").exists() and not server.requests, name
    server.behaviour.faults = iter(["http 404"])
    with pytest.raises(ValueError, match=r"http 404\).*asking.endpoint.model=NAME"):
        convert(frames, tmp_path / "set", server)
    assert not (tmp_path / "set").exists()


def test_a_folder_is_continued_with_its_own_settings_alone(frames: Path, server: Running, tmp_path: Path) -> None:
    convert(frames, tmp_path / "set", server)
    before = len(server.requests)
    with pytest.raises(ValueError, match=r"task.images.filters.least_sharpness was 60.0 and is 70.0; give those"):
        convert(frames, tmp_path / "set", server, **{"filters.least_sharpness": 70.0})
    with pytest.raises(ValueError, match=r"asking.endpoint.model was 'grid-program' and is 'other'"):
        convert(frames, tmp_path / "set", server, **{"asking.endpoint.model": "other"})
    convert(frames, tmp_path / "set", server, **{"asking.batch": 3})
    assert len(server.requests) == before
