"""Which judge a checkpoint learned to please, and whether it is the one that shall measure it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from wm_lightning.config_record import flat, plain
from wm_lightning.plain_files import read_plain

Node = Mapping[str, Any]
# How much a judgement weighs and how often it may fail make no other judge.
NO_JUDGE = ("weights", "max_invalid", "judgements", "_partial_")


def judge_of_training(config: DictConfig) -> Node | None:
    """The judges that the checkpoint's own record names; the config's, where the file has no record.

    None where no judge taught the network.
    """
    last = Path(config.run_dir) / "checkpoints" / "best.ckpt"
    path = last if config.ckpt_path == "last" else Path(str(config.ckpt_path))
    record = None
    if path.suffix == ".ckpt" and path.is_file():
        record = (read_plain(path, mmap=True).get("provenance") or {}).get("config")
    whole = plain(config) if record is None else record
    return (whole.get("module") or {}).get("judges") or whole.get("reward")


def same_judge(one: Node, other: Node) -> bool:
    """Whether both ask one model, whatever server has it and whatever it is asked; or are the same program."""
    return _identity(one) == _identity(other)


def judge_name(node: Node) -> str:
    """The model's name, or what program it is."""
    return str((node.get("endpoint") or {}).get("model") or node["_target_"].rsplit(".", 1)[-1])


def require_another(config: DictConfig, own: Node | None, allowed: bool) -> None:
    """Raises ValueError where `protocol.judges` are those that taught the checkpoint, unless that is allowed."""
    judges = plain(config)["protocol"]["judges"]
    if own is not None and not allowed and same_judge(own, judges):
        raise ValueError(
            f"protocol.judges is {judge_name(judges)}, which also taught {config.ckpt_path}: what pleases it may be no "
            f"more than what it overlooks. Name another judge (protocol.judges.endpoint.model=NAME, or "
            f"reward@protocol.judges=NAME), or see it all the same with protocol.same_judge=true"
        )


def _identity(node: Node) -> Any:
    # A server may name a model with or without the folder it is from.
    if model := (node.get("endpoint") or {}).get("model"):
        return str(model).rstrip("/").rsplit("/", 1)[-1].casefold()
    return {key: value for key, value in flat(node).items() if key.split(".")[0] not in NO_JUDGE}
