"""What LTX-2 and HunyuanVideo 1.5 are told, by the encoders of their pipelines as diffusers calls them."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from wm_lightning.clip import Prompt
from wm_lightning.networks.adapters.diffusers_folder import CONFIG, files_hash

Tokens = Float[Tensor, "b n e"]
Pictures = UInt8[Tensor, "b 3 h w"]
_LOADING = Lock()  # none of an object's own, which could not go to another process
ADVICE = "name a folder of diffusers with the whole pipeline; nothing is downloaded"


class PipelineEncoders(ABC):
    """Frozen encoders of a pipeline in `folder`: texts to features, and pictures to tokens where a network takes any.

    A prompt has `length` tokens of `width` numbers. The encoders compute in the precision of their files, are loaded on
    first use, and are in no checkpoint. Without a folder they answer nothing, and what was encoded before can be read.
    """

    parts: tuple[str, ...]  # of the pipeline that have weights
    pipeline: str  # its class

    def __init__(self, *, folder: str | None, length: int, width: int) -> None:
        self.folder = None if folder is None else Path(folder)
        if missing := [part for part in self.parts if self.folder and not (self.folder / part / CONFIG).is_file()]:
            raise ValueError(f"data.encoders.folder={folder} lacks {', '.join(missing)}; {ADVICE}, or null")
        self.length, self.width = length, width
        self._pipeline: Any = None

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the features, as plain values; `weights` is None without a folder."""
        folder = self.folder
        hashes = None if folder is None else {part: files_hash(folder / part) for part in self.parts}
        return {"kind": type(self).__name__, "length": self.length, "width": self.width, "weights": hashes}

    @torch.no_grad()
    def words(self, texts: Sequence[str], device: torch.device) -> Prompt:
        """Features of texts, on the CPU. Raises ValueError without a folder, and for features of another width."""
        with torch.autocast(device.type, enabled=False):
            tokens, there = self._words(self._on(device), list(texts), device)
        if tokens.shape[1:] != (self.length, self.width):
            raise ValueError(
                f"{self.folder} makes {' x '.join(map(str, tokens.shape[1:]))} features of a text, the config has "
                f"{self.length} x {self.width}; set data.encoders.length and data.encoders.width"
            )
        return Prompt(tokens.cpu(), there.cpu())

    @torch.no_grad()
    def picture(self, pictures: Pictures, device: torch.device) -> Tokens | None:
        """Tokens of pictures, on the CPU; None where the network takes none. Raises ValueError without a folder."""
        return None

    @abstractmethod
    def _words(self, pipeline: Any, texts: list[str], device: torch.device) -> tuple[Tokens, Bool[Tensor, "b n"]]:
        """Features and which of them are there."""

    @abstractmethod
    def _components(self, load: Callable[..., Any]) -> Mapping[str, Any]:
        """The pipeline's arguments; `load(part, kind, **how)` makes one by its class."""

    def _on(self, device: torch.device) -> Any:
        with _LOADING:
            if self._pipeline is None:
                self._pipeline = self._loaded()
            return self._pipeline.to(device)

    def _loaded(self) -> Any:
        folder = self.folder
        if folder is None:
            raise ValueError(f"data.encoders.folder=null, and a text or picture is to be encoded; {ADVICE}")

        def load(part: str, kind: str, **how: Any) -> Any:
            home = next(home for home in _libraries() if hasattr(home, kind))
            how |= {"use_safetensors": True} if part in self.parts else {}
            return getattr(home, kind).from_pretrained(folder / part, local_files_only=True, **how)

        try:
            components = self._components(load)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            shown = " ".join(str(error).split())[:300]
            raise ValueError(f"{folder} cannot be read as a {self.pipeline}: {shown}; {ADVICE}") from error
        own = {name: value.eval().requires_grad_(False) for name, value in components.items() if name in self.parts}
        return getattr(_libraries()[1], self.pipeline)(**{**components, **own})


