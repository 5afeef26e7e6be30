"""Folders as diffusers writes them of LTX-2 and HunyuanVideo 1.5, with all parts of image-to-video, tiny and random."""

from pathlib import Path
from typing import Any

import torch

from tests.networks.tiny_diffusers import hunyuan15, ltx2

LENGTH, WIDTH = 16, 24  # tokens of a prompt of LTX-2, and numbers a token: 16 for video, 8 for sound
HUNYUAN_LENGTH, GLYPHS, TEMPLATE, HUNYUAN_WIDTH = 20, 6, 4, 16
CHAT = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)


def tokenizer(folder: Path) -> None:
    """Words of WorldTasks and single letters, padded on the right as published ones are."""
    from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    known = ["<pad>", "<unk>", "<eos>", "system", "user", "assistant", "red", "blue", "square", "push", "the", "box"]
    known += [*map(chr, range(33, 127)), *(f"{letter}{row}" for letter in "abcdef" for row in range(1, 7))]
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(known)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    words = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>")
    words.chat_template = CHAT
    words.save_pretrained(folder)


def seeded(make: Any, seed: int = 0) -> Any:
    """What is made, its random weights drawn by that seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def ltx2_vae() -> Any:
    """Two pixels a side are a latent, and two frames are one behind the first."""
    from diffusers.models.autoencoders.autoencoder_kl_ltx2 import AutoencoderKLLTX2Video  # noqa: PLC0415

    vae = AutoencoderKLLTX2Video(
        latent_channels=4, block_out_channels=(8,), decoder_block_out_channels=(8,), layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1), spatio_temporal_scaling=(True,), decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False), downsample_type=("spatiotemporal",), upsample_type=("spatiotemporal",),
        upsample_residual=(False,), upsample_factor=(1,), patch_size=1, patch_size_t=1,
        down_block_types=("LTX2VideoDownBlock3D",),
    )  # fmt: skip
    vae.latents_mean.copy_(torch.tensor([0.1, -0.2, 0.3, 0.0]))
    vae.latents_std.copy_(torch.tensor([0.5, 1.0, 2.0, 1.5]))
    return vae


def ltx2_pipeline(folder: Path, **sizes: Any) -> Path:
    """LTX-2: transformer, autoencoder, Gemma, connectors."""
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors  # noqa: PLC0415
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration  # noqa: PLC0415

    text: dict[str, Any] = dict(
        vocab_size=160, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=64,
    )  # fmt: skip
    vision: dict[str, Any] = dict(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=28, patch_size=14
    )
    gemma = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    connectors: dict[str, Any] = dict(
        caption_channels=16, text_proj_in_factor=3, video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=8, video_connector_num_layers=1, video_connector_num_learnable_registers=8,
        audio_connector_num_attention_heads=1, audio_connector_attention_head_dim=8, audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=8, per_modality_projections=True, video_hidden_dim=16,
        audio_hidden_dim=8, rope_double_precision=False,
    )  # fmt: skip
    seeded(lambda: Gemma3ForConditionalGeneration(gemma)).save_pretrained(folder / "text_encoder")
    seeded(lambda: LTX2TextConnectors(**connectors)).save_pretrained(folder / "connectors")
    seeded(ltx2_vae).save_pretrained(folder / "vae")
    plain: dict[str, Any] = {"use_prompt_embeddings": False, "vae_scale_factors": (2, 2, 2)}
    ltx2(plain | sizes, seed=5).transformer.save_pretrained(folder / "transformer")
    tokenizer(folder / "tokenizer")
    return folder


def hunyuan15_pipeline(folder: Path) -> Path:
    """HunyuanVideo 1.5: transformer, autoencoder, Qwen2.5-VL, ByT5, SigLIP."""
    from diffusers.models.autoencoders.autoencoder_kl_hunyuanvideo15 import (  # noqa: PLC0415
        AutoencoderKLHunyuanVideo15,
    )
    from transformers import (  # noqa: PLC0415
        ByT5Tokenizer,
        Qwen2_5_VLTextConfig,
        Qwen2_5_VLTextModel,
        SiglipImageProcessor,
        SiglipVisionConfig,
        SiglipVisionModel,
        T5Config,
        T5EncoderModel,
    )

    qwen = Qwen2_5_VLTextConfig(
        vocab_size=160, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2]},
    )  # fmt: skip
    byt5 = T5Config(vocab_size=400, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    siglip = SiglipVisionConfig(
        hidden_size=12, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4
    )
    vae: dict[str, Any] = dict(
        latent_channels=4, block_out_channels=(8, 8), layers_per_block=1, spatial_compression_ratio=2,
        temporal_compression_ratio=2,
    )  # fmt: skip
    seeded(lambda: Qwen2_5_VLTextModel(qwen)).save_pretrained(folder / "text_encoder")
    seeded(lambda: T5EncoderModel(byt5)).save_pretrained(folder / "text_encoder_2")
    seeded(lambda: SiglipVisionModel(siglip)).save_pretrained(folder / "image_encoder")
    seeded(lambda: AutoencoderKLHunyuanVideo15(**vae)).save_pretrained(folder / "vae")
    hunyuan15({"num_layers": 1}, seed=5, image=None).transformer.save_pretrained(folder / "transformer")
    SiglipImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder / "feature_extractor")
    ByT5Tokenizer().save_pretrained(folder / "tokenizer_2")
    tokenizer(folder / "tokenizer")
    return folder
