"""The parts of the way from pictures to tasks: measures, copies, ranks, clips, replies, and verdicts on disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.judge_server import completion, told
from tests.rewards.making import Brightness
from wm_lightning.data.from_images.asking import yes_or_no
from wm_lightning.data.from_images.filters import Filters, copies, laplacian
from wm_lightning.data.from_images.pictures import find_pictures, source_of, splits_of
from wm_lightning.data.from_images.ranking import Ranking, mean_ranks
from wm_lightning.data.from_images.settings import begin, begun, binding
from wm_lightning.data.from_images.verdicts import Verdicts
from wm_lightning.data.from_images.writing import faults_of, pairs_of, read_tasks_written
from wm_lightning.rewards.prompt import load_prompt
from wm_lightning.rewards.reward import Failed

FILTERS = Filters(
    short_side=64, least_sharpness=60.0, luminance=[25.0, 230.0], near_black=10, most_black=0.5, near_white=245,
    most_white=0.4, most_alike=2.0,
)  # fmt: skip


def flat(level: int, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    return np.full((*size, 3), level, np.uint8)


def stripes(low: int, high: int, share: float = 0.5) -> np.ndarray:
    """Columns of one pixel each, the share `share` of them dark."""
    picture = flat(high)
    picture[:, np.arange(64) % 8 < round(8 * share)] = low
    return picture


def test_measures_are_those_of_their_definition() -> None:
    found = FILTERS.measure(stripes(0, 100))
    assert found.luminance == pytest.approx(50) and found.contrast == pytest.approx(50)
    assert (found.black, found.white) == (0.5, 0.0)
    # Four dark and four light columns by turns: at their border the Laplacian is 100 or -100, elsewhere 0.
    inner = [abs(np.roll(np.repeat([0.0, 100.0] * 8, 4), s) - np.repeat([0.0, 100.0] * 8, 4))[1:-1] for s in (1, -1)]
    assert found.sharpness == pytest.approx(np.mean((inner[0] + inner[1]) ** 2), rel=0.02)
    grey = np.add.outer(np.arange(5.0) ** 2, np.arange(6.0) ** 2)
    np.testing.assert_allclose(laplacian(grey), 4.0)


def test_a_picture_is_measured_at_one_size() -> None:
    small, large = stripes(20, 200), np.repeat(np.repeat(stripes(20, 200), 3, 0), 3, 1)
    assert FILTERS.measure(small) == FILTERS.measure(large)
    # One that must be made larger has nothing as fine as its size promises.
    assert FILTERS.measure(small[::4, ::4]).sharpness < FILTERS.measure(small).sharpness
    strip = FILTERS.measure(flat(90, (2, 4000)))
    assert strip.luminance == pytest.approx(90, abs=0.1)


@pytest.mark.parametrize(
    ("picture", "fault"),
    [
        (flat(0), "too dark"), (flat(255), "too bright"), (stripes(0, 200, 0.625), "mostly black"),
        (stripes(100, 255, 0.5), "mostly white"), (flat(120), "blurred"), (stripes(60, 160), None),
    ],
)  # fmt: skip
def test_the_first_filter_that_is_not_passed_is_named(picture: np.ndarray, fault: str | None) -> None:
    assert FILTERS.fault(FILTERS.measure(picture)) == fault


def test_a_copy_is_like_an_original_and_not_like_another_copy() -> None:
    source = np.random.default_rng(0)
    first = source.integers(60, 180, 192).astype(np.uint8)
    # Each 1.5 levels from the one before: the second is a copy, the third is too far from the first.
    rows = np.stack([first, first + np.uint8(1) + (np.arange(192) % 2).astype(np.uint8), first + np.uint8(3)])
    assert copies(rows, 2.0) == {1} and copies(rows, 0.5) == set()
    many = source.integers(0, 256, (700, 192)).astype(np.uint8)
    again = np.concatenate([many, many[[5, 300, 699]], many[[5]]])
    assert copies(again, 2.0) == {700, 701, 702, 703}, "over several blocks"
    assert FILTERS.copies([]) == set()


def test_ranks_are_those_of_all_scores_and_ties_share_theirs() -> None:
    np.testing.assert_allclose(mean_ranks({"a": [3.0, 1.0, 2.0]}), [1, 0, 0.5])
    np.testing.assert_allclose(mean_ranks({"a": [1.0, 1.0, 2.0]}), [0.25, 0.25, 1])
    np.testing.assert_allclose(mean_ranks({"a": [0.0, 1.0, 2.0], "b": [9.0, float("nan"), 1.0]}), [0.5, 0.5, 0.5])
    ranking = Ranking(keep=0.5, scorer=None, text="fine")
    assert ranking.best({"a": [4.0, 1.0, 3.0, 2.0, 0.0]}) == [0, 2, 3]
    assert ranking.best({"a": [1.0, 1.0, 1.0, 1.0]}) == [0, 1], "of equal ones the earlier"
    with pytest.raises(ValueError, match="is a share over 0"):
        Ranking(keep=0.0, scorer=None, text="fine")
    assert Ranking(keep=1.0, scorer=Brightness(), text="fine").scorer is not None


@pytest.mark.parametrize(
    ("name", "folder", "prefix"),
    [
        ("clip/0001.png", "clip", "clip"), ("a/b/walk_12.png", "a/b", "a/b/walk"), ("6888_1.png", "6888", "6888"),
        ("walk-frame0040.jpg", "walk", "walk"), ("0001.png", ".", "."), ("garden.png", "garden", "garden"),
    ],
)  # fmt: skip
def test_a_picture_knows_its_clip(name: str, folder: str, prefix: str) -> None:
    assert (source_of(Path(name), "folder"), source_of(Path(name), "prefix")) == (folder, prefix)
    assert source_of(Path(name), "picture") == name


def test_every_clip_has_one_split_whatever_the_order() -> None:
    names = [f"clip{number}" for number in range(20)]
    found = splits_of(names, {"val": 0.1, "test": 0.2})
    assert found == splits_of(names[::-1], {"val": 0.1, "test": 0.2}) and set(found) == set(names)
    assert [list(found.values()).count(split) for split in ("train", "val", "test")] == [14, 2, 4]


def test_pictures_are_found_below_and_other_files_are_none(tmp_path: Path) -> None:
    for name in ("b/1.PNG", "a.jpeg", "b/c/2.webp", "b/notes.txt", "table.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [one.name for one in find_pictures(tmp_path, "folder")] == ["a.jpeg", "b/1.PNG", "b/c/2.webp"]


def tasks(**changes: Any) -> list[dict[str, Any]]:
    told_so = {"solution": "It goes there and stops.", "task_type": "navigation", "agent_type": "human"}
    return [{"agent": "Man", "task": f"go to door {number}", **told_so} | changes for number in range(8)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no list of tasks"), ("Of course! [Man] goes.", "no list of tasks"),
        (json.dumps(tasks())[:-9], "list of tasks cut short"),
        (json.dumps(tasks()).replace('"', "'"), "list of tasks is no JSON"),
        (json.dumps(tasks()[:7]), "not eight tasks"), (json.dumps(tasks() * 2), "not eight tasks"),
        (json.dumps(tasks(solution="  ")), "a task without one of its texts"),
        (json.dumps(tasks(agent_type=3)), "a task without one of its texts"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_eight_tasks_is_a_failure(text: str, reason: str) -> None:
    assert read_tasks_written(json.dumps(told(text))) == Failed(reason)


@pytest.mark.parametrize(
    "around", ["{}", "```json\n{}\n```", "<think>[{{}}] or so</think> Here: {} Enjoy!", '{{"tasks": {}}}']
)
def test_a_list_is_found_whatever_stands_around_it(around: str) -> None:
    assert read_tasks_written(json.dumps(told(around.format(json.dumps(tasks(), indent=2))))) == tasks()
    assert read_tasks_written("<html>") == Failed("malformed reply")


def test_texts_are_put_in_order_and_types_are_words_of_the_taxonomy() -> None:
    (pair, *_) = pairs_of(
        tasks(agent=" [The  man]: ", task="[The man]: go\nhome", task_type="Flying", agent_type="First-Person_View")
    )
    assert (pair.agent, pair.task, pair.prompt) == ("The man", "go home", "[The man]: go home")
    assert (pair.task_type, pair.agent_type) == ("other", "first-person view")


def test_the_form_of_a_pair_is_checked() -> None:
    def first(**changes: Any) -> str | None:
        return faults_of(pairs_of(tasks(**changes)[:1]), (5, 10))[0]

    assert first() is None
    assert first(agent="[]") == "agent without a plain name" and first(agent="A: B") == "agent without a plain name"
    assert first(task="[Man]:") == "no instruction"
    assert first(solution="It goes.") == "solution under 5 words"
    assert first(solution="It goes. " * 6) == "solution over 10 words"
    again = pairs_of([*tasks()[:2], tasks(task="GO to door 1.")[0]])
    assert faults_of(again, (5, 10)) == [None, None, "task of another pair"]


def test_yes_and_no_are_read_by_odds_or_by_words() -> None:
    prompt = load_prompt("screening", "v1")
    odds, words = yes_or_no(prompt, {"logprobs": True}), yes_or_no(prompt, {})
    assert odds(json.dumps(completion(-2.0))) == {"yes": False, "log_odds": -2.0}
    assert [words(json.dumps(told(text))) for text in ("Yes.", " **no**, it", "no", "Perhaps", "")] == [
        {"yes": True}, {"yes": False}, {"yes": False}, Failed("neither yes nor no"), Failed("neither yes nor no"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="generation.v1 is not answered by yes or no"):
        yes_or_no(load_prompt("generation", "v1"), {})


def test_verdicts_outlive_a_process_that_was_killed_within_a_line(tmp_path: Path) -> None:
    path = tmp_path / "screening.jsonl"
    before = Verdicts(path)
    before.add("a", Failed("timeout"))
    before.add("a", {"yes": True})
    before.add("b", Failed("timeout"))
    with path.open("a") as file:
        file.write('{"key": "c", "ans')
    again = Verdicts(path)
    assert again.answers == before.answers == {"a": {"yes": True}} and again.missing(["a", "b", "c"]) == ["b", "c"]
    assert again.tally(["a", "b", "c"]) == {"asked": 3, "answered": 1, "failed": {"timeout": 2}, "unanswered": 2}
    again.add("c", {"yes": False})
    assert Verdicts(path).answers == {"a": {"yes": True}, "c": {"yes": False}}
    path.write_text("{}\n")
    with pytest.raises(ValueError, match="line 1 is no verdict"):
        Verdicts(path)


def test_where_and_how_patiently_is_asked_binds_nothing(tmp_path: Path) -> None:
    values = {"asking": {"tries": 2, "endpoint": {"url": "a", "model": "b"}}, "words": [1, 2]}
    assert binding(values) == {"asking.endpoint.model": "b", "words": [1, 2]}
    assert not begun(tmp_path / "set", binding(values))
    begin(tmp_path / "set", binding(values))
    assert begun(tmp_path / "set", binding(values))
    with pytest.raises(ValueError, match=r"b was None and is 1; words was \[1, 2\] and is \[1, 3\]"):
        begun(tmp_path / "set", {**binding(values), "words": [1, 3], "b": 1})
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="name a new folder"):
        begun(tmp_path / "file", {})
