"""SSIM over whole windows only, as papers report it."""

from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from wm_lightning.metrics.video import WINDOW, Frames, HorizonMean


class HorizonValidSSIM(HorizonMean):
    """SSIM (Gaussian window of 11 pixels, sigma 1.5) by horizon, averaged over windows that lie within the frame.

    `HorizonSSIM` also averages windows that reach over the border into a reflection of the frame. The smaller the
    frame, the more of them there are: papers (piqa's and Wang et al.'s own code) have none.
    """

    higher_is_better = True

    def measure(self, generated: Frames, truth: Frames) -> Float[Tensor, "n"]:
        """SSIM per frame, -1..1. Raises ValueError where the frame is smaller than the window."""
        if min(truth.shape[-2:]) < WINDOW:
            size = tuple(truth.shape[-2:])
            raise ValueError(f"SSIM needs frames of at least {WINDOW} x {WINDOW} pixels, got {size}: leave it out")
        _, full = structural_similarity_index_measure(
            generated, truth, data_range=255.0, sigma=1.5, reduction="none", return_full_image=True
        )
        border = WINDOW // 2
        assert isinstance(full, Tensor)
        return full[..., border:-border, border:-border].mean((1, 2, 3))