class LTX2Encoders(PipelineEncoders):
    """Gemma's states of all layers, then LTX-2's two connectors: features for video before those for sound."""

    parts = ("text_encoder", "connectors")
    pipeline = "LTX2ImageToVideoPipeline"

    def _components(self, load: Callable[..., Any]) -> Mapping[str, Any]:
        absent = dict.fromkeys(("scheduler", "vae", "audio_vae", "transformer", "vocoder"))
        encoder = load("text_encoder", "Gemma3ForConditionalGeneration", dtype="auto")
        connectors = load("connectors", "LTX2TextConnectors", torch_dtype=encoder.dtype)
        return {
            **absent, "text_encoder": encoder, "tokenizer": load("tokenizer", "AutoTokenizer"), "connectors": connectors
        }  # fmt: skip

    def _words(self, pipeline: Any, texts: list[str], device: torch.device) -> tuple[Tokens, Bool[Tensor, "b n"]]:
        states, there, _, _ = pipeline.encode_prompt(
            texts, do_classifier_free_guidance=False, max_sequence_length=self.length, device=device
        )
        side = pipeline.tokenizer.padding_side
        video, sound, there = pipeline.connectors(states, there, padding_side=side)
        return torch.cat([video, sound], dim=-1), there.bool()


class Hunyuan15Encoders(PipelineEncoders):
    """Qwen2.5-VL's states and, last, ByT5's of what is quoted, filled up with zeros; SigLIP's tokens of pictures.

    `glyphs` of the `length` tokens are ByT5's. `template` tokens of the chat in front of a text are left out.
    """

    parts = ("text_encoder", "text_encoder_2", "image_encoder", "vae")  # without the last diffusers makes no pipeline
    pipeline = "HunyuanVideo15ImageToVideoPipeline"

    def __init__(self, *, glyphs: int, template: int, **shared: Any) -> None:
        super().__init__(**shared)
        self.glyphs, self.template = glyphs, template

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "glyphs": self.glyphs, "template": self.template}

    @torch.no_grad()
    def picture(self, pictures: Pictures, device: torch.device) -> Tokens | None:
        pipeline, found = self._on(device), []
        dtype = pipeline.image_encoder.dtype
        for picture in pictures.cpu():
            image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
            found.append(pipeline.encode_image(image, batch_size=1, device=device, dtype=dtype))
        return torch.cat(found).cpu()

    def _components(self, load: Callable[..., Any]) -> Mapping[str, Any]:
        absent = dict.fromkeys(("transformer", "scheduler", "guider"))
        return {
            **absent,
            "text_encoder": load("text_encoder", "Qwen2_5_VLTextModel", dtype="auto"),
            "tokenizer": load("tokenizer", "AutoTokenizer"),
            "text_encoder_2": load("text_encoder_2", "T5EncoderModel", dtype="auto"),
            "tokenizer_2": load("tokenizer_2", "ByT5Tokenizer"),
            "image_encoder": load("image_encoder", "SiglipVisionModel", dtype="auto"),
            "feature_extractor": load("feature_extractor", "SiglipImageProcessor"),
            "vae": load("vae", "AutoencoderKLHunyuanVideo15"),
        }

    def _words(self, pipeline: Any, texts: list[str], device: torch.device) -> tuple[Tokens, Bool[Tensor, "b n"]]:
        pipeline.tokenizer_max_length, pipeline.tokenizer_2_max_length = self.length - self.glyphs, self.glyphs
        pipeline.prompt_template_encode_start_idx = self.template
        text, text_there, glyphs, glyphs_there = pipeline.encode_prompt(texts, device=device, batch_size=len(texts))
        if (spare := text.shape[-1] - glyphs.shape[-1]) < 0:
            raise ValueError(f"{self.folder}: a token of text_encoder_2 has {-spare} numbers more than text_encoder's")
        filled = torch.nn.functional.pad(glyphs, (0, spare))
        return torch.cat([text, filled], dim=1), torch.cat([text_there, glyphs_there], dim=1).bool()


def _libraries() -> list[Any]:
    """transformers and diffusers: extras, and seconds that nobody else waits for."""
    try:
        return [importlib.import_module(name) for name in ("transformers", "diffusers", "diffusers.pipelines.ltx2")]
    except ModuleNotFoundError as error:
        raise ValueError(
            f"encoders=ltx2|hunyuan15 need transformers 5 and diffusers 0.42 or newer, and {error.name} is not there: "
            f"pip install 'transformers>=5' 'diffusers>=0.42'"
        ) from error
