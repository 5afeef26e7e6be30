"""What a network was trained for, stored with its weights, and the refusal of everything else."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

MASK_NAMES = {None: "bidirectional", 1: "framewise"}


def mask_name(chunk: int | None) -> str:
    """ "bidirectional", "framewise" or "chunkwise (n)"."""
    return MASK_NAMES.get(chunk, f"chunkwise ({chunk})")


@dataclass(frozen=True)
class Card:
    """Declares a network: how it is built, the data it fits, and what its training covered.

    `network` and `path` are plain configs (`_target_` and arguments). `autoencoder` says what made the latents that the
    network is of (empty: it is of pixels). `trained_for` holds `chunks`
    (null: bidirectional), `frames` of a clip, `context`, `clean_history`, `history_level`, `shared`, `steps`, `commit`
    (modes with t) and `action_dropout` (share, granularity). `first_action` is the data's: "none" where no clip was
    told what led to its first frame.
    """

    kind: str
    network: Mapping[str, Any]
    path: Mapping[str, Any]
    action_spec: Mapping[str, Any]
    action_shift: int
    frame_shape: tuple[int, ...]
    trained_for: Mapping[str, Any]
    data: str
    iterations: int = 0
    revision: str = ""
    config_hash: str = ""
    command: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    autoencoder: Mapping[str, Any] = field(default_factory=dict)
    first_action: str = "stored"

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, fit for JSON and for checkpoints loaded with weights_only."""
        values = asdict(self)
        return {**values, "frame_shape": list(self.frame_shape)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Card":
        """Inverse of `to_dict`. Raises TypeError for a key that is none of a card's."""
        return cls(**{**values, "frame_shape": tuple(values["frame_shape"])})

    def differences(self, other: "Card") -> list[str]:
        """What keeps the two from being used for one another: kind, network, path, autoencoder, actions, frame size."""
        named = ("kind", "network", "path", "autoencoder", "action_spec", "action_shift", "frame_shape", "first_action")
        pairs = [(name, _plain(getattr(self, name)), _plain(getattr(other, name))) for name in named]
        return [line for name, own, theirs in pairs if own != theirs for line in _explain(name, own, theirs)]

    def covers_mask(self, chunk: int | None) -> bool:
        """Was this mask trained?"""
        return chunk in self.trained_for["chunks"]

    def require_mask(self, chunk: int | None, use: str) -> None:
        """Raises ValueError where the mask was not trained."""
        if not self.covers_mask(chunk):
            known = ", ".join(mask_name(c) for c in self.trained_for["chunks"])
            raise ValueError(
                f"{use} needs the mask {mask_name(chunk)}, the {self.kind} was trained with: {known}; choose one of "
                f"these with rollout.chunk, or train this one first (a teacher by module.masks, or in a distillation "
                f"by module.teacher.adapt=ITERATIONS)"
            )

    def covers_one_level(self, chunk: int | None) -> bool:
        """Were frames that see each other noised to one level? Under a causal mask that is one case among others."""
        return chunk is not None or self.trained_for["shared"] > 0

    def require_one_level(self, chunk: int | None, use: str) -> None:
        """Raises ValueError where under the bidirectional mask every frame had a level of its own."""
        if not self.covers_one_level(chunk):
            raise ValueError(
                f"{use} noises all frames to one level, which the {self.kind} never saw under the mask "
                f"{mask_name(chunk)} (shared=0); train it with module.levels.shared above 0, or in a distillation by "
                f"module.teacher.adapt=ITERATIONS"
            )

    def covers_frames(self, frames: int) -> bool:
        """Were clips this long trained? Foreign files do not say, and networks without places in time need not."""
        return frames <= (self.trained_for.get("frames") or frames)

    def require_frames(self, frames: int, use: str) -> None:
        """Raises ValueError where positions in time would lie beyond those that were trained."""
        if not self.covers_frames(frames):
            raise ValueError(
                f"{use} spans {frames} frames, the {self.kind} was trained on clips of {self.trained_for['frames']}; "
                f"make it shorter, or train this one on longer clips (a teacher by data.frames, or in a distillation "
                f"by module.teacher.adapt=ITERATIONS)"
            )

    def require_null(self, pattern: str, use: str) -> None:
        """Raises ValueError where guidance would ask for actions the training never dropped that way."""
        dropout = self.trained_for["action_dropout"]
        wanted = {"all": ("clip", "both"), "newest": ("frame", "both")}[pattern]
        if not dropout["share"] or dropout["granularity"] not in wanted:
            # What was trained for one pattern needs the other beside it; where nothing was dropped, a share first.
            better = wanted[1] if dropout["share"] else wanted[0]
            share = "" if dropout["share"] else "module.action_dropout.share above 0 (0.2 is Vid2World's) and "
            raise ValueError(
                f"{use} needs actions dropped by {' or '.join(wanted)} (null pattern {pattern!r}); the {self.kind} "
                f"was trained with share={dropout['share']} by {dropout['granularity']}; use a guidance scale of 1 "
                f"or a {self.kind} trained with {share}module.action_dropout.granularity={better}"
            )

    def require_sampler(self, sampler: Mapping[str, Any]) -> None:
        """Raises ValueError where a student would step otherwise than it was trained to."""
        trained = self.trained_for.get("sampler")
        if trained is not None and _plain(trained) != _plain(sampler):
            raise ValueError(
                f"the {self.kind} was trained for the steps {trained}, the config has {dict(sampler)}; set sampler= to "
                f"what it was trained for, or load its .ckpt, which remembers its own settings"
            )

    def require_context(self, context: int, use: str) -> None:
        """Raises ValueError where given frames would be noised that never were, or clean that never were."""
        trained, clean = self.trained_for["context"], any(e["mode"] == "clean" for e in self.trained_for["commit"])
        if context < trained or (context > trained and not clean):
            raise ValueError(
                f"{use}={context}: the {self.kind} was trained with {trained} clean frames at the start, and was "
                f"{'' if clean else 'never '}shown clean frames after them; set it to {trained}"
            )

    def require_commit(self, mode: str, t: float, use: str) -> None:
        """Raises ValueError where history was never shown in the way the commit would show it."""
        trained = self.trained_for
        modes = {entry["mode"]: entry["t"] for entry in trained["commit"]}
        # "last" has no t of its own: it shows the level of the sampler's last step, so it counts only where declared.
        within_history = mode in ("noised", "scaled") and t <= trained["history_level"]
        if within_history or (mode in modes and (mode == "last" or t <= modes[mode] + 1e-9)):
            return
        known = ", ".join(f"{entry['mode']} at t <= {entry['t']}" for entry in trained["commit"])
        raise ValueError(
            f"{use} commits with mode {mode!r} at t={t:g}, the {self.kind} was trained with: {known} "
            f"(history noised up to {trained['history_level']:g}); set rollout.commit to one of these"
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if key not in ("_partial_", "gradient_checkpointing")}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _explain(name: str, own: Any, other: Any) -> list[str]:
    if isinstance(own, dict) and isinstance(other, dict):
        keys = [key for key in {**own, **other} if own.get(key) != other.get(key)]
        return [f"{name}.{key}: {own.get(key)!r} against {other.get(key)!r}" for key in keys]
    return [f"{name}: {own!r} against {other!r}"]
