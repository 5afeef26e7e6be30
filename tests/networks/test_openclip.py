"""The frozen encoders against OpenCLIP's own network, and the resize that published weights were trained on."""

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import load_file, save_file

from tests.networks.tiny_dynamicrafter import IMAGE, TEXT, tiny_clip
from wm_lightning.config import compose
from wm_lightning.networks.openclip import (
    OpenClipImage,
    OpenClipText,
    read_empty_text,
    resized,
    write_empty_text,
)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A file as OpenCLIP publishes them, text and image in one, and the network in it."""
    path, clip = tmp_path_factory.mktemp("clip") / "open_clip_model.safetensors", tiny_clip()
    save_file(clip.state_dict(), path)
    return path, clip


@pytest.fixture(autouse=True)
def nobody_calls_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was called")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def image(path: Path) -> OpenClipImage:
    return OpenClipImage(weights=str(path), architecture=IMAGE)


def text(path: Path) -> OpenClipText:
    return OpenClipText(weights=str(path), architecture=TEXT)


def test_image_tokens_are_those_behind_the_last_block(published: tuple[Path, Any]) -> None:
    path, clip = published
    frames, seen = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1, []
    hook = clip.visual.transformer.register_forward_hook(lambda module, given, made: seen.append(made))
    encoder = image(path)
    colours = ((frames + 1) / 2 - encoder.mean) / encoder.deviation
    clip.encode_image(colours)
    hook.remove()
    tokens = encoder(frames)
    assert tokens.shape == (2, 1 + 4, 32)
    torch.testing.assert_close(tokens, seen[0], atol=1e-5, rtol=1e-5)


def test_text_states_are_those_before_the_last_block_with_the_last_norm(published: tuple[Path, Any]) -> None:
    import open_clip  # noqa: PLC0415

    path, clip = published
    texts, seen = ["", "a red cube to the left"], []
    hook = clip.transformer.resblocks[-2].register_forward_hook(lambda module, given, made: seen.append(made))
    clip.encode_text(open_clip.tokenize(texts))
    hook.remove()
    states = text(path)(texts)
    assert states.shape == (2, 77, 24)
    torch.testing.assert_close(states, clip.ln_final(seen[0]), atol=1e-6, rtol=1e-6)


def test_encoders_are_frozen_and_the_same_in_any_mode(published: tuple[Path, Any]) -> None:
    frames = torch.rand(1, 3, 40, 64)
    for encoder, given in ((image(published[0]), frames), (text(published[0]), ["a cube"])):
        before = encoder(given)
        assert not encoder.train().training and not before.requires_grad
        assert not any(parameter.requires_grad for parameter in encoder.parameters())
        assert torch.equal(encoder(given), before)
        assert all(not value.is_meta for value in (*encoder.parameters(), *encoder.buffers()))


# kornia 0.9.0: resize(surface, (14, 14), interpolation="bicubic", align_corners=True, antialias=True)[0, 0]
KORNIA_ROW = [
    4.241187e-04, 4.438521e-03, 1.665576e-02, 3.722257e-02, 6.613317e-02, 1.032295e-01, 1.482009e-01, 2.007951e-01,
    2.619424e-01, 3.318051e-01, 4.102137e-01, 4.968459e-01, 5.912277e-01, 6.653769e-01,
]  # fmt: skip
KORNIA_COLUMN = [
    0.009721, 0.055205, 0.110410, 0.165615, 0.220820, 0.276026, 0.331231, 0.386436, 0.441641, 0.496846, 0.552051,
    0.607256, 0.662461, 0.707945,
]  # fmt: skip


@pytest.mark.parametrize("size", [(28, 28), (14, 20)])
def test_frames_that_need_not_shrink_are_not_smoothed(size: tuple[int, int]) -> None:
    frames = torch.rand(1, 3, *size)
    expected = torch.nn.functional.interpolate(frames, (28, 28), mode="bicubic", align_corners=True)
    torch.testing.assert_close(resized(frames, 28), expected)


def test_frames_that_shrink_are_smoothed_as_kornia_does() -> None:
    surface = torch.linspace(0, 1, 40)[:, None] * torch.linspace(0, 1, 64) ** 2
    found = resized(surface.expand(1, 3, 40, 64), 14)
    assert found.shape == (1, 3, 14, 14)
    torch.testing.assert_close(found[0, 0, 9], torch.tensor(KORNIA_ROW), atol=1e-6, rtol=0)
    torch.testing.assert_close(found[0, 2, :, 11], torch.tensor(KORNIA_COLUMN), atol=1e-6, rtol=0)


def test_the_published_architectures_are_vit_h_14s() -> None:
    from open_clip import get_model_config  # noqa: PLC0415

    published: Any = get_model_config("ViT-H-14")
    ours: Any = instantiate(compose(["task=unpack"]).task.text, _convert_="all")
    assert ours == {**published["text_cfg"], "output_dim": published["embed_dim"]}


def test_the_empty_text_is_kept_with_the_hash_of_its_weights(published: tuple[Path, Any], tmp_path: Path) -> None:
    encoder, path = text(published[0]), tmp_path / "empty_text.safetensors"
    write_empty_text(encoder, path)
    states = read_empty_text(path, encoder.sha256)
    assert states.shape == (1, 77, 24) and torch.equal(states, encoder([""]))
    assert torch.equal(read_empty_text(path, None), states)
    with pytest.raises(ValueError, match=f"SHA-256 {encoder.sha256}, expected is abc; make it anew"):
        read_empty_text(path, "abc")
    with pytest.raises(ValueError, match="holds no empty_text.*task.empty_text=true writes it"):
        read_empty_text(published[0], None)


@pytest.mark.parametrize("encoder", [OpenClipImage, OpenClipText])
@pytest.mark.parametrize("weights", [None, "absent.safetensors", "pytorch_model.bin"])
def test_files_that_are_not_it(encoder: Any, weights: str | None, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    path = None if weights is None else str(tmp_path / weights)
    with pytest.raises(ValueError, match="is no .safetensors file; name OpenCLIP's .* nothing is downloaded"):
        encoder(weights=path, architecture={})


def test_weights_of_another_architecture_are_refused(published: tuple[Path, Any], tmp_path: Path) -> None:
    path = published[0]
    with pytest.raises(ValueError, match="is not of OpenCLIP's VisionTransformer with this architecture.*resblocks.3"):
        OpenClipImage(weights=str(path), architecture=IMAGE | {"layers": 4})
    with pytest.raises(ValueError, match="is not of OpenCLIP's TextTransformer.*depth"):
        OpenClipText(weights=str(path), architecture=TEXT | {"depth": 3})
    partial = {name: value for name, value in load_file(path).items() if name != "ln_final.bias"}
    save_file(partial, tmp_path / "partial.safetensors")
    with pytest.raises(ValueError, match="Missing key.*ln_final.bias"):
        text(tmp_path / "partial.safetensors")
