"""Action-conditioned video world models: from data to a real-time simulator."""

from wm_lightning import torchvision_hook

__version__ = "0.1.0"

torchvision_hook.install()
