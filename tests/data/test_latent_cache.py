"""A latent cache of another key is refused by the part that differs."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.data.encoding import encode, opened, recordings
from tests.networks.tiny_autoencoder import words, write_weights


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recordings(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="module")
def cache(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished cache of patches."""
    folder = tmp_path_factory.mktemp("encoded")
    encode(root, folder, folder / "latents")
    return folder / "latents"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


STALE = {
    "another patch": (["autoencoder.factor=2", "network.channels=12"], "the autoencoder or its weights"),
    "another resize": (["data.resize=crop"], "resize, height or width"),
    "another size": (["data.height=64"], "resize, height or width"),
    "another decoder": (["data.trim_tail=true"], "the recordings"),
}


@pytest.mark.parametrize("change", STALE)
def test_a_stale_cache_is_refused_by_the_part_that_differs(
    root: Path, cache: Path, tmp_path: Path, change: str
) -> None:
    more, said = STALE[change]
    with pytest.raises(
        ValueError,
        match=f"encoded with other settings:\n  {said}.* there, .* here\nRemake it: python run.py task=encode",
    ):
        opened(root, tmp_path, "autoencoder=patch", f"data.latents={cache}", *more)


@pytest.mark.parametrize(("part", "other"), [("dtype", "float32"), ("version", 0), ("data", "0")])
def test_a_cache_of_another_kind_is_refused(root: Path, cache: Path, tmp_path: Path, part: str, other: object) -> None:
    shutil.copytree(cache, tmp_path / "latents")
    stored = json.loads((tmp_path / "latents/cache.json").read_text())
    stored["parts"][part] = other
    (tmp_path / "latents/cache.json").write_text(json.dumps(stored))
    for use in (
        lambda: opened(root, tmp_path, "autoencoder=patch", f"data.latents={tmp_path / 'latents'}"),
        lambda: encode(root, tmp_path, tmp_path / "latents"),
    ):
        with pytest.raises(ValueError, match="encoded with other settings"):
            use()
    assert files(tmp_path / "latents") == files(cache)


def test_changed_recordings_make_it_stale(cache: Path, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "copy")
    named = ["autoencoder=patch", f"data.latents={cache}"]
    opened(tmp_path / "copy", tmp_path, *named)  # the same files elsewhere are the same recordings
    os.utime(tmp_path / "copy/bridge/train/000000001.npz")
    with pytest.raises(ValueError, match=r"the recordings \(a file's name, size or time"):
        opened(tmp_path / "copy", tmp_path, *named)


def test_weights_scale_and_shift_make_it_stale(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "vae.safetensors"
    write_weights(path)
    encode(root, tmp_path, tmp_path / "latents", *words(path))
    named = [*words(path), f"data.latents={tmp_path / 'latents'}"]
    assert opened(root, tmp_path, *named).frame_shape == (4, 16, 16)
    for change, said in (
        ("autoencoder.scale=1.0", "scale or shift of the latents.*0.18215.*there.*1.0"),
        ("autoencoder.shift=0.0609", "scale or shift of the latents.*0.0609"),
        ("autoencoder.architecture.norm_num_groups=2", "the autoencoder or its weights"),
    ):
        with pytest.raises(ValueError, match=said):
            opened(root, tmp_path, *named, change)
    write_weights(path, seed=1)
    with pytest.raises(ValueError, match="the autoencoder or its weights"):
        opened(root, tmp_path, *named)
