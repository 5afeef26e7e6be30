"""What is read from a reply, and what is not."""

import json
import math
from typing import Any

import pytest

from tests.judge_server import completion, listed
from wm_lightning.rewards.log_odds import log_odds, read_log_odds
from wm_lightning.rewards.reward import Failed


def read(found: dict[str, float]) -> float | Failed:
    return read_log_odds(json.dumps(completion(0.0, content=[listed(found)])))


@pytest.mark.parametrize("odds", [-6.0, -0.5, 0.0, 3.0])
def test_the_log_odds_are_those_of_the_words_however_spelt(odds: float) -> None:
    assert read_log_odds(json.dumps(completion(odds))) == pytest.approx(odds, abs=1e-6)


def test_spellings_add_up() -> None:
    found = {"yes": math.log(0.2), " Yes": math.log(0.1), "\u0120YES": math.log(0.1), "No": math.log(0.1), "y": -9.0}
    assert read(found) == pytest.approx(math.log(4.0))


def test_a_word_that_is_not_there_is_as_likely_as_the_last_token_at_most() -> None:
    assert read({"yes": -0.1, "maybe": -3.0, "perhaps": -4.0}) == pytest.approx(3.9)
    assert read({"no": -0.1, "maybe": -3.0, "perhaps": -4.0}) == pytest.approx(-3.9)


def test_the_log_odds_are_within_ten() -> None:
    assert read({"yes": -1e-6, "no": -25.0}) == 10.0 and read({"no": -1e-6, "yes": -25.0}) == -10.0


def test_an_impossible_token_counts_as_absent() -> None:
    assert log_odds([("yes", -0.5), ("maybe", -2.0), ("no", -math.inf)]) == pytest.approx(1.5)
    assert log_odds([("yes", -math.inf), ("no", -math.inf), ("maybe", 0.0)]) == Failed("neither yes nor no")


def test_one_token_leaves_the_other_word_without_a_bound() -> None:
    assert read({"yes": -0.1}) == Failed("too few log-probabilities")
    assert read({"yesterday": -0.1, "nobody": -0.3}) == Failed("neither yes nor no")


def broken(change: Any) -> str:
    reply = completion(1.0)
    change(reply["choices"][0])
    return json.dumps(reply)


def first(**changes: Any) -> str:
    return broken(lambda choice: choice["logprobs"]["content"][0]["top_logprobs"][0].update(changes))


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "malformed reply"),
        ("yes", "malformed reply"),
        ("null", "malformed reply"),
        ("[]", "malformed reply"),
        ("{}", "malformed reply"),
        ('{"choices": []}', "malformed reply"),
        ('{"choices": ["yes"]}', "malformed reply"),
        ("[" * 100_000, "malformed reply"),
        (broken(lambda choice: choice.update(message=None)), "malformed reply"),
        (broken(lambda choice: choice["logprobs"]["content"][0].pop("top_logprobs")), "malformed reply"),
        (first(logprob=None), "malformed reply"),
        (first(logprob="1"), "malformed reply"),
        (first(logprob=math.nan), "malformed reply"),
        (first(logprob=10**400), "malformed reply"),
        (first(token=None), "malformed reply"),
        (broken(lambda choice: choice.update(logprobs=None)), "no log-probabilities"),
        (broken(lambda choice: choice["logprobs"].update(content=[])), "no log-probabilities"),
        (broken(lambda choice: choice.update(finish_reason="content_filter")), "refused"),
        (broken(lambda choice: choice["message"].update(refusal="I cannot judge this.")), "refused"),
    ],
)  # fmt: skip
def test_a_reply_that_does_not_tell_is_a_failure_with_its_reason(reply: str, reason: str) -> None:
    assert read_log_odds(reply) == Failed(reason)
