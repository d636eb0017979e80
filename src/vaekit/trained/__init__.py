"""An opened run: its model, codes, samplers and one's own images."""
