"""Cards of files that task=unpack wrote: what such weights are, and which settings a run of them needs."""

from collections.abc import Mapping, Sequence
from typing import Any

from wm_lightning.card import Card

UNET = "wm_lightning.networks.video_unet.VideoUNet"
RESAMPLER = "wm_lightning.networks.resampler.Resampler"
# What a network must have as the file has it, whatever becomes of its layers along time.
SAME = (
    "channels", "patch", "dim", "multipliers", "blocks", "attention_at", "head_dim", "opening_heads", "groups", "start",
    "tokens", "rate", "bypass", "action_scales",
)  # fmt: skip
PUBLISHED = "Vid2World"  # the data's name on cards of causal ones
ACTION_SHIFT = 1  # the action of a row leads to the next frame


def unpacked_card(arguments: Mapping[str, Any], resampler: Mapping[str, Any] | None, expected: Card) -> Card:
    """The card of a UNet with these constructor's arguments, and of its resampler where it has one.

    The file says nothing of data, path, autoencoder and encoders, which are those of `expected` and believed to fit.
    Raises ValueError with the overrides that make the network of `expected` one for these weights.
    """
    if expected.network.get("_target_") != UNET:
        raise ValueError(
            f"it holds a UNet of DynamiCrafter, the config names {expected.network.get('_target_')}; set "
            f"network=video_unet, as experiment=vid2world does"
        )
    sizes = dict(zip(("height", "width"), expected.frame_shape[1:], strict=True))
    # Of what this suite added to the network such files know nothing, and are without it.
    added = {"bypass": False, "action_scales": False, "start_tokens": expected.network.get("start_tokens")}
    own = {"_target_": UNET, **arguments, **sizes, **added}
    own["resampler"] = None if resampler is None else {"_target_": RESAMPLER, **resampler}
    acts = bool(arguments["actions_seen"])
    keys = (*SAME, "actions", "action_kind") if acts and expected.network["actions_seen"] else SAME
    if wrong := [*_overrides(own, expected.network, keys), *_of_resampler(own, expected.network)]:
        raise ValueError(f"its weights need {' '.join(wrong)}; add these words (size=paper has the published sizes)")
    causal = bool(arguments["causal"])
    return Card(
        kind="teacher", network=own, path=expected.path, action_spec=expected.action_spec,
        action_shift=ACTION_SHIFT if acts else expected.action_shift,
        first_action="none" if acts else expected.first_action,
        frame_shape=expected.frame_shape, autoencoder=expected.autoencoder,
        trained_for=_trained_causal() if causal else _trained_bidirectional(),
        data=PUBLISHED if causal else "DynamiCrafter",
    )  # fmt: skip


def _overrides(own: Mapping[str, Any], config: Mapping[str, Any], keys: Sequence[str], place: str = "network") -> list:
    return [f"{place}.{key}={_word(own[key])}" for key in keys if _plain(own[key]) != _plain(config.get(key))]


def _of_resampler(own: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    theirs, ours = own["resampler"], config.get("resampler")
    if theirs is None or ours is None:
        return []
    return _overrides(theirs, ours, [key for key in theirs if key != "_target_"], "network.resampler")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(map(str, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _trained_bidirectional() -> dict[str, Any]:
    """DynamiCrafter's training: all frames at one level, and no actions."""
    return {
        "chunks": [None], "context": 0, "clean_history": 0.0, "history_level": 1.0, "shared": 1.0, "steps": None,
        "commit": [{"mode": "noised", "t": 1.0}], "action_dropout": {"share": 1.0, "granularity": "clip"},
    }  # fmt: skip


def _trained_causal() -> dict[str, Any]:
    """Vid2World's: a level of its own for every frame, clean in the limit, and a fifth of the actions hidden."""
    return {
        "chunks": [1], "context": 0, "clean_history": 0.0, "history_level": 1.0, "shared": 0.0, "steps": None,
        "commit": [{"mode": "clean", "t": 0.0}, {"mode": "noised", "t": 1.0}],
        "action_dropout": {"share": 0.2, "granularity": "frame"},
    }  # fmt: skip
