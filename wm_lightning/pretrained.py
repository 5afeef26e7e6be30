"""Shared folders: what `task=convert task.to=hub` writes, read back as a model that is ready to generate.

Whoever made a folder may be anybody: nothing in it is run, and its `_target_`s are held to those that a config may
build, of networks, noise and sampling alone.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from hydra.errors import HydraException
from hydra.utils import instantiate
from jaxtyping import Float, UInt8
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn

from wm_lightning.card import Card
from wm_lightning.checkpoints import NetworkFile, read_network
from wm_lightning.clip import ActionSpec, ActionState, Clip, Condition, to_pixels
from wm_lightning.config_check import check, locate, targets
from wm_lightning.networks.autoencoders import Autoencoder, PatchAutoencoder, PixelAutoencoder
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.noising import GaussianPath
from wm_lightning.sampling.rollout import Plan
from wm_lightning.sampling.samplers import Sampler
from wm_lightning.tasks.build import network_of
from wm_lightning.tasks.evaluate import require
from wm_lightning.tasks.subjects import Subject

FORMAT = 1  # of config.json; a folder of another one is refused
WEIGHTS, SETTINGS, README, FILM = "model.safetensors", "config.json", "README.md", "rollouts.gif"
FILES = (README, SETTINGS, WEIGHTS, FILM)
KINDS = ("teacher", "student")
# What a folder may have built: less than a config may.
_HOMES = ("wm_lightning.networks.", "wm_lightning.noising.", "wm_lightning.sampling.")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class Shared:
    """A folder's content, checked and loaded: its settings as nodes of a config, the card and weights, the network."""

    config: DictConfig
    file: NetworkFile
    network: nn.Module

    @property
    def context(self) -> int:
        """Given frames that a video begins with."""
        return int(self.config.module.context)


