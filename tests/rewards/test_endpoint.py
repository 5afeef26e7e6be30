"""A judge behind a server: what it says arrives, and what goes wrong is counted as that and as nothing else."""

import logging
from itertools import chain, repeat
from pathlib import Path

import pytest
import torch

from tests.judge_server import Running, confusion
from tests.rewards.making import LOOKS, TEXTS, asking, endpoint, films, judged_by, row
from wm_lightning.rewards.reward import Failed
from wm_lightning.rewards.vlm import OPTIONS
from wm_lightning.worlds.grid_judge import CRITERIA, Criterion
from wm_lightning.worlds.grid_reward import GridReward

SOME = slice(4)
# What a server does -> what becomes of the judgement.
FAULTS = {
    "http 429": "http 429", "http 500": "http 500", "http 401": "http 401", "drops": "no connection",
    "half": "malformed reply", "nothing": "malformed reply", "page": "malformed reply",
    "silent": "no log-probabilities", "bare": "no log-probabilities", "muses": "neither yes nor no",
    "refuses": "refused",
}  # fmt: skip


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_judge_says_what_the_program_says(server: Running, criterion: Criterion) -> None:
    videos = films()
    truth = GridReward(criterion=criterion, row=row)(videos, TEXTS)
    verdict = judged_by(server, criterion)(videos, TEXTS)
    counts = confusion(verdict.met, truth.met)
    assert counts[True, False] == counts[False, True] == 0
    assert min(counts[True, True], counts[False, False]) >= 3, "one of the answers is hardly ever right"
    torch.testing.assert_close(verdict.value, truth.value, atol=1e-4, rtol=0)


