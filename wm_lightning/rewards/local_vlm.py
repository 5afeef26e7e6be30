"""A vision-language model on this machine as a judge, by its own two logits."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from wm_lightning.clip import Pixels, Texts
from wm_lightning.rewards.bus import RewardBus, Weighted
from wm_lightning.rewards.log_odds import MOST, NO, YES, word_of
from wm_lightning.rewards.questions import Asking, Question
from wm_lightning.rewards.reward import Verdict


class LocalModel:
    """A model of `transformers` that answers questions about pictures with yes or no.

    `folder` holds the model and its processor as `save_pretrained` writes them (safetensors; nothing is downloaded, no
    code of the folder runs). `template` goes to its chat template, for example {enable_thinking: false}. The model is
    read at the first judgement, to the GPU of the process that asks where `device` is "cuda".
    """

    def __init__(
        self, *, folder: str, dtype: Literal["float32", "bfloat16"], device: str, template: Mapping[str, Any]
    ) -> None:
        self.folder, self.template = local_model(folder), dict(template)
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.device = torch.device(device)

    @torch.inference_mode()
    def log_odds(self, question: Question) -> float:
        """log p(yes) - log p(no) of the next token, within ±10."""
        content: list[dict[str, Any]] = [{"type": "image", "image": Image.fromarray(p)} for p in question.pictures]
        content.append({"type": "text", "text": question.text})
        inputs = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **self.template,
        ).to(self.device, dtype=self.dtype)  # fmt: skip
        # The last place alone: all places of a video's tokens over a whole vocabulary are gigabytes.
        logits = self._model(**inputs, logits_to_keep=1).logits[0, -1].float()
        yes, no = (logits[self._spellings[word]].logsumexp(0) for word in (YES, NO))
        return float((yes - no).clamp(-MOST, MOST))

    @cached_property
    def _model(self) -> Any:
        model: Any = AutoModelForImageTextToText.from_pretrained(
            self.folder, dtype=self.dtype, local_files_only=True, use_safetensors=True
        )
        return model.to(self.device).eval()

    @cached_property
    def _processor(self) -> Any:
        return AutoProcessor.from_pretrained(self.folder, local_files_only=True)

    @cached_property
    def _spellings(self) -> Mapping[str, list[int]]:
        """The tokens that spell either word."""
        vocabulary = self._processor.tokenizer.get_vocab()
        found = {word: [number for token, number in vocabulary.items() if word_of(token) == word] for word in (YES, NO)}
        if missing := [word for word, tokens in found.items() if not tokens]:
            raise ValueError(
                f"{self.folder}: its tokenizer has no token for {' and '.join(missing)}; take another model"
            )
        return found


class LocalReward:
    """Log-odds of one criterion, within ±10: the question of an endpoint's judge, put to a model on this machine."""

    def __init__(self, *, model: LocalModel, asking: Asking) -> None:
        self.model, self.asking = model, asking

    def __call__(self, videos: Pixels, texts: Texts) -> Verdict:
        """One judgement a video."""
        return Verdict.of([self.model.log_odds(question) for question in self.asking.questions(videos, texts)])


def local_judges(
    data: object, *, model: LocalModel, weights: Mapping[str, float], version: str, frames: int, short_side: int,
    others: Mapping[str, Weighted], max_invalid: float,
) -> RewardBus:  # fmt: skip
    """One model asked about the criteria named, as `endpoint_judges` does, with `others` beside it."""
    rewards = dict(others)
    for name, weight in weights.items():
        asking = Asking(criterion=name, version=version, frames=frames, short_side=short_side)
        rewards[name] = Weighted(LocalReward(model=model, asking=asking), weight)
    return RewardBus(rewards=rewards, max_invalid=max_invalid, judge=f"{model.folder}, prompts {version}")


def local_model(folder: str) -> str:
    """The folder. Raises ValueError where it is none of a model, so that no name is looked for on a hub."""
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder=} holds no config.json; name the local folder of a model, nothing is downloaded")
    return folder
