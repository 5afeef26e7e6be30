"""Action-conditioned video world models: from data to a real-time simulator."""

from wm_lightning import torchvision_hook

__version__ = "0.1.0"

torchvision_hook.install()


def __getattr__(name: str) -> object:
    """`wm_lightning.from_pretrained`, imported when it is asked for: it loads torch."""
    if name == "from_pretrained":
        from wm_lightning.pretrained import from_pretrained  # noqa: PLC0415  the command line does without torch

        return from_pretrained
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