@dataclass(frozen=True)
class Pretrained:
    """A network as its training deployed it, with what makes video of it.

    `card` says what it was trained for, `context` how many given frames a video begins with. `autoencoder` makes what
    the network sees of pixels (None: it sees pixels).
    """

    subject: Subject
    card: Card
    context: int
    device: torch.device
    autoencoder: Autoencoder | None

    @property
    def network(self) -> nn.Module:
        """The network, without gradients."""
        return self.subject.model.network

    @property
    def path(self) -> GaussianPath:
        """The noise it was trained with, and what it predicts."""
        return self.subject.model.path

    @property
    def sampler(self) -> Sampler:
        """Its denoising steps."""
        return self.subject.sampler

    @property
    def rollout(self) -> Plan:
        """How a rollout proceeds: chunks, window, and how frames are remembered."""
        return self.subject.plan

    @property
    def spec(self) -> ActionSpec:
        """Names and bounds of the action columns."""
        return ActionSpec.from_dict(self.card.action_spec)

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of a frame."""
        factor = 1 if self.autoencoder is None else self.autoencoder.factor
        return self.card.frame_shape[1] * factor, self.card.frame_shape[2] * factor

    def generate(
        self, first_frames: UInt8[Tensor, "b given c h w"], actions: Float[Tensor, "b total a"], *, seed: int = 0
    ) -> UInt8[Tensor, "b total c h w"]:  # fmt: skip
        """Video uint8 `b f 3 h w` on the CPU: the given frames, then one for every further action.

        `first_frames` are uint8 `b context 3 h w`. `actions[:, f]`, in the data's own units, leads to frame f; what led
        to frame 0 is not known, and its action is not read. The same seed gives the same video.
        Raises ValueError for other shapes, for actions out of their bounds, and for more frames than were trained.
        """
        self._require_fit(first_frames, actions)
        given = actions.float().clone()
        state = torch.full(given.shape[:2], int(ActionState.GIVEN))
        given[:, 0], state[:, 0] = 0.0, int(ActionState.NONE)
        encoded = None if self.autoencoder is None else self.autoencoder.encode(first_frames.to(self.device))
        # Actions may be longer than the video: the rest is what is made.
        clip = Clip(first_frames, Condition(given, state), torch.arange(len(given)), latents=encoded)
        return self.subject.generate(clip, self.context, seed, self.device)

    def _require_fit(
        self, first_frames: UInt8[Tensor, "b given c h w"], actions: Float[Tensor, "b total a"]
    ) -> None:  # fmt: skip
        spec, wanted = self.spec, (len(actions), self.context, 3, *self.pixels)
        if tuple(first_frames.shape) != wanted or first_frames.dtype != torch.uint8:
            raise ValueError(
                f"first_frames {first_frames.dtype} {tuple(first_frames.shape)}: torch.uint8 {wanted} is expected "
                f"(clips, given frames, colours, rows, columns); resize pictures first"
            )
        if actions.shape[-1] != spec.dim or actions.shape[1] <= self.context:
            raise ValueError(
                f"actions {tuple(actions.shape)}: {spec.dim} columns ({', '.join(spec.names)}) are expected, for the "
                f"{self.context} given frames and for at least one more"
            )
        low, high = actions.new_tensor(spec.low), actions.new_tensor(spec.high)
        bad = ~actions.isfinite() | (actions < low) | (actions > high)
        if bool(bad.any()):
            _, _, column = (int(place) for place in bad.nonzero()[0])
            raise ValueError(
                f"an action has {float(actions[bad][0]):g} as {spec.names[column]}, which lies within "
                f"{spec.low[column]:g} and {spec.high[column]:g}; clip actions first"
            )
        frames = actions.shape[1]
        self.card.require_frames(min(self.rollout.window or frames, frames), "the video")


def from_pretrained(
    source: str | Path, *, revision: str | None = None, device: torch.device | str = "cpu",
    autoencoder: Autoencoder | None = None,
) -> Pretrained:  # fmt: skip
    """The model of a shared folder, or of a model hub's `USER/NAME` (at `revision`), ready to generate in float32.

    A network of an autoencoder's latents needs that `autoencoder`, unless it has no weights.
    Raises ValueError for a folder that cannot be read, or that would build what it may not.
    """
    shared = read_shared(_folder(source, revision))
    own, place = _autoencoder(shared.file.card, autoencoder), torch.device(device)
    path, sampler, plan = settings_of(shared.config)
    kind, steps = shared.file.card.kind, len(sampler.levels(path, plan.chunk)) - 1
    model = Denoiser(shared.network.to(place), path)
    decode = to_pixels if own is None else own.decode
    subject = Subject(kind, kind, model, sampler, plan, steps, cached=True, decode=decode)
    return Pretrained(subject, shared.file.card, shared.context, place, own)


def read_shared(folder: Path) -> Shared:
    """The content of a folder. Raises ValueError, naming the file, for what cannot be read or may not be built."""
    card, config = _read_settings(folder / SETTINGS)
    file = read_network(folder / WEIGHTS, card)
    if differences := file.card.differences(card):
        raise ValueError(f"{folder}: {WEIGHTS} is not of {SETTINGS}: {'; '.join(differences)}")
    try:
        _, _, plan = settings_of(config)
        frames = plan.window or file.card.trained_for.get("frames") or config.module.context + 1
        require(file.card, config, config.module.context, frames)
        network = network_of(config, file, torch.device("cpu"))
    except (HydraException, OmegaConfBaseException, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{folder / SETTINGS} cannot be built: {' '.join(str(error).split())[:300]}") from error
    return Shared(config, file, network)


def settings_of(config: DictConfig) -> tuple[GaussianPath, Sampler, Plan]:
    """Path, sampler and plan of a config. Raises ValueError where they are none."""
    found = [instantiate(node, _convert_="all") for node in (config.noising, config.module.sampler, config.rollout)]
    for part, kind in zip(found, (GaussianPath, Sampler, Plan), strict=True):
        if not isinstance(part, kind):
            raise ValueError(f"a {type(part).__name__} stands where a {kind.__name__} is expected")
    return found[0], found[1], found[2]


def nodes_of(values: Mapping[str, Any]) -> DictConfig:
    """The settings of `config.json` as the nodes of a config that they were.

    Raises ValueError for a `_target_` that a folder may not have built, and for a key that it does not take.
    """
    nodes = {
        "network": {**values["network"], "_partial_": True}, "noising": values["path"], "rollout": values["rollout"],
        "module": {"context": values["context"], "sampler": values["sampler"]},
    }  # fmt: skip
    if "${" in json.dumps(nodes):
        raise ValueError("it holds an interpolation (${...}), which could read what is none of its business")
    for target in targets(nodes):
        home = f"{locate(target.name).__module__}."
        if not home.startswith(_HOMES):
            raise ValueError(f"{target.place}: {target.name} is no part of a model, and is not built")
    config = OmegaConf.create(nodes)
    check(config)
    return config


def _read_settings(path: Path) -> tuple[Card, DictConfig]:
    """The card that is expected of the weights, and the settings."""
    if not path.is_file():
        raise ValueError(f"{path} is not there: name a folder that task=convert task.to=hub wrote, or its hub id")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']!r} where {FORMAT} is expected: written by another version")
        if values["kind"] not in KINDS or type(values["context"]) is not int or values["context"] < 1:
            raise ValueError(f"a {values['kind']!r} with {values['context']!r} given frames cannot be rolled out")
        return Card.from_dict({entry.name: values[entry.name] for entry in fields(Card)}), nodes_of(values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is refused: {type(error).__name__}: {error}") from error


def _folder(source: str | Path, revision: str | None) -> Path:
    folder = Path(source)
    if folder.is_dir():
        return folder
    if not isinstance(source, str) or not _HUB_ID.fullmatch(source):
        raise ValueError(f"{source} is no folder, and no hub id as USER/NAME")
    try:
        from huggingface_hub import snapshot_download  # noqa: PLC0415  who has the folder does without
    except ModuleNotFoundError as error:
        raise ValueError(f"{source} is no folder; to fetch it from a model hub: pip install huggingface_hub") from error
    return Path(snapshot_download(source, revision=revision, allow_patterns=list(FILES)))


def _autoencoder(card: Card, given: Autoencoder | None) -> Autoencoder | None:
    """What makes the latents the network is of. Raises ValueError where it is missing, or another one is given."""
    identity = dict(card.autoencoder)
    if not identity and given is None:
        return None
    if given is None and identity.get("kind") == "pixel":
        return PixelAutoencoder(batch_frames=64)
    if given is None and identity.get("kind") == "patch":
        return PatchAutoencoder(factor=int(identity["factor"]), batch_frames=64)
    if given is None or json.loads(json.dumps(given.identity)) != identity:
        other = None if given is None else given.identity
        raise ValueError(
            f"the network is of {identity or 'pixels'}, given is autoencoder={other}: give the one it was trained with"
        )
    return given
