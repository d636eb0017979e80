"""Honest numbers on a data set: `likelihood` (bounds), `quality` (PSNR, SSIM), `latents`, `report`."""
