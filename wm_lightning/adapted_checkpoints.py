"""Checkpoints that hold adapters and not the network these are of: read as that network with them merged into it."""

from pathlib import Path

from wm_lightning.card import Card
from wm_lightning.checkpoints import DEPLOYED, NetworkFile, weights_hash
from wm_lightning.networks.lora import LoRA, merged
from wm_lightning.plain_files import read_plain, tensors


def read_adapted(path: Path, base: NetworkFile) -> NetworkFile:
    """The network that a checkpoint of adapters deploys, under the names of its base: a file like any other.

    Raises ValueError where the checkpoint holds no adapters, or those of another base.
    """
    content = read_plain(path)
    if not content.get("lora"):
        raise ValueError(f"{path} holds no adapters; read it as the whole network that it is, or name another")
    card = Card.from_dict(content["card"])
    if (start := card.trained_for["start"]) != base.sha256:
        raise ValueError(
            f"{path} holds adapters of the network {start[:12]}, and not of {base.sha256[:12]}; name the file that "
            f"their training began from with module.start"
        )
    adapter = tensors(content.get("state_dict"), f"state_dict in {path}", DEPLOYED)
    weights = merged(base.weights, adapter, LoRA(**content["lora"]))
    return NetworkFile(weights, card, weights_hash(weights))
