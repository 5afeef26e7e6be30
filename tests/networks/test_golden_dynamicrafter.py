"""Random networks of DynamiCrafter's own UNet, reproduced: a forward pass with text and image tokens."""

import json
import os
from pathlib import Path

import pytest
import torch
from einops import rearrange
from safetensors import safe_open

from wm_lightning.clip import Condition, Start
from wm_lightning.networks.adapters.dynamicrafter import from_dynamicrafter
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.video_unet import VideoUNet

pytestmark = pytest.mark.golden

FOLDER = Path(os.environ.get("WM_GOLDENS", Path(__file__).parents[1] / "goldens"))
FILES = sorted(FOLDER.glob("dynamicrafter_unet*.safetensors"))
TEXT = 77  # tokens of a text, before those of the image


def test_golden_files_are_there() -> None:
    if not FILES:
        pytest.skip(f"no dynamicrafter_unet*.safetensors in {FOLDER}; WM_GOLDENS names a folder with them")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_golden_forward(path: Path) -> None:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        meta = json.loads(file.metadata()["meta"])
    assert meta["layout"] == "b c t h w" and meta["config"]["fs_condition"]
    prefix = "weights."
    weights = {k.removeprefix(prefix): v.float() for k, v in tensors.items() if k.startswith(prefix)}
    converted, arguments = from_dynamicrafter(weights)
    x = rearrange(tensors["x"].float(), "b c t h w -> b t c h w")
    batch, frames, _, height, width = x.shape
    # One rate for the batch: it is an argument of the network.
    (rate,) = {float(value) for value in tensors["fs"]}
    network = VideoUNet(**(arguments | {"rate": rate, "height": height, "width": width})).eval()
    network.load_state_dict(converted, strict=True)

    noisy, start = x.split([arguments["channels"], x.shape[2] - arguments["channels"]], dim=2)
    text, image = tensors["context"].float().split([TEXT, tensors["context"].shape[1] - TEXT], dim=1)
    unseen = torch.zeros(batch, frames, arguments["actions"]), torch.zeros(batch, frames, dtype=torch.long)
    label = tensors["timesteps"].float()[:, None].expand(batch, frames)
    with torch.no_grad():
        made, _ = network(noisy, label, Condition(*unseen, Start(start, image, text)), mask=FrameMask(None))
    expected = rearrange(tensors["output"].float(), "b c t h w -> b t c h w")
    assert float(expected.abs().max()) > 0.1
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)
