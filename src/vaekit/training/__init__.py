"""Finding the weights: `step` is one update, `loop` the run around it, `ema` and `optimizer` its state."""
