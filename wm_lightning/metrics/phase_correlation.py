"""How far one picture is moved against another, read off the phases of their spectra."""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

Pictures = Shaped[Tensor, "n c h w"]


def phase_shift(before: Pictures, after: Pictures) -> Int[Tensor, "n 2"]:
    """Rows and columns by which the view moved from `before` to `after` (Kuglin & Hines 1975), whole pixels.

    after[y, x] = before[y + rows, x + columns]. Found by the highest peak of the normalised cross-power spectrum under
    a Hann window; moves of half a picture or more are taken for moves the other way. What pictures without any detail
    give is meaningless.
    """
    height, width = before.shape[-2:]
    rows, columns = (torch.hann_window(side + 2, periodic=False)[1:-1].to(before.device) for side in (height, width))
    spectra = []
    for pictures in (before, after):
        grey = pictures.float().mean(1)
        spectra.append(torch.fft.fft2((grey - grey.mean((1, 2), keepdim=True)) * rows[:, None] * columns))
    cross = spectra[0] * spectra[1].conj()
    surface: Float[Tensor, "n h w"] = torch.fft.ifft2(cross / cross.abs().clamp_min(1e-6)).real
    peak = surface.flatten(1).argmax(1)
    found = torch.stack([peak // width, peak % width], -1)
    size = torch.tensor([height, width], device=before.device)
    return torch.where(found * 2 >= size, found - size, found)
