"""What an executor's training and table would refuse only after other work."""

from hydra.utils import instantiate
from omegaconf import DictConfig

from wm_lightning.checkpoints import NetworkFile
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.data.world_tasks import WorldTasksDataModule
from wm_lightning.results.roles import CRITERIA
from wm_lightning.tasks.build import plain_node
from wm_lightning.tasks.evaluate import require
from wm_lightning.tasks.roles import RoleSettings


def check_roles(config: DictConfig, data: ClipDataModule, base: NetworkFile | None) -> None:
    """Raises ValueError for data without tasks, a base never trained for such videos, or a table without judges."""
    if not isinstance(data, WorldTasksDataModule):
        raise ValueError(f"an executor is trained on tasks, and {data.name} has none; set data=world_tasks")
    _check_films(config, data)
    if base is None:
        raise ValueError(
            "module.start=null: executor and demonstrator begin as one base; name its file, or leave it out"
        )
    require(base.card, config, config.module.context, config.module.frames)
    settings: RoleSettings = instantiate(config.metrics, _convert_="all")
    instantiate(plain_node(config, "module")["judges"], _convert_="all")(data).close()
    bus = settings.judges(data)
    bus.close()
    if missing := [name for name in CRITERIA if name not in bus.rewards]:
        raise ValueError(f"metrics.judges has no judge of {', '.join(missing)}; the table needs {', '.join(CRITERIA)}")


def _check_films(config: DictConfig, data: WorldTasksDataModule) -> None:
    """Films go with the algorithm that learns from them, and with no other: they come without solutions."""
    films, labelled = config.module.algorithm.states == "films", not data.pictures_only and data.val_frames == 1
    if films != labelled:
        wanted = "labelled_films" if films else "world_tasks"
        raise ValueError(
            f"algorithm.states={config.module.algorithm.states} and data of {data.frames} frames, {data.val_frames} in "
            f"validation: films with labels are for algorithm=sft and nothing else is; set data={wanted}"
        )
    if films and config.metrics.distilled is not None:
        raise ValueError("metrics.distilled learns from solutions, and labelled films have none; set it to null")
