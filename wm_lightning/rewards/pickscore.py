"""How well the frames of a video fit their text and please, by PickScore (2305.01569)."""

from functools import cached_property
from typing import Any, Literal

import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from wm_lightning.clip import Pixels, Texts
from wm_lightning.rewards.frames import shown
from wm_lightning.rewards.local_vlm import local_model
from wm_lightning.rewards.reward import Verdict

SCALE = 26.0  # about what good pictures get, so that rewards are about 1


class PickScore:
    """PickScore / 26 of the instruction and a frame, averaged over `frames` evenly spread frames.

    `folder` holds the CLIP model and its processor as `save_pretrained` writes them; see `LocalModel`.
    """

    def __init__(self, *, folder: str, frames: int, dtype: Literal["float32", "bfloat16"], device: str) -> None:
        if frames < 2:
            raise ValueError(f"{frames=} of 2 or more: the first and the last are among them")
        self.folder, self.frames = local_model(folder), frames
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.device = torch.device(device)

    @torch.inference_mode()
    def __call__(self, videos: Pixels, texts: Texts) -> Verdict:
        """One score a video; about 0.8 is usual. Raises ValueError where texts and videos differ in number."""
        pairs = zip(videos, texts.instruction, strict=True)
        return Verdict.of([self._score(video, instruction) for video, instruction in pairs])

    def _score(self, video: torch.Tensor, instruction: str) -> float:
        # Whole: the processor has a size of its own.
        pictures = shown(video, self.frames, min(video.shape[-2:]))
        inputs = self._processor(
            text=[instruction], images=[Image.fromarray(picture) for picture in pictures], return_tensors="pt",
            padding=True, truncation=True, max_length=self._model.config.text_config.max_position_embeddings,
        ).to(self.device, dtype=self.dtype)  # fmt: skip
        return float(self._model(**inputs).logits_per_image.float().mean()) / SCALE

    @cached_property
    def _model(self) -> Any:
        model: Any = CLIPModel.from_pretrained(
            self.folder, dtype=self.dtype, local_files_only=True, use_safetensors=True
        )
        return model.to(self.device).eval()

    @cached_property
    def _processor(self) -> Any:
        return CLIPProcessor.from_pretrained(self.folder, local_files_only=True)
