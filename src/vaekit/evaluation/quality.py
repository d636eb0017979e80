"""How close reconstructions are to the images: PSNR and SSIM, per image. Both take (N, C, H, W) in [0, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_ERROR = 1e-10  # 100 dB: a perfect reconstruction would be infinite, and so would the mean


def psnr(images: Tensor, targets: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, (N,): -10 log10 of the mean square error; at most 100."""
    error = (images - targets).square().mean((1, 2, 3))
    return -10 * torch.log10(error.clamp_min(SMALLEST_ERROR))


def ssim(images: Tensor, targets: Tensor, *, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity, (N,), 1 for equal images; normal window of 11 pixels, or less where the image is smaller.

    Only whole windows count, as in the paper. Wang, Bovik, Sheikh & Simoncelli 2004, IEEE TIP 13(4).
    Our own, because the library at hand answers NaN for images smaller than its window (digits are 8 × 8).
    """
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
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (likeness * structure).mean((1, 2, 3))


def _odd(side: int) -> int:
    return side if side % 2 else max(1, side - 1)


def _window(size: int, sigma: float, like: Tensor) -> Tensor:
    offsets = torch.arange(size, dtype=like.dtype, device=like.device) - size // 2
    weights = torch.exp(-0.5 * (offsets / sigma).square())
    return weights / weights.sum()
