"""task=rollout: videos from a checkpoint on the test clips, as mp4, GIF, PNG and the actions that drove them."""

import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from lightning.fabric.plugins.precision.utils import _DtypeContextManager  # placeholder
