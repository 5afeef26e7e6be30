"""An inverse-dynamics network in a file: safetensors, with what it was trained on in the header."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from wm_lightning.clip import ActionSpec
from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.metrics.pinned import Pinned, file_hash
from wm_lightning.networks.inverse_dynamics import InverseDynamics
from wm_lightning.plain_files import DAMAGED, why

log = logging.getLogger(__name__)

ASSETS = Path(__file__).parent / "assets"
# A column whose ceiling is below this cannot be read off real clips, so nothing is asked of generated ones.
READABLE = 0.5
VERSION = "inverse dynamics 1"  # what the network does with its weights; a change of it needs a new number


@runtime_checkable
class Described(Protocol):
    """Data, as far as a reader of actions must fit them."""

    frame_shape: tuple[int, int, int]
    spec: ActionSpec
    action_shift: int


@dataclass(frozen=True)
class Trained:
    """What an inverse-dynamics network was trained on; `ceiling` is its R2 on real validation clips, by what
    it reads."""

    data: str
    frame_shape: tuple[int, int, int]
    action_spec: Mapping[str, Any]
    action_shift: int
    width: int
    iterations: int
    ceiling: Mapping[str, float]
    content: str = ""  # hash of the data
    version: str = field(default=VERSION)

    def differences_from(self, data: Described) -> list[str]:
        """Why the network cannot read these data, in words; empty where it can."""
        pairs = {
            "frames": (tuple(self.frame_shape), tuple(data.frame_shape)),
            "action columns": (list(self.action_spec["names"]), list(data.spec.names)),
            "action bounds": tuple(
                [list(spec["low"]), list(spec["high"])] for spec in (self.action_spec, data.spec.to_dict())
            ),
            "action shift": (self.action_shift, data.action_shift),
        }
        return [f"{what} {ours}, not {theirs}" for what, (ours, theirs) in pairs.items() if ours != theirs]


@dataclass(frozen=True)
class Reader:
    """The network, ready to read, with its record and the SHA-256 of its file."""

    network: InverseDynamics
    trained: Trained
    sha256: str

    @property
    def readable(self) -> list[str]:
        """The columns, and the quantities that columns are bins of, that can be read off real clips."""
        names, _ = self.network.readings(self.trained.action_spec["names"])
        return [name for name in names if self.trained.ceiling.get(name, 0.0) >= READABLE]

    @property
    def matrix(self) -> Float[Tensor, "a q"]:
        """What makes those of standardised columns."""
        names, matrix = self.network.readings(self.trained.action_spec["names"])
        return matrix[:, [names.index(name) for name in self.readable]]


def save_reader(path: Path, network: InverseDynamics, trained: Trained) -> str:
    """Writes the network beside `path`, puts it in place in one step, and returns the file's SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with atomic_file(path) as partial:
        # By way of bytes: safetensors' own files are readable for their owner alone.
        partial.write_bytes(save(weights, metadata={"trained": json.dumps(asdict(trained))}))
    return file_hash(path)


def load_reader(pinned: Pinned) -> Reader:
    """The network of a pinned file. Raises ValueError where it is another file, or not one of these."""
    path = pinned.checked()
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {}).get("trained", "null"))
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is no safetensors file ({error}); give what task=inverse_dynamics wrote") from error
    if not isinstance(values, dict) or values.get("version") != VERSION:
        raise ValueError(f"{path} is no inverse-dynamics network of {VERSION!r}; make one with task=inverse_dynamics")
    try:
        trained = Trained(**{**values, "frame_shape": tuple(values["frame_shape"])})
        network = InverseDynamics(actions=len(trained.action_spec["names"]), width=trained.width)
        network.load_state_dict(load_file(path))
    except DAMAGED as error:
        raise ValueError(
            f"{path} holds no sound network ({why(error)}); give what task=inverse_dynamics wrote"
        ) from error
    return Reader(network.eval().requires_grad_(False), trained, pinned.sha256)


def shipped_reader(name: str, data: Described) -> Reader | None:
    """The suite's own network for the data set `name`; None, with a word in the log, where there is none that fits."""
    path = ASSETS / f"inverse_dynamics_{name}.safetensors"
    reader = load_reader(Pinned(str(path), file_hash(path))) if path.is_file() else None
    wrong = ["none comes with the suite"] if reader is None else reader.trained.differences_from(data)
    if wrong:
        log.info(
            "No action recovery for %s: %s; train a network with task=inverse_dynamics and name it with "
            "callbacks.action_fidelity.inverse_dynamics", name, "; ".join(wrong),
        )  # fmt: skip
    return None if wrong else reader
