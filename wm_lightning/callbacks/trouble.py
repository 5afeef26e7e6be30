"""What goes wrong while training is named: batches that teach nothing, and what ended it."""

import logging
import traceback
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from wm_lightning.clip import Clip
from wm_lightning.data.loader import ClipLoader, WindowBatches
from wm_lightning.modules.base import WorldModelModule

log = logging.getLogger(__name__)

_WORKER = "a process that loads data was ended from outside, as by a machine without memory left"
# Words of an error, and what they mean.
_KNOWN = {
    "Connection closed by peer": "another rank ended before this one, and its own messages say why",
    "Connection reset by peer": "another rank ended before this one, and its own messages say why",
    "Broken pipe": "another rank ended before this one, and its own messages say why",
    "NCCL": "ranks lost one another; the messages of the one that ended first say why",
    "DataLoader worker (pid": _WORKER,  # and no other words on a worker, such as those on an error of its data
    "judgements failed": "a judge fails too often to learn from; see to its server first",
    "out of memory": "the memory was too little; task=estimate says what would fit",
}


class Trouble(Callback):
    """Says which clips an update was skipped for, and ends a training that skips `most` iterations in a row.

    An update is skipped where its gradient is not finite (the module does that, on all ranks together). Where a
    training ends by an error, says how to go on from its last checkpoint.
    """

    def __init__(self, *, most: int) -> None:
        if most < 1:
            raise ValueError(f"callbacks.trouble.most={most} counts iterations; give 1 or more")
        self.most = most
        self.before, self.row = 0, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What a continued training skipped earlier was said then."""
        assert isinstance(pl_module, WorldModelModule)
        self.before, self.row = int(pl_module.skipped), 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Raises ValueError after `most` iterations in a row with a skipped update."""
        assert isinstance(pl_module, WorldModelModule)
        skipped, self.before = int(pl_module.skipped) - self.before, int(pl_module.skipped)
        self.row = self.row + 1 if skipped else 0
        if not skipped:
            return
        # All ranks skip together, so all of them are here.
        named = places(trainer, pl_module.of_all_ranks(batch.index.to(pl_module.device)).tolist(), batch)
        log.warning(
            "Iteration %d: %d updates skipped, as their gradient is not finite. Its clips: %s",
            pl_module.iterations, skipped, named,
        )  # fmt: skip
        if self.row >= self.most:
            raise ValueError(
                f"{self.row} iterations in a row have taught nothing, as their gradients are not finite, the last at "
                f"{named}. Look at these clips (task=doctor), lower the learning rate or clip_norm, or use 32-true"
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Says what an error of the machine means, and from where to go on."""
        if (meaning := meaning_of(exception)) is not None:
            assert isinstance(pl_module, WorldModelModule)
            log.error(
                "Training ended at iteration %d: %s. The same command with run_dir=%s ckpt_path=last goes on",
                pl_module.iterations, meaning, trainer.default_root_dir,
            )  # fmt: skip


def meaning_of(exception: BaseException) -> str | None:
    """What an error of the machine means, None where it is no known one.

    A worker hands over a tensor by a socket of its own. Where that is gone before the process is seen to have ended,
    torch's loader lets the error of the socket through.
    """
    if isinstance(exception, OSError | EOFError):
        frames = [frame.f_code for frame, _ in traceback.walk_tb(exception.__traceback__)]
        if any(code.co_name == "_try_get_data" and "torch/utils/data" in code.co_filename for code in frames):
            return _WORKER
    return next((known for words, known in _KNOWN.items() if words in str(exception)), None)


def places(trainer: Trainer, indices: list[int], batch: Clip) -> str:
    """Clips by episode and first frame, where the loader knows them, else by their index."""
    loader = trainer.train_dataloader
    if not isinstance(loader, ClipLoader) or not isinstance(loader.batch_sampler, WindowBatches):
        return ", ".join(map(str, indices))
    stream, reader = loader.batch_sampler.stream, loader.dataset.reader  # pyright: ignore[reportAttributeAccessIssue]
    named = []
    for window in (stream[index] for index in indices):
        name = reader.name(window.episode) if hasattr(reader, "name") else window.episode
        named.append(f"episode {name} from frame {window.start}")
    return ", ".join(named)
