"""How much of a bound is decoded at once: images times samples, from the memory there is, compiled where it pays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vaekit import system
from vaekit.densities.noise import SAMPLES_PER_BLOCK
from vaekit.errors import NumericalError, is_out_of_memory, one_line
from vaekit.models.model import Model
from vaekit.models.trace import kl, log_weight

# Images times samples decoded at once: large enough for the matrix kernels; on a CPU small enough for its caches
ROWS = {"cpu": 4096, "cuda": 65536}
TENSORS_AT_ONCE = 6  # of the decoder's widest layer that are alive together, the density's intermediate ones counted in
WIDEST_ON_CPU = 2**26  # values of its widest layer: more only leaves the caches
PAIRS_TO_COMPILE = {"cpu": 5_000_000, "cuda": 5_000_000}  # images times samples; see docs/performance.md


@torch.no_grad()
def rows_at_once(model: Model, device: torch.device) -> int:
    """How many images times samples to decode at once: what half of the free memory holds, and no more than pays."""
    wide = 0

    def measure(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal wide
        wide = max(wide, output.numel()) if isinstance(output, Tensor) else wide

    hooks = [module.register_forward_hook(measure) for module in model.likelihood.modules()]
    try:
        label = torch.zeros(1, dtype=torch.int64, device=device) if model.classes else None
        like = next(model.parameters())
        codes = model.layout.codes(torch.zeros(1, model.layout.width, dtype=like.dtype, device=device))
        model.decode(codes, label)
    finally:
        for hook in hooks:
            hook.remove()
    wide = max(1, wide, model.p(label).width if model.one_group else 1)  # of a mixture, a density for each component
    most = ROWS["cuda"] if device.type == "cuda" else min(ROWS["cpu"], WIDEST_ON_CPU // wide)
    return max(1, min(most, free_memory(device) // (2 * TENSORS_AT_ONCE * 4 * wide)))


def free_memory(device: torch.device) -> int:
    """Bytes that the device has free; of the host where it does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return system.free_memory()


class Terms(NamedTuple):
    """Of a chunk of samples, (k, B), nats."""

    log_weight: Tensor
    log_px: Tensor
    kl: Tensor


class Chunks:
    """Decodes `rows` pairs of image and sample at once: fewer after the memory ran out, compiled where asked for."""

    def __init__(
        self, model: Model, rows: int, compiled: bool = False, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self.model, self.rows, self.say = model, rows, say
        self._compiled = torch.compile(self._terms, fullgraph=True, dynamic=False) if compiled else None
        self._shape: torch.Size | None = None  # the one that was compiled for: the last, smaller chunks run eagerly

    def count(self, images: int, samples: int) -> int:
        """Samples of each of these images to decode at once."""
        chunk = max(1, min(samples, self.rows // images))
        return chunk - chunk % SAMPLES_PER_BLOCK if chunk > SAMPLES_PER_BLOCK else chunk  # no block is drawn twice

    @torch.no_grad()
    def _terms(self, encoded: Any, noises: tuple[Tensor, ...]) -> Terms:
        trace = self.model.trace(encoded, len(noises[0]), lambda level, shape, like: noises[level])
        rates = [kl(latent).expand(trace.log_px.shape) for latent in trace.latents]
        return Terms(log_weight(trace), trace.log_px, torch.stack(rates).sum(0))

    def __call__(self, encoded: Any, noises: tuple[Tensor, ...]) -> Terms:
        """log-weights, log p(x | z) and KL for the noise (k, B, *event) of each group."""
        if self._compiled is not None and self._shape in (None, noises[0].shape):
            try:
                self._shape = noises[0].shape
                return self._compiled(encoded, noises)
            except Exception as error:  # compilers raise whatever they like
                if is_out_of_memory(error):
                    raise
                self._compiled = None
                self.say(f"cannot compile here, so the bounds are computed eagerly: {one_line(error)}")
        return self._terms(encoded, noises)

    def or_none(self, encoded: Any, noises: tuple[Tensor, ...]) -> Terms | None:
        """The same; None where the memory ran out."""
        try:
            return self(encoded, noises)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None

    def halve(self, images: int) -> None:
        """After the memory ran out. NumericalError where one sample of each of these images is too much."""
        if self.rows <= images:
            raise NumericalError(f"out of memory with {images} decoded images; free some, or choose another --device")
        self.rows //= 2
        self._shape = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.say(f"out of memory: from now on {self.rows} pairs of image and sample at a time")
