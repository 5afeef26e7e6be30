"""Solutions written at inference: what a reply's text is, and the grid's own writer."""

import json
from pathlib import Path

import pytest

from tests.modules.making_wmsd import WORDS, tasks
from wm_lightning.rewards.reward import Failed
from wm_lightning.rewards.writer import read_text
from wm_lightning.worlds.grid_writer import grid_writer


def reply(text: str | None, **more: object) -> str:
    return json.dumps({"choices": [{"finish_reason": "stop", **more, "message": {"content": text}}]})


def test_a_reply_is_one_line_of_whole_sentences() -> None:
    text = "It goes left. Then it stops!\nIt ends there. It is glad."
    assert read_text(reply(text), 100) == "It goes left. Then it stops! It ends there. It is glad."
    assert read_text(reply(text), 8) == "It goes left. Then it stops!"
    assert read_text(reply("It goes on and on without an end"), 3) == "It goes on and on without an end"
    assert read_text(reply("<think>Left? Or right?</think>\nIt goes left."), 9) == "It goes left."


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (reply(None), "no text"),
        (reply("  "), "no text"),
        (reply("I may not.", finish_reason="content_filter"), "refused"),
        (reply("<think>Okay, the user wants"), "no text"),
        (reply("It goes left, then", finish_reason="length"), "cut short"),
        ("<html>", "malformed reply"),
        ("{}", "malformed reply"),
    ],
)
def test_what_is_no_text_is_a_failure(body: str, reason: str) -> None:
    assert read_text(body, 10) == Failed(reason)


def test_texts_are_shortened_to_what_is_read() -> None:
    text = "a, b. " * WORDS.length
    short = WORDS.shortened(text)
    assert bool(WORDS([short]).there.all()) and text.startswith(short)
    assert WORDS.shortened("It goes left.") == "It goes left."


def test_the_grids_writer_is_wrong_in_its_share(tmp_path: Path) -> None:
    data = tasks(tmp_path)
    data.prepare_data()
    clip = next(data.clips("train", 16, 1, 16))
    assert clip.texts is not None
    right, wrong = (grid_writer(data, wrong=share, seed=0)(clip.video, clip.texts) for share in (0.0, 1.0))
    assert list(right) == list(clip.texts.solution)
    assert all(one != other for one, other in zip(right, wrong, strict=True))
    assert wrong == grid_writer(data, wrong=1.0, seed=0)(clip.video, clip.texts), "it changes its mind"
