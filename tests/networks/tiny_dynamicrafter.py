"""Checkpoints of DynamiCrafter and Vid2World in the layout they are published in: their names, small random values."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Shapes = Iterator[tuple[str, tuple[int, ...]]]

IMAGE = {"image_size": 28, "patch_size": 14, "width": 32, "layers": 3, "heads": 2, "mlp_ratio": 4.0, "output_dim": 24}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 3, "output_dim": 24}
BUFFERS = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "scale_arr",
)  # fmt: skip


def layer(name: str, *shape: int, bias: bool = True) -> Shapes:
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]


def res(name: str, channels: int, out: int, embedding: int, causal: bool) -> Shapes:
    yield from layer(f"{name}.in_layers.0", channels)
    yield from layer(f"{name}.in_layers.2", out, channels, 3, 3)
    yield from layer(f"{name}.emb_layers.1", out, embedding)
    yield from layer(f"{name}.out_layers.0", out)
    yield from layer(f"{name}.out_layers.3", out, out, 3, 3)
    if channels != out:
        yield from layer(f"{name}.skip_connection", out, channels, 1, 1)
    for step in (1, 2, 3, 4):
        place = f"{name}.temopral_conv.conv{step}"
        yield from layer(f"{place}.0", out)
        yield from layer(f"{place}.{2 if step == 1 else 3}{'.conv3d' if causal else ''}", out, out, 3, 1, 1)


def transformer(name: str, channels: int, inner: int, tokens: int | None, convolutions: bool = False) -> Shapes:
    taps, block = ((1,) if convolutions else ()), f"{name}.transformer_blocks.0"
    yield from layer(f"{name}.norm", channels)
    yield from layer(f"{name}.proj_in", inner, channels, *taps)
    yield from layer(f"{name}.proj_out", channels, inner, *taps)
    for attention, width in (("attn1", inner), ("attn2", tokens or inner)):
        yield from layer(f"{block}.{attention}.to_q", inner, inner, bias=False)
        image = ("k_ip", "v_ip") if tokens is not None and attention == "attn2" else ()
        for kind in ("k", "v", *image):
            yield from layer(f"{block}.{attention}.to_{kind}", inner, width, bias=False)
        yield from layer(f"{block}.{attention}.to_out.0", inner, inner)
    yield from layer(f"{block}.ff.net.0.proj", 8 * inner, inner)
    yield from layer(f"{block}.ff.net.2", inner, 4 * inner)
    for norm in (1, 2, 3):
        yield from layer(f"{block}.norm{norm}", inner)


def embeddings(dim: int, causal: bool, actions: int | None) -> Shapes:
    for name in ("time_embed", "fps_embedding"):
        yield from layer(f"{name}.0", 4 * dim, dim)
        yield from layer(f"{name}.2", 4 * dim, 4 * dim)
    if causal and actions == 51:
        yield "action_emb_preprocess.weight", (actions, dim)
    elif causal and actions is not None:
        yield from layer("action_emb_proj.0", dim, actions)
    if causal:
        first = 0 if actions == 51 else 2
        yield from layer(f"action_emb_proj.{first}", 4 * dim, dim)
        yield from layer(f"action_emb_proj.{first + 2}", 4 * dim, 4 * dim)


def unet(
    dim: int = 32, multipliers: Sequence[int] = (1, 2), blocks: int = 1, attention_at: Sequence[int] = (1, 2),
    head_dim: int = 16, tokens: int = 24, actions: int | None = None,
) -> Shapes:  # fmt: skip
    """Every tensor of a UNet; with `actions`, of Vid2World's causal one."""
    causal = actions is not None
    yield from embeddings(dim, causal, actions)
    yield from layer("input_blocks.0.0", dim, 8, 3, 3)
    yield from transformer("init_attn.0", dim, 8 * head_dim, None, convolutions=True)
    skips, width, number = [dim], dim, 1
    for level, multiplier in enumerate(multipliers):
        for _ in range(blocks):
            yield from res(f"input_blocks.{number}.0", width, width := dim * multiplier, 4 * dim, causal)
            if 2**level in attention_at:
                yield from transformer(f"input_blocks.{number}.1", width, width, tokens)
                yield from transformer(f"input_blocks.{number}.2", width, width, None)
            skips.append(width)
            number += 1
        if level + 1 < len(multipliers):
            yield from layer(f"input_blocks.{number}.0.op", width, width, 3, 3)
            skips.append(width)
            number += 1
    for place in (0, 3):
        yield from res(f"middle_block.{place}", width, width, 4 * dim, causal)
    yield from transformer("middle_block.1", width, width, tokens)
    yield from transformer("middle_block.2", width, width, None)
    number = 0
    for level, multiplier in reversed(list(enumerate(multipliers))):
        for block in range(blocks + 1):
            place = f"output_blocks.{number}"
            yield from res(f"{place}.0", width + skips.pop(), width := dim * multiplier, 4 * dim, causal)
            attends = 2**level in attention_at
            if attends:
                yield from transformer(f"{place}.1", width, width, tokens)
                yield from transformer(f"{place}.2", width, width, None)
            if level and block == blocks:
                yield from layer(f"{place}.{3 if attends else 1}.conv", width, width, 3, 3)
            number += 1
    yield from layer("out.0", dim)
    yield from layer("out.2.conv2d" if causal else "out.2", 4, dim, 3, 3)


