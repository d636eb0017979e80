"""Runs side by side: `table` (numbers), `runs` (any runs), `denoising` (a VAE against a denoising autoencoder)."""
