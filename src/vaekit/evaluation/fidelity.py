"""How close reconstructions are to the images: PSNR, SSIM and MS-SSIM, per image, of (N, C, H, W) in [0, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_ERROR = 1e-10  # 100 dB: a perfect reconstruction would be infinite, and so would the mean
WINDOW = 11  # pixels
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # the finest scale first; Wang et al. 2003, from viewers


def psnr(images: Tensor, targets: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, (N,): -10 log10 of the mean square error; at most 100."""
    error = (images - targets).square().mean((1, 2, 3))
    return -10 * torch.log10(error.clamp_min(SMALLEST_ERROR))


def ssim(images: Tensor, targets: Tensor, *, window: int = WINDOW, sigma: float = 1.5) -> Tensor:
    """Structural similarity, (N,), 1 for equal images; normal window of 11 pixels, or less where the image is smaller.

    Only whole windows count, as in the paper. Wang, Bovik, Sheikh & Simoncelli 2004, IEEE TIP 13(4).
    Our own, because the library at hand answers NaN for images smaller than its window (digits are 8 × 8).
    """
    likeness, structure = _likeness_and_structure(images, targets, window, sigma)
    return (likeness * structure).mean((1, 2, 3))


def ms_ssim_scales(height: int, width: int) -> int:
    """How many of the five scales an image has room for: the coarsest must still hold a window. At least 1.

    Example:
        >>> [ms_ssim_scales(side, side) for side in (8, 28, 64, 176)]
        [1, 2, 3, 5]
    """
    fitting = [n for n in range(1, len(SCALE_WEIGHTS) + 1) if min(height, width) >> (n - 1) >= WINDOW]
    return max(fitting, default=1)


def ms_ssim(images: Tensor, targets: Tensor) -> Tensor:
    """Multi-scale structural similarity, (N,), 1 for equal images: structure at every scale, likeness at the coarsest.

    prod_s structure_s^w_s, each scale half as large as the one before. Images with room for fewer than five scales
    use the finest ones with their weights scaled to sum to 1; with one scale this is `ssim`. A negative structure
    counts as 0. Wang, Simoncelli & Bovik 2003, Asilomar
    """
    scales = ms_ssim_scales(*images.shape[-2:])
    total = sum(SCALE_WEIGHTS[:scales])
    product = torch.ones(len(images), dtype=images.dtype, device=images.device)
    for scale in range(scales):
        likeness, structure = _likeness_and_structure(images, targets, WINDOW, 1.5)
        if scale == scales - 1:
            structure = likeness * structure
        mean = structure.mean((1, 2, 3))
        product = product * (mean if scales == 1 else mean.clamp_min(0) ** (SCALE_WEIGHTS[scale] / total))
        if scale < scales - 1:
            images, targets = F.avg_pool2d(images, 2), F.avg_pool2d(targets, 2)
    return product


def _likeness_and_structure(images: Tensor, targets: Tensor, window: int, sigma: float) -> tuple[Tensor, Tensor]:
    """Of means, and of contrast and correlation, in every whole window: two (N, C, H', W')."""
    height, width = images.shape[-2:]
    rows, columns = _window(min(window, _odd(height)), sigma, images), _window(min(window, _odd(width)), sigma, images)

    def blur(values: Tensor) -> Tensor:
        flat = values.reshape(-1, 1, height, width)
        blurred = F.conv2d(F.conv2d(flat, rows.view(1, 1, -1, 1)), columns.view(1, 1, 1, -1))
        return blurred.view(*values.shape[:2], *blurred.shape[-2:])

    mean_x, mean_y = blur(images), blur(targets)
    var_x = blur(images.square()) - mean_x.square()
    var_y = blur(targets.square()) - mean_y.square()
    covariance = blur(images * targets) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return likeness, (2 * covariance + c2) / (var_x + var_y + c2)


def _odd(side: int) -> int:
    return side if side % 2 else max(1, side - 1)


def _window(size: int, sigma: float, like: Tensor) -> Tensor:
    offsets = torch.arange(size, dtype=like.dtype, device=like.device) - size // 2
    weights = torch.exp(-0.5 * (offsets / sigma).square())
    return weights / weights.sum()
