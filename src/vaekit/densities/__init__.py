"""True densities and masses, of codes and of images."""
