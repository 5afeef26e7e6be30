"""Which judge a checkpoint learned to please, and whether it is the one that shall measure it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from wm_lightning.config_record import flat, plain
from wm_lightning.plain_files import read_plain
from wm_lightning.tasks.build import kind_of

Node = Mapping[str, Any]
# How much a judgement weighs and how often it may fail make no other judge.
UNKNOWN: Node = {"_target_": "unknown"}
NO_JUDGE = ("weights", "max_invalid", "judgements", "_partial_")


def judge_of_training(config: DictConfig, allowed: bool) -> Node | None:
    """The judges by the checkpoint's own record: those that taught it, or chose its best; None where there were none.

    An executor's file without a record may have been taught by anybody: UNKNOWN where that is `allowed`, else
    ValueError.
    """
    last = Path(config.run_dir) / "checkpoints" / "best.ckpt"
    path = last if config.ckpt_path == "last" else Path(str(config.ckpt_path))
    record = None
    if path.suffix == ".ckpt" and path.is_file():
        record = (read_plain(path, mmap=True).get("provenance") or {}).get("config")
    if record is None and kind_of(config) == "executor":
        if allowed:
            return UNKNOWN
        raise ValueError(
            f"{config.ckpt_path} has no record of the judges that taught it, who must not measure it; name its run's "
            f"checkpoints/best.ckpt, or measure it all the same with protocol.same_judge=true"
        )
    return None if record is None else (record.get("module") or {}).get("judges")


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
            f"protocol.judges is {judge_name(judges)}, which also taught {config.ckpt_path} or chose it from its run: "
            f"what pleases it may be no more than what it overlooks. Name another judge "
            f"(protocol.judges.endpoint.model=NAME, or reward@protocol.judges=NAME), or see it all the same with "
            f"protocol.same_judge=true"
        )


def _identity(node: Node) -> Any:
    # A server may name a model with or without the folder it is from, and a folder here has the model's own name.
    if model := (node.get("endpoint") or {}).get("model") or (node.get("model") or {}).get("folder"):
        return str(model).rstrip("/").rsplit("/", 1)[-1].casefold()
    return {key: value for key, value in flat(node).items() if key.split(".")[0] not in NO_JUDGE}
