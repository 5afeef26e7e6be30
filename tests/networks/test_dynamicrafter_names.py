"""Names and sizes of published checkpoints: every key has one place, and shapes tell the constructor's arguments."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from safetensors import safe_open

from tests.networks.tiny_autoencoder import diffusers_own
from tests.networks.tiny_dynamicrafter import autoencoder, drawn, resampler, unet
from wm_lightning.config import compose
from wm_lightning.networks.adapters.dynamicrafter import from_dynamicrafter, unet_name
from wm_lightning.networks.adapters.dynamicrafter_parts import from_resampler
from wm_lightning.networks.adapters.ldm_autoencoder import from_ldm_autoencoder
from wm_lightning.networks.resampler import Resampler

PUBLISHED: dict[str, Any] = {
    "dim": 320, "multipliers": (1, 2, 4, 4), "blocks": 2, "attention_at": (1, 2, 4), "head_dim": 64, "tokens": 1024,
}  # fmt: skip


def on_meta(shapes: Any) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes}


@pytest.fixture
def golden(goldens: Path) -> dict[str, torch.Tensor]:
    path = goldens / "dynamicrafter_unet.safetensors"
    if not path.is_file():
        pytest.skip(f"{path} is not there; WM_GOLDENS names a folder with it")
    with safe_open(path, "pt") as file:
        names = [name for name in file.keys() if name.startswith("weights.")]
        return {name.removeprefix("weights."): file.get_tensor(name) for name in names}


@pytest.mark.golden
def test_the_small_checkpoint_has_the_keys_of_the_reference(golden: dict[str, torch.Tensor]) -> None:
    assert {name: tuple(value.shape) for name, value in golden.items()} == dict(unet())


@pytest.mark.golden
def test_every_key_of_the_reference_has_a_place_of_its_own(golden: dict[str, torch.Tensor]) -> None:
    names = {unet_name(name) for name in golden}
    assert None not in names and len(names) == len(golden) == 640
    ours, arguments = from_dynamicrafter(golden)
    assert ours.keys() == names
    expected = {
        "dim": 32, "multipliers": [1, 2], "blocks": 1, "attention_at": [1, 2], "head_dim": 16, "tokens": 24,
        "channels": 4, "start": True, "causal": False, "head_height_causal": False, "actions_seen": False,
    }  # fmt: skip
    assert {key: arguments[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("time_embed.2.bias", "level.mlp.2.bias"),
        ("fps_embedding.0.weight", "rate.mlp.0.weight"),
        ("init_attn.0.proj_in.weight", "opening.enter.weight"),
        ("input_blocks.0.0.weight", "stem.weight"),
        ("input_blocks.3.0.op.bias", "down.2.resize.bias"),
        ("input_blocks.11.0.skip_connection.weight", "down.10.res.skip.weight"),
        ("input_blocks.1.0.temopral_conv.conv1.2.weight", "down.0.res.temporal.0.conv.weight"),
        ("input_blocks.1.0.temopral_conv.conv4.3.conv3d.weight", "down.0.res.temporal.3.conv.weight"),
        ("input_blocks.1.0.temopral_conv.conv4.0.weight", "down.0.res.temporal.3.norm.weight"),
        ("input_blocks.1.1.transformer_blocks.0.attn2.to_k_ip.weight", "down.0.spatial.attention2.image_k.weight"),
        ("middle_block.2.transformer_blocks.0.attn1.to_out.0.bias", "middle.0.temporal.attention1.out.bias"),
        ("middle_block.3.emb_layers.1.weight", "middle.1.res.embed.weight"),
        ("output_blocks.2.1.conv.weight", "up.2.resize.weight"),
        ("output_blocks.5.3.conv.bias", "up.5.resize.bias"),
        ("output_blocks.5.2.transformer_blocks.0.ff.net.0.proj.weight", "up.5.temporal.mlp.0.weight"),
        ("out.0.weight", "head.norm.weight"),
        ("out.2.conv2d.bias", "head.conv.bias"),
        ("action_emb_proj.4.bias", "action.layers.4.bias"),
        ("input_blocks.1.1.transformer_blocks.1.norm1.weight", None),
        ("input_blocks.1.1.transformer_blocks.0.attn2.alpha", None),
        ("input_blocks.1.0.temopral_conv.conv5.0.weight", None),
        ("output_blocks.5.4.conv.bias", None),
        ("label_emb.weight", None),
    ],
)
def test_names(theirs: str, ours: str | None) -> None:
    assert unet_name(theirs) == ours


@pytest.mark.parametrize(("actions", "kind"), [(None, "deep"), (13, "deep"), (3, "deep"), (51, "table")])
def test_published_sizes_are_told_by_the_shapes(actions: int | None, kind: str) -> None:
    weights = on_meta(unet(**PUBLISHED, actions=actions))
    ours, arguments = from_dynamicrafter(weights)
    assert len(ours) == len(weights)
    for key, value in PUBLISHED.items():
        assert arguments[key] == (list(value) if isinstance(value, tuple) else value)
    assert arguments["causal"] == arguments["head_height_causal"] == (actions is not None)
    assert (arguments["actions"], arguments["action_kind"]) == (actions or 0, kind)
    assert sum(value.numel() for value in ours.values()) == sum(value.numel() for value in weights.values())


def test_values_follow_their_names() -> None:
    weights = drawn(unet(actions=51))
    ours, _ = from_dynamicrafter(weights)
    assert torch.equal(ours["action.layers.0.weight"], weights["action_emb_preprocess.weight"].T)
    assert torch.equal(ours["action.layers.1.weight"], weights["action_emb_proj.0.weight"])
    assert torch.equal(ours["action.layers.3.bias"], weights["action_emb_proj.2.bias"])
    taps = weights["middle_block.0.temopral_conv.conv2.3.conv3d.weight"]
    assert torch.equal(ours["middle.0.res.temporal.1.conv.weight"], taps[..., 0, 0])
    assert torch.equal(ours["opening.leave.weight"], weights["init_attn.0.proj_out.weight"][..., 0])


def test_keys_without_a_place_and_keys_for_one_place_are_named() -> None:
    weights = on_meta(unet())
    with pytest.raises(ValueError, match=r"without a place in VideoUNet: \['label_emb.weight', 'odd'\]"):
        from_dynamicrafter(weights | {"label_emb.weight": torch.zeros(1), "odd": torch.zeros(1)})
    with pytest.raises(ValueError, match="for the same place.*'out.2.bias', 'out.2.conv2d.bias'"):
        from_dynamicrafter(weights | {"out.2.conv2d.bias": torch.zeros(4)})
    with pytest.raises(ValueError, match="no UNet of DynamiCrafter: it has no stem.weight"):
        from_dynamicrafter({k: v for k, v in weights.items() if not k.startswith("input_blocks.0")})
    with pytest.raises(ValueError, match="as many blocks at every level"):
        from_dynamicrafter({k: v for k, v in weights.items() if not k.startswith("input_blocks.3.")})


def test_the_published_autoencoder_is_the_one_of_the_config() -> None:
    with torch.device("meta"):
        architecture = instantiate(compose(["autoencoder=sd"]).autoencoder.architecture, _convert_="all")
        network = diffusers_own()(**architecture)
    ours = from_ldm_autoencoder(on_meta(autoencoder((128, 256, 512, 512), blocks=2)))
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in network.state_dict().items()}


def test_autoencoders_are_converted_as_diffusers_does() -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint  # noqa: PLC0415

    weights = drawn(autoencoder((8, 16, 24), blocks=2))
    theirs = convert_ldm_vae_checkpoint(
        {f"first_stage_model.{name}": value for name, value in weights.items()},
        {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3},
    )
    ours = from_ldm_autoencoder(weights)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(ValueError, match=r"AutoencoderKL: \['encoder.down.0.attn.0.q.weight'\]"):
        from_ldm_autoencoder(weights | {"encoder.down.0.attn.0.q.weight": torch.zeros(1)})


def test_the_published_resampler_loads_strictly() -> None:
    weights, arguments = from_resampler(on_meta(resampler(1280, 1024, 256, 1024, 4, 768)))
    assert arguments == {
        "features": 1280, "tokens": 1024, "groups": 16, "queries": 16, "dim": 1024, "depth": 4, "heads": 12,
        "head_width": 64, "mlp_ratio": 4.0,
    }  # fmt: skip
    with torch.device("meta"):
        network = Resampler(**arguments)
    network.load_state_dict(weights, strict=True)
    with pytest.raises(ValueError, match=r"place in Resampler: \['layers.0.2.weight'\]"):
        from_resampler(on_meta(resampler()) | {"layers.0.2.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="no resampler of DynamiCrafter: it has no queries"):
        from_resampler({name: value for name, value in on_meta(resampler()).items() if name != "latents"})


def test_the_resampler_reads_features_and_queries_with_the_usual_scale() -> None:
    weights = drawn(resampler(depth=1))
    ours, arguments = from_resampler(weights)
    network = Resampler(**arguments)
    network.load_state_dict(ours)
    features = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1))
    norm = torch.nn.functional.layer_norm

    def normed(x: torch.Tensor, name: str) -> torch.Tensor:
        return norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])

    # Head by head and in float64, in the names of the checkpoint.
    weights = {name: value.double() for name, value in weights.items()}
    x = weights["latents"].expand(2, -1, -1)
    entered = features.double() @ weights["proj_in.weight"].T + weights["proj_in.bias"]
    asked = normed(x, "layers.0.0.norm2")
    read = torch.cat([normed(entered, "layers.0.0.norm1"), asked], dim=1) @ weights["layers.0.0.to_kv.weight"].T
    q, (k, v) = asked @ weights["layers.0.0.to_q.weight"].T, read.split(128, dim=-1)
    heads = [
        ((q[..., part] / 64**0.25) @ (k[..., part] / 64**0.25).transpose(1, 2)).softmax(-1) @ v[..., part]
        for part in (slice(0, 64), slice(64, 128))
    ]
    x = x + torch.cat(heads, dim=-1) @ weights["layers.0.0.to_out.weight"].T
    wide = torch.nn.functional.gelu(normed(x, "layers.0.1.0") @ weights["layers.0.1.1.weight"].T)
    x = x + wide @ weights["layers.0.1.3.weight"].T
    expected = normed(x @ weights["proj_out.weight"].T + weights["proj_out.bias"], "norm_out")
    found = network(features)
    assert found.shape == (2, 64, 24)
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-5)
