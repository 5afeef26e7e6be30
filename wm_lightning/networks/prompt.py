"""Words as a condition: hashed to ids by a pure function, read by a small transformer, attended to by every block."""

import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wm_lightning.clip import Prompt
from wm_lightning.networks.attention import Tokens, attend

WORD = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")
Words = Float[Tensor, "b w d"]


@runtime_checkable
class Prompter(Protocol):
    """Makes prompts of texts."""

    def __call__(self, texts: Sequence[str]) -> Prompt:
        """One prompt per text, on the CPU."""
        ...

    def shortened(self, text: str) -> str:
        """As much of the text as can be read."""
        ...


@dataclass(frozen=True)
class HashedWords:
    """Every word becomes the CRC-32 of its lower case letters modulo `buckets`, padded to `length` words.

    Needs no vocabulary and no weights. Raises ValueError for a text that is longer.
    """

    buckets: int
    length: int

    def __call__(self, texts: Sequence[str]) -> Prompt:
        ids = torch.zeros(len(texts), self.length, dtype=torch.long)
        there = torch.zeros(len(texts), self.length, dtype=torch.bool)
        for row, text in enumerate(texts):
            words = WORD.findall(text.lower())
            if len(words) > self.length:
                raise ValueError(
                    f"a text of {len(words)} words where {self.length} are read: {text[:60]!r}...; "
                    f"raise data.prompter.length"
                )
            ids[row, : len(words)] = torch.tensor([zlib.crc32(word.encode()) % self.buckets for word in words])
            there[row, : len(words)] = True
        return Prompt(ids, there)

    def shortened(self, text: str) -> str:
        """Its first words, as many as are read."""
        found = [*WORD.finditer(text.lower())]
        return text if len(found) <= self.length else text[: found[self.length - 1].end()]


def numbered(numbers: Int[Tensor, "*n"], dim: int) -> Float[Tensor, "*n d"]:
    """Sinusoids of whole numbers (1706.03762): a linear map can shift them, so frame n finds word n + c at once."""
    rates = torch.exp(torch.arange(0, dim, 2, device=numbers.device) * (-math.log(10000.0) / dim))
    angles = numbers[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[..., :dim]


class PromptReader(nn.Module):
    """Ids of words to vectors that know their place and each other; a learned vector stands for no words at all."""

    def __init__(self, dim: int, *, buckets: int, depth: int, heads: int) -> None:
        super().__init__()
        self.words = nn.Embedding(buckets, dim)
        self.nothing = nn.Parameter(torch.randn(dim) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                dim, heads, 2 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        nn.init.normal_(self.words.weight, std=0.5)

    def forward(self, prompt: Prompt | None, batch: int) -> tuple[Words, Bool[Tensor, "b w"]]:
        """Vectors and which of them are there: words, behind the one that stands for nothing."""
        x = self.nothing.expand(batch, 1, -1)
        there = torch.ones(batch, 1, dtype=torch.bool, device=x.device)
        if prompt is not None:
            places = torch.arange(prompt.tokens.shape[1], device=x.device)
            words = self.words(prompt.tokens) + numbered(places, x.shape[-1])
            x, there = torch.cat([x.to(words.dtype), words], dim=1), torch.cat([there, prompt.there], dim=1)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=~there)
        return self.norm(x), there


class PromptAttention(nn.Module):
    """Every token of a video attends to the words and knows its frame's number; adds nothing at first."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.q, self.kv, self.out = (
            nn.Linear(dim, dim, bias=False),
            nn.Linear(dim, 2 * dim, bias=False),
            nn.Linear(dim, dim),
        )
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tokens, words: Words, there: Bool[Tensor, "b w"], frames: Float[Tensor, "b f d"]) -> Tokens:
        """What is to be added to the tokens; `frames` are their numbers, as the places of words are."""
        q = rearrange(self.q(self.norm(x) + frames[:, :, None]), "b f n (h e) -> b h (f n) e", h=self.heads)
        k, v = rearrange(self.kv(words), "b n (two h e) -> two b h n e", two=2, h=self.heads)
        attended = attend(q, k, v, there[:, None, None])
        return self.out(rearrange(attended, "b h (f n) e -> b f n (h e)", f=x.shape[1]))
