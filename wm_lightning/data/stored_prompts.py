"""Prompts of features that frozen encoders made before, and of texts that come up later."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from wm_lightning.clip import Prompt
from wm_lightning.data.task_cache import TaskCache
from wm_lightning.networks.adapters.pipeline_encoders import PipelineEncoders


@dataclass(frozen=True)
class StoredPrompts:
    """A prompter whose features are read from the cache of task=encode.

    What is not in it, as the words of a model that writes solutions, is encoded there and then, on the CPU, and kept
    nowhere. Raises ValueError where there are no encoders for that.
    """

    cache: TaskCache
    encoders: PipelineEncoders

    def __call__(self, texts: Sequence[str]) -> Prompt:
        return Prompt.cat([self._prompt(text) for text in texts])

    def shortened(self, text: str) -> str:
        """The text: what is too long the pipeline's own tokenizer cuts."""
        return text

    def _prompt(self, text: str) -> Prompt:
        if (found := self.cache.heard(text)) is not None:
            return found
        if self.encoders.folder is None:
            shown = text if len(text) <= 60 else f"{text[:60]}..."
            raise ValueError(self.cache.missing(f"the text {shown!r}") + ", or name encoders by data.encoders.folder=")
        return self.encoders.words([text], torch.device("cpu"))