def test_the_request_is_that_of_a_judge(server: Running) -> None:
    judged_by(server, "task", extra={"chat_template_kwargs": {"enable_thinking": False}})(films()[:1], TEXTS[:1])
    (body,) = server.requests
    content = body.pop("messages")[0]["content"]
    assert [part["type"] for part in content] == ["image_url"] * 9 + ["text"], "the pictures stand before the question"
    assert body == {
        "model": "grid-program", "temperature": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": 20,
        "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip


def test_noise_makes_a_judge_wrong_now_and_then(server: Running) -> None:
    videos = films()
    truth = GridReward(criterion="task", row=row)(videos, TEXTS)
    server.behaviour.noise = 8.0
    verdict = judged_by(server, "task")(videos, TEXTS)
    counts = confusion(verdict.met, truth.met)
    wrong = counts[True, False] + counts[False, True]
    assert verdict.valid.all() and 0 < wrong < len(videos) // 2
    assert torch.equal(judged_by(server, "task")(videos, TEXTS).value, verdict.value)


def test_a_judge_that_sees_the_end_alone_is_fooled(server: Running) -> None:
    videos, jumps = films(), slice(3, len(TEXTS) - len(LOOKS), 4)
    truth = GridReward(criterion="consistency", row=row)(videos, TEXTS)
    server.behaviour.hackable = True
    verdict = judged_by(server, "consistency")(videos, TEXTS)
    counts = confusion(verdict.met[jumps], truth.met[jumps])
    assert counts[True, False] >= 3 and counts[False, True] == counts[False, False] == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_no_judgement(server: Running, fault: str) -> None:
    server.behaviour.faults = iter([None, fault, None, fault])
    verdict = judged_by(server, "task", concurrency=1)(films()[SOME], TEXTS[SOME])
    assert verdict.reasons == ("", FAULTS[fault], "", FAULTS[fault])
    assert verdict.value.isnan().tolist() == [False, True, False, True]


@pytest.mark.parametrize("fault", ["hangs", "dribbles"])
def test_who_never_comes_to_an_end_is_left(server: Running, fault: str) -> None:
    server.behaviour.always = fault
    verdict = judged_by(server, "task", timeout=0.3, retries=1)(films()[SOME], TEXTS[SOME])
    assert verdict.reasons == ("timeout",) * 4 and verdict.value.isnan().all()


def test_nobody_there_is_no_judgement(server: Running) -> None:
    verdict = judged_by(server, "task", url="http://127.0.0.1:9/v1")(films()[SOME], TEXTS[SOME])
    assert verdict.reasons == ("no connection",) * 4


@pytest.mark.parametrize("fault", ["http 429", "http 500", "drops"])
def test_what_passes_is_tried_again_so_often(server: Running, fault: str) -> None:
    judge = judged_by(server, "task", retries=2)
    server.behaviour.faults = iter([fault, fault])
    assert judge(films()[:1], TEXTS[:1]).valid.all()
    assert len(server.requests) == 3
    server.behaviour.faults = iter([fault] * 3)
    assert judge(films()[:1], TEXTS[:1]).reasons == (FAULTS[fault],)
    assert len(server.requests) == 6


def test_what_stays_is_not_tried_again(server: Running) -> None:
    judge = judged_by(server, "task", retries=5)
    for fault in ("http 401", "http 404", "bare", "refuses"):
        server.behaviour.faults = iter([fault])
        assert not judge(films()[:1], TEXTS[:1]).valid.any()
    assert len(server.requests) == 4


def test_no_more_than_so_many_questions_are_out(server: Running) -> None:
    server.behaviour.latency = lambda number: 0.02
    judged_by(server, "task", concurrency=3)(films()[:16], TEXTS[:16])
    assert 1 < server.most_at_once <= 3


def test_answers_stand_in_order_however_they_come(server: Running) -> None:
    videos = films()[:12]
    truth = judged_by(server, "task")(videos, TEXTS[:12])
    server.behaviour.latency = lambda number: 0.02 * (number % 5)
    turned = torch.arange(11, -1, -1)
    verdict = judged_by(server, "task", concurrency=6)(videos[turned], TEXTS[turned])
    assert torch.equal(verdict.value.flip(0), truth.value)


def test_who_listens_hears_each_answer_as_it_comes_and_may_end_the_asking(server: Running) -> None:
    questions = [*asking("task").questions(films()[:6], TEXTS[:6])]
    heard: list[tuple[int, str | Failed]] = []
    server.behaviour.faults = iter([None, "http 500"])
    replies = endpoint(server, concurrency=1).ask(questions, OPTIONS, lambda *said: heard.append(said))
    assert heard == [*enumerate(replies)] and heard[1] == (1, Failed("http 500"))
    before = len(server.requests)

    def enough(place: int, reply: str | Failed) -> None:
        if place == 2:
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        endpoint(server, concurrency=1).ask(questions, OPTIONS, enough)
    assert len(server.requests) == before + 3, "nobody is asked any more"


def test_the_same_question_is_asked_once(server: Running, tmp_path: Path) -> None:
    videos = films()
    judge = judged_by(server, "task", cache=str(tmp_path))
    twice = torch.tensor([0, 1, 2, 0])
    first = judge(videos[twice], TEXTS[twice])
    assert len(server.requests) == 3
    again = judged_by(server, "task", cache=str(tmp_path))(videos[twice], TEXTS[twice])
    assert len(server.requests) == 3 and torch.equal(first.value, again.value)


def test_another_question_is_asked(server: Running, tmp_path: Path) -> None:
    video = films()[:1]
    judged_by(server, "task", cache=str(tmp_path))(video, TEXTS[:1])
    changed = video.clone()
    changed[0, 4, 0, 0, 0] += 1
    others = [
        (judged_by(server, "agent", cache=str(tmp_path)), video),
        (judged_by(server, "task", cache=str(tmp_path), model="other"), video),
        (judged_by(server, "task", cache=str(tmp_path), extra={"seed": 1}), video),
        (judged_by(server, "task", cache=str(tmp_path), encoding="jpeg"), video),
        (judged_by(server, "task", cache=str(tmp_path)), changed),
    ]
    for number, (judge, shown) in enumerate(others, start=2):
        judge(shown, TEXTS[:1])
        assert len(server.requests) == number


def test_failures_and_damaged_files_are_asked_again(server: Running, tmp_path: Path) -> None:
    judge = judged_by(server, "task", cache=str(tmp_path))
    server.behaviour.faults = iter(["http 500"])
    assert not judge(films()[:1], TEXTS[:1]).valid.any() and not any(tmp_path.rglob("*.json"))
    kept = judge(films()[:1], TEXTS[:1])
    (path,) = tmp_path.rglob("*.json")
    for damage in (path.read_text()[:9], '{"value": NaN}', '{"value": null}', "[]"):
        path.write_text(damage)
        assert torch.equal(judge(films()[:1], TEXTS[:1]).value, kept.value)
    assert len(server.requests) == 6


def test_the_key_goes_to_the_server_and_nowhere_else(
    server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    key = "sk-very-secret-12345"
    monkeypatch.setenv("JUDGE_KEY", key)
    with caplog.at_level(logging.DEBUG):
        judge = judged_by(server, "task", key_variable="JUDGE_KEY", cache=str(tmp_path))
        # The server's own complaint quotes the key.
        server.behaviour.faults = chain(["http 401", "http 429", "drops"], repeat(None))
        verdict = judge(films()[SOME], TEXTS[SOME])
    assert server.keys == {f"Bearer {key}"} and "http 401" in verdict.reasons
    told = "\n".join([caplog.text, repr(judge), repr(vars(judge.endpoint)), repr(verdict)])
    assert "not now, and not with Bearer ***" in told and key not in told
    assert all(key not in path.read_text() for path in tmp_path.rglob("*.json"))


def test_a_server_without_a_key_gets_none(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-meant-for-another")
    judged_by(server, "task")(films()[:1], TEXTS[:1])
    assert server.keys == {"Bearer none"}


@pytest.mark.parametrize("key", [None, "", "two words", "line\n", "schlüssel"])
def test_a_missing_or_broken_key_is_found_first_and_not_quoted(
    server: Running, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("JUDGE_KEY", key)
    with pytest.raises(ValueError, match="the environment variable JUDGE_KEY") as error:
        endpoint(server, key_variable="JUDGE_KEY")
    assert not key or key not in str(error.value)


@pytest.mark.parametrize("url", ["localhost:8000", "file:///etc/passwd", "http:///v1", "https://me:secret@host/v1"])
def test_an_address_that_is_none_is_refused(server: Running, url: str) -> None:
    with pytest.raises(ValueError) as error:
        endpoint(server, url=url)
    assert "secret" not in str(error.value)
