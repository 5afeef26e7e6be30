"""What an executor's training and table would refuse only after other work."""

from contextlib import closing

from hydra.utils import instantiate
from omegaconf import DictConfig

from wm_lightning.card import Card
from wm_lightning.checkpoints import NetworkFile
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.data.task_datamodule import TaskDataModule
from wm_lightning.data.world_tasks import WorldTasksDataModule
from wm_lightning.results.roles import CRITERIA
from wm_lightning.tasks.build import plain_node
from wm_lightning.tasks.evaluate import require
from wm_lightning.tasks.roles import RoleSettings


def with_tasks(data: ClipDataModule) -> TaskDataModule:
    """The data. Raises ValueError where they have no tasks."""
    if not isinstance(data, TaskDataModule):
        raise ValueError(f"an executor is trained on tasks, and {data.name} has none; set data=world_tasks")
    return data


def check_roles(config: DictConfig, data: ClipDataModule, base: NetworkFile | None) -> None:
    """Raises ValueError for data without tasks, a base never trained for such videos, or a table without judges."""
    data = with_tasks(data)
    if isinstance(data, WorldTasksDataModule):
        _check_films(config, data)
    if base is None:
        raise ValueError(
            "module.start=null: executor and demonstrator begin as one base; name its file, or leave it out"
        )
    require(base.card, config, config.module.context, config.module.frames)
    settings: RoleSettings = instantiate(config.metrics, _convert_="all")
    if data.spec.dim:
        _check_acting(config, base.card, data)
        if settings.writer is not None:
            raise ValueError(
                f"metrics.writer writes solutions in words, and tasks of {data.name} are solved by actions; set "
                f"metrics.writer=null"
            )
    instantiate(plain_node(config, "module")["judges"], _convert_="all")(data).close()
    with closing(settings.judges(data)) as bus:
        names = bus.rewards
    if missing := [name for name in CRITERIA if name not in names]:
        raise ValueError(f"metrics.judges has no judge of {', '.join(missing)}; the table needs {', '.join(CRITERIA)}")


def _check_acting(config: DictConfig, card: Card, data: TaskDataModule) -> None:
    """An executor among actions is told a goal and no action, a demonstrator actions and no goal."""
    dropout = card.trained_for["action_dropout"]
    if not dropout["share"] or dropout["granularity"] not in ("clip", "both"):
        raise ValueError(
            f"an executor is told its goal with all actions dropped, and the {card.kind} of module.start was trained "
            f"with actions dropped in a share of {dropout['share']} by {dropout['granularity']}: what it does without "
            f"any is unknown; take one that was trained with module.action_dropout by clip, as experiment=dmd_whole is"
        )
    if config.module.algorithm.states == "films":
        raise ValueError(
            f"algorithm.states=films learns films by their labels, and clips of {data.name} have none; choose another "
            f"algorithm"
        )
    if len({data.frames, data.val_frames, config.module.frames}) > 1:
        raise ValueError(
            f"data.frames={data.frames}, data.val_frames={data.val_frames} and module.frames={config.module.frames} "
            f"must be equal: what a clip's actions bring about is seen at its end"
        )


def _check_films(config: DictConfig, data: WorldTasksDataModule) -> None:
    """Films go with the algorithm that learns from them, and with no other: they come without solutions."""
    films, labelled = config.module.algorithm.states == "films", not data.pictures_only and data.val_frames == 1
    if films != labelled:
        wanted = "labelled_films, or labelled_videos" if films else "world_tasks"
        raise ValueError(
            f"algorithm.states={config.module.algorithm.states} and data of {data.frames} frames, {data.val_frames} in "
            f"validation: films with labels are for algorithm=sft and nothing else is; set data={wanted}"
        )
    if films and data.frames != config.module.frames:
        raise ValueError(
            f"data.frames={data.frames} and module.frames={config.module.frames} must be equal: an executor makes "
            f"videos as long as the films it learns from"
        )
    if films and config.metrics.distilled is not None:
        raise ValueError("metrics.distilled learns from solutions, and labelled films have none; set it to null")
