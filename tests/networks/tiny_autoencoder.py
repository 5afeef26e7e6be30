"""An AutoencoderKL of a few thousand random weights, in a file as the published ones are."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from wm_lightning.networks.autoencoders import KLAutoencoder

SCALE, SHIFT = 0.18215, 0.0609


def diffusers_own() -> type[Any]:
    """The class AutoencoderKL: its import takes seconds, which every process that only collects tests would pay."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # noqa: PLC0415

    return AutoencoderKL


def architecture(channels: int = 4) -> dict[str, Any]:
    """Two levels, so that one latent is of 2 x 2 pixels."""
    return {
        "in_channels": 3, "out_channels": 3, "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2, "block_out_channels": [8, 8], "layers_per_block": 1,
        "act_fn": "silu", "latent_channels": channels, "norm_num_groups": 4, "use_quant_conv": True,
        "use_post_quant_conv": True,
    }  # fmt: skip


def write_weights(path: Path, seed: int = 0, **changes: Any) -> Any:
    """diffusers' own network, whose random weights are in the file."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = diffusers_own()(**(architecture() | changes)).eval()
    save_file(network.state_dict(), path)
    return network


def words(path: Path) -> list[str]:
    """The overrides that choose it on a command line, for frames of 32 x 32."""
    own = ", ".join(f"{key}: {value}" for key, value in architecture().items()).replace("'", "").replace("True", "true")
    sizes = ["network.height=16", "network.width=16"]
    return ["autoencoder=sd", f"autoencoder.weights={path}", f"autoencoder.architecture={{{own}}}", *sizes]


def tiny_autoencoder(path: Path, **changes: Any) -> KLAutoencoder:
    """The autoencoder of such a file."""
    settings: dict[str, Any] = {"weights": str(path), "sha256": None, "scale": SCALE, "shift": SHIFT, "batch_frames": 2}
    return KLAutoencoder(**(settings | {"architecture": architecture()} | changes))
