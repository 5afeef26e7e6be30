"""What a judge sees and is asked."""

import re

import numpy as np
import pytest
import torch

from tests.judge_server import decoded
from tests.rewards.making import TEXTS, asking, films
from wm_lightning.rewards.frames import data_url, shown, uniform
from wm_lightning.rewards.prompt import FOLDER, FORCED, load_prompt
from wm_lightning.rewards.reward import Failed, Verdict

CRITERIA = ("task", "consistency", "agent", "screening", "grammar", "following", "physics")


@pytest.mark.parametrize(("frames", "count"), [(121, 16), (17, 16), (16, 16), (9, 16), (2, 16), (30, 2)])
def test_frames_are_spread_evenly_from_the_first_to_the_last(frames: int, count: int) -> None:
    places = uniform(frames, count)
    assert places[0] == 0 and places[-1] == frames - 1 and len(places) == min(frames, count)
    assert len(set(places)) == len(places) and np.ptp(np.diff(places)) <= 1


def test_a_single_picture_is_shown_once_and_too_few_places_are_refused() -> None:
    assert uniform(1, 16) == [0]
    with pytest.raises(ValueError, match="the first and the last"):
        uniform(9, 1)


def test_large_frames_become_smaller_and_small_ones_stay() -> None:
    video = torch.randint(0, 256, (5, 3, 60, 100), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert shown(video, 3, 30).shape == (3, 30, 50, 3)
    kept = shown(video, 3, 60)
    np.testing.assert_array_equal(kept, video[[0, 2, 4]].permute(0, 2, 3, 1).numpy())


def test_png_keeps_every_pixel_and_jpeg_says_what_it_is() -> None:
    picture = shown(films()[0], 2, 448)[0]
    np.testing.assert_array_equal(decoded(data_url(picture, "png")), picture)
    address = data_url(picture, "jpeg")
    assert address.startswith("data:image/jpeg;base64,/9j/") and decoded(address).shape == picture.shape


@pytest.mark.parametrize("criterion", CRITERIA)
def test_criteria_end_in_a_forced_word(criterion: str) -> None:
    prompt = load_prompt(criterion, "v1")
    assert prompt.yes_or_no and prompt.text.count(FORCED) == 1 and prompt.name == f"{criterion}.v1"


def test_every_prompt_is_filled_in_whole() -> None:
    files = sorted(FOLDER.glob("*.txt"))
    assert {file.stem for file in files} == {f"{name}.v1" for name in (*CRITERIA, "generation", "label", "solution")}
    for file in files:
        criterion, version = file.stem.split(".")
        prompt = load_prompt(criterion, version)
        text = prompt.question("[Somebody]: pay $5 {now}", "Somebody $pays.")
        assert not re.search(r"\$(instruction|solution)", text)
        assert ("[Somebody]: pay $5 {now}" in text) == (criterion not in ("screening", "generation", "label"))


def test_what_is_no_question_of_yes_or_no_is_no_reward() -> None:
    with pytest.raises(ValueError, match=r"generation\.v1 is not answered by yes or no"):
        asking("generation")
    with pytest.raises(ValueError, match=r"there are agent\.v1, .*task\.v1"):
        asking("beauty")
    with pytest.raises(ValueError, match="frames=1 of 2 or more"):
        asking("task", frames=1)


def test_each_video_is_asked_about_with_its_own_text() -> None:
    videos = films()[:3]
    questions = [*asking("task", frames=4).questions(videos, TEXTS[:3])]
    for question, video, instruction in zip(questions, videos, TEXTS.instruction[:3], strict=True):
        assert instruction in question.text
        np.testing.assert_array_equal(question.pictures[-1], video[-1].permute(1, 2, 0).numpy())
    with pytest.raises(ValueError, match="zip"):
        list(asking("task").questions(videos, TEXTS[:2]))


def test_a_failure_has_no_value_whatever_it_was() -> None:
    verdict = Verdict.of([1.5, Failed("timeout"), float("inf"), 0.0, float("nan")])
    assert verdict.valid.tolist() == [True, False, False, True, False]
    assert verdict.value[[1, 2, 4]].isnan().all() and verdict.value[[0, 3]].tolist() == [1.5, 0.0]
    assert verdict.reasons == ("", "timeout", "not finite", "", "not finite")
    assert verdict.met.tolist() == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("value", "valid", "reasons"),
    [(0.0, False, "timeout"), (float("nan"), True, ""), (float("nan"), False, ""), (1.0, True, "timeout")],
)
def test_a_verdict_that_contradicts_itself_is_refused(value: float, valid: bool, reasons: str) -> None:
    with pytest.raises(ValueError, match=r"Verdict\.of"):
        Verdict(torch.tensor([value]), torch.tensor([valid]), (reasons,))
