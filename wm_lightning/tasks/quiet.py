"""Takes the noise out of the log: every line of Lightning once, adverts and false alarms not at all; and keys."""

import logging
import os
import warnings

from wm_lightning.config_record import redact

# Lightning's loggers, whose own stream handlers print what Hydra's root handlers print as well.
_LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric")
# A filter acts on the logger that a record is sent to, not on its parents.
_SENDERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
)
_LINES = (
    "💡 Tip:",
    "GPU available:",
    "TPU available:",
    "SLURM auto-requeueing enabled",  # untrue: the batch script alone asks for it
    "`weights_only` was not set",
    "`Trainer.fit` stopped: `max_epochs=1` reached",  # how every training ends
)
# Beginnings of warnings that are true of no fault here, as regular expressions.
_WARNINGS = (
    r".*LeafSpec.* is deprecated",  # between Lightning and torch
    r"The `srun` command is available",  # a login node is where small runs are started by hand
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    r"Found \d+ module\(s\) in eval mode at the start of training",  # frozen networks and averages
    r"Initializing zero-element tensors",  # the layers of actions, of a network that has none
    r".*does not have many workers",  # crops are made faster than a worker could send them
)


class _Dull(logging.Filter):
    """Refuses lines that begin like one of `_LINES`."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_LINES)


class _Keyless(logging.Filter):
    """Takes the environment's keys out of every line, whoever sends it."""

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        if (without := redact(said)) != said:
            record.msg, record.args = without, ()
        return True


def quiet() -> None:
    """Makes Lightning log through the root's handlers alone and drops its dull lines; calling it again changes nothing.

    No line holds a key of the environment afterwards.

    Where the root has no handlers (a notebook), Lightning keeps its own.
    """
    # The profiler, which sums the memory of a rollout, prints to the terminal below this level.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    if logging.getLogger().hasHandlers():
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate = True
    for handler in logging.getLogger().handlers:
        if not any(isinstance(known, _Keyless) for known in handler.filters):
            handler.addFilter(_Keyless())
    for name in _SENDERS:
        logger = logging.getLogger(name)
        if not any(isinstance(known, _Dull) for known in logger.filters):
            logger.addFilter(_Dull())
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message=message)
