"""What a training starts from: random weights, a file, or a network of other parts that is trained first."""

from omegaconf import DictConfig, open_dict

from wm_lightning.checkpoints import NetworkFile, read_network
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.tasks.build import build_card, without
from wm_lightning.tasks.teachers import start_file, trained_once


def prepare_start(config: DictConfig, data: ClipDataModule) -> NetworkFile | None:
    """The network to start from, None for random weights.

    Where `module.start` says what to train first, that is trained into the cache, or found there.
    """
    if (recipe := pretraining_of(config)) is None:
        return start_file(config, data)
    return read_network(trained_once(recipe, data, None), build_card(recipe, data, "teacher"))


def pretraining_of(config: DictConfig) -> DictConfig | None:
    """The config of the training that comes first: this one but for `network` and other nodes of `module.start`.

    `module.start.module` is that training's whole module, and nothing then depends on this one's; without it, it is
    this module with `module.start.iterations`. None where nothing comes first.
    """
    first = config.module.get("start")
    if not isinstance(first, DictConfig):
        return None
    recipe = without(config, {"name": "pretraining", "ckpt_path": "last"})
    with open_dict(recipe):
        recipe.network.update(first.network)
        for key in ("module", "rollout", "seed"):
            recipe[key] = first.get(key, recipe[key])
        if "module" not in first:
            recipe.module.iterations = first.iterations
            recipe.module.validate_every = min(config.module.validate_every, first.iterations)
        recipe.module.start, recipe.module.start_new, recipe.module.transfer = None, [], None
    return recipe
