"""A vision-language model behind an endpoint as a judge: how much likelier it finds yes than no (2606.12072)."""

import json
from collections.abc import Mapping
from pathlib import Path

from wm_lightning.clip import Pixels, Texts
from wm_lightning.rewards.bus import RewardBus, Weighted
from wm_lightning.rewards.endpoint import Endpoint
from wm_lightning.rewards.judgement_cache import JudgementCache, judgement_key
from wm_lightning.rewards.log_odds import read_log_odds
from wm_lightning.rewards.questions import Asking, Question
from wm_lightning.rewards.reward import Failed, Verdict

# The likeliest first tokens of the answer, drawn without chance.
OPTIONS = {"temperature": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": 20}


class EndpointReward:
    """Log-odds of one criterion, within ±10; equal questions are asked once.

    `asking` says what is asked and shown, `cache` names a folder of earlier judgements (null: none are kept).
    """

    def __init__(self, *, endpoint: Endpoint, asking: Asking, cache: str | None) -> None:
        self.endpoint, self.asking = endpoint, asking
        self.cache = None if cache is None else JudgementCache(Path(cache))

    def __call__(self, videos: Pixels, texts: Texts) -> Verdict:
        """One judgement a video. Not to be called from a thread that runs an event loop, as notebooks do: a bus is."""
        questions = [*self.asking.questions(videos, texts)]
        keys = [self._key(question) for question in questions]
        known = self._known(keys)
        new = {key: question for key, question in zip(keys, questions, strict=True) if key not in known}
        replies = self.endpoint.ask([*new.values()], OPTIONS)
        for key, reply in zip(new, replies, strict=True):
            known[key] = reply if isinstance(reply, Failed) else read_log_odds(reply)
            self._keep(key, known[key])
        return Verdict.of([known[key] for key in keys])

    def _key(self, question: Question) -> str:
        extra = json.dumps(self.endpoint.extra, sort_keys=True)
        return judgement_key(question, self.asking.prompt.name, self.endpoint.model, self.endpoint.encoding, extra)

    def _known(self, keys: list[str]) -> dict[str, float | Failed]:
        if self.cache is None:
            return {}
        return {key: value for key in keys if (value := self.cache.get(key)) is not None}

    def _keep(self, key: str, answer: float | Failed) -> None:
        if self.cache is not None and not isinstance(answer, Failed):
            self.cache.put(key, answer, {"prompt": self.asking.prompt.name, "model": self.endpoint.model})


def endpoint_judges(
    data: object, *, endpoint: Endpoint, weights: Mapping[str, float], version: str, frames: int, short_side: int,
    judgements: str | None, others: Mapping[str, Weighted], max_invalid: float,
) -> RewardBus:  # fmt: skip
    """One model asked about the criteria named, by their prompts of one version; the data need say nothing.

    `judgements` names a folder of earlier answers (None: none are kept). `others` are rewards beside it, as PickScore.
    """
    rewards: dict[str, Weighted] = {}
    for name, weight in weights.items():
        asking = Asking(criterion=name, version=version, frames=frames, short_side=short_side)
        rewards[name] = Weighted(EndpointReward(endpoint=endpoint, asking=asking, cache=judgements), weight)
    rewards |= dict(others)
    return RewardBus(rewards=rewards, max_invalid=max_invalid, judge=f"{endpoint.model}, prompts {version}")