def autoencoder(widths: Sequence[int] = (8, 16), blocks: int = 1, latent: int = 4) -> Shapes:
    """Every tensor of a KL autoencoder in the names of Stable Diffusion's authors."""

    def block(name: str, channels: int, out: int) -> Shapes:
        for step, (inner, made) in enumerate(((channels, out), (out, out)), start=1):
            yield from layer(f"{name}.norm{step}", inner)
            yield from layer(f"{name}.conv{step}", made, inner, 3, 3)
        if channels != out:
            yield from layer(f"{name}.nin_shortcut", out, channels, 1, 1)

    def middle(name: str) -> Shapes:
        yield from block(f"{name}.mid.block_1", widths[-1], widths[-1])
        yield from block(f"{name}.mid.block_2", widths[-1], widths[-1])
        yield from layer(f"{name}.mid.attn_1.norm", widths[-1])
        for kind in ("q", "k", "v", "proj_out"):
            yield from layer(f"{name}.mid.attn_1.{kind}", widths[-1], widths[-1], 1, 1)

    last = len(widths) - 1
    yield from layer("encoder.conv_in", widths[0], 3, 3, 3)
    width = widths[0]
    for level, out in enumerate(widths):
        for number in range(blocks):
            yield from block(f"encoder.down.{level}.block.{number}", width, width := out)
        if level < last:
            yield from layer(f"encoder.down.{level}.downsample.conv", out, out, 3, 3)
    yield from middle("encoder")
    yield from layer("encoder.norm_out", widths[-1])
    yield from layer("encoder.conv_out", 2 * latent, widths[-1], 3, 3)
    yield from layer("quant_conv", 2 * latent, 2 * latent, 1, 1)
    yield from layer("post_quant_conv", latent, latent, 1, 1)
    yield from layer("decoder.conv_in", widths[-1], latent, 3, 3)
    yield from middle("decoder")
    for level in range(last, -1, -1):
        for number in range(blocks + 1):
            yield from block(f"decoder.up.{level}.block.{number}", width, width := widths[level])
        if level > 0:
            yield from layer(f"decoder.up.{level}.upsample.conv", widths[level], widths[level], 3, 3)
    yield from layer("decoder.norm_out", widths[0])
    yield from layer("decoder.conv_out", 3, widths[0], 3, 3)


def resampler(
    features: int = 32, tokens: int = 24, queries: int = 64, dim: int = 48, depth: int = 2, inner: int = 128
) -> Shapes:
    yield "latents", (1, queries, dim)
    yield from layer("proj_in", dim, features)
    yield from layer("proj_out", tokens, dim)
    yield from layer("norm_out", tokens)
    for number in range(depth):
        place = f"layers.{number}"
        yield from layer(f"{place}.0.norm1", dim)
        yield from layer(f"{place}.0.norm2", dim)
        yield from layer(f"{place}.0.to_q", inner, dim, bias=False)
        yield from layer(f"{place}.0.to_kv", 2 * inner, dim, bias=False)
        yield from layer(f"{place}.0.to_out", dim, inner, bias=False)
        yield from layer(f"{place}.1.0", dim)
        yield from layer(f"{place}.1.1", 4 * dim, dim, bias=False)
        yield from layer(f"{place}.1.3", dim, 4 * dim, bias=False)


def drawn(shapes: Shapes, prefix: str = "") -> dict[str, Tensor]:
    """Random values, those of norms about one."""
    draw = torch.Generator().manual_seed(0)
    return {
        prefix + name: torch.randn(shape, generator=draw) * 0.1 + (len(shape) == 1 and name.endswith("weight"))
        for name, shape in shapes
    }


def tiny_clip() -> Any:
    """OpenCLIP's own class, of the sizes IMAGE and TEXT, with weights that do something."""
    from open_clip.model import CLIP  # noqa: PLC0415  seconds, which every process that collects tests would pay

    vision = {"image_size": 28, "patch_size": 14, "width": 32, "layers": 3, "head_width": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = CLIP(24, vision, {"width": 24, "heads": 2, "layers": 3}).eval().requires_grad_(False)  # type: ignore[arg-type]
        for parameter in clip.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return clip


def whole(clip: Mapping[str, Tensor], actions: int | None = None) -> dict[str, Tensor]:
    """The state dict of a whole checkpoint; `clip` is the state of a `tiny_clip`."""
    text = {f"cond_stage_model.model.{k}": v for k, v in clip.items() if not k.startswith("visual.")}
    image = {f"embedder.model.{k}": v for k, v in clip.items() if not k.startswith("transformer.")}
    return {
        **{name: torch.rand(1000) for name in BUFFERS},
        **drawn(unet(actions=actions), "model.diffusion_model."),
        **drawn(autoencoder(), "first_stage_model."),
        **text,
        **image,
        **drawn(resampler(), "image_proj_model."),
    }
