"""Files of weights that are named by path and SHA-256: checked before any work, never downloaded."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wm_lightning.plain_files import tensors, unpickled, why


@dataclass(frozen=True)
class Pinned:
    """A local file and the SHA-256 its bytes must have."""

    path: str
    sha256: str

    def checked(self) -> Path:
        """The path. Raises ValueError where the file is missing or another one."""
        path = Path(self.path)
        if not path.is_file():
            raise ValueError(f"{path} is not there; weights are never downloaded: put the file there, or leave it out")
        if len(self.sha256) != 64:
            raise ValueError(f"sha256={self.sha256!r} of {path} must be the 64 digits that `sha256sum {path}` prints")
        found = file_hash(path)
        if found != self.sha256:
            raise ValueError(f"{path} has SHA-256 {found}, expected {self.sha256}: it is another file")
        return path


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state(pinned: Pinned) -> dict[str, Tensor]:
    """The tensors of a pinned state dict: safetensors, or torch's own format read with `weights_only`.

    Raises ValueError where the file is another one, or holds anything but tensors by name.
    """
    path = pinned.checked()
    try:
        content = load_file(path) if path.suffix == ".safetensors" else unpickled(path)
        return tensors(content, "the file")
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as weights ({why(error)})") from error


def read_script(pinned: Pinned) -> torch.jit.ScriptModule:
    """The TorchScript network of a pinned file.

    TorchScript is a program, so it is loaded only once its bytes are known to be those that were pinned: whoever
    states the hash of a published file trusts its publisher, and nobody else's file can take its place. It is run by
    torch's own interpreter, which unlike pickle cannot import or call what is not an operator.
    """
    path = pinned.checked()
    try:
        return torch.jit.load(str(path), map_location="cpu").eval()
    except RuntimeError as error:
        raise ValueError(f"{path} is no TorchScript file ({why(error)})") from error
