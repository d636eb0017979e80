"""Plant bugs one at a time in a copy of the project, and see whether the quick suite notices.

    python scripts/plant_bugs.py                     all of them, a few minutes
    python scripts/plant_bugs.py --only kl-sign      one of them (may be given often)
    python scripts/plant_bugs.py --jobs 2            two at a time
    python scripts/plant_bugs.py --write FILE        also the table of docs/planted-bugs.md

Each bug is one changed line of src/vaekit. It is first shown to the test files that guard that line; where they say
nothing, to the whole quick suite. The test that fails must pass once the bug is taken out again. Exit code 5 if one
survives.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
TRACKED = ("git", "ls-files", "--cached", "--others", "--exclude-standard")


class Bug(NamedTuple):
    """What is wrong, and the line that makes it so."""

    name: str
    about: str
    file: str  # below src/vaekit
    right: str  # occurs once
    wrong: str
    guards: str  # test files that should notice, without `tests/test_` and `.py`


BUGS = (
    Bug(
        "kl-sign",
        "the sign of the KL",
        "densities/codes.py",
        "+ shift.square()) - ratio",
        "- shift.square()) + ratio",
        "distributions",
    ),
    Bug(
        "kl-half",
        "the ½ of the KL is missing",
        "densities/codes.py",
        "return 0.5 * (torch.expm1(2 * ratio)",
        "return (torch.expm1(2 * ratio)",
        "distributions",
    ),
    Bug(
        "kl-reversed",
        "KL(p || q) for KL(q || p)",
        "densities/codes.py",
        "return None if rule is None else summed(rule(q, p), len(q.event_shape))",
        "return None if rule is None else summed(rule(p, q), len(q.event_shape))",
        "linear_gaussian models objectives",
    ),
    Bug(
        "two-pi",
        "log 2π is left out of the normal density",
        "densities/codes.py",
        "standard.square() - self.log_scale - 0.5 * LOG_2PI\n",
        "standard.square() - self.log_scale\n",
        "distributions",
    ),
    Bug(
        "edge-bins",
        "the last grey value does not own its tail",
        "densities/logistics.py",
        "upper = torch.where(k > steps - 0.5, F.logsigmoid(-below), inside)",
        "upper = inside",
        "tables distributions likelihood_laws",
    ),
    Bug(
        "laplace-normaliser",
        "the Laplace density lacks its log 2",
        "densities/images.py",
        "- self.log_scale - math.log(2)",
        "- self.log_scale",
        "tables distributions",
    ),
    Bug(
        "pixel-mean",
        "a mean over pixels for a sum",
        "densities/images.py",
        "return self.pixel_log_prob(value).sum(IMAGE_DIMS)",
        "return self.pixel_log_prob(value).mean(IMAGE_DIMS)",
        "linear_gaussian bit_depth",
    ),
    Bug(
        "bits-log2",
        "bits by log 2 upside down",
        "evaluation/evaluate.py",
        "found.nll_nats / (math.log(2) * dims) + offset",
        "found.nll_nats * math.log(2) / dims + offset",
        "evaluation",
    ),
    Bug(
        "bits-padding",
        "bits per dimension count the padding",
        "evaluation/evaluate.py",
        "dataset.shape[0] * math.prod(content)",
        "math.prod(dataset.shape)",
        "evaluation",
    ),
    Bug(
        "weight-sign",
        "importance weights with q in the numerator",
        "models/trace.py",
        "latent.p.log_prob(latent.z) - log_q(latent)",
        "latent.p.log_prob(latent.z) + log_q(latent)",
        "linear_gaussian",
    ),
    Bug(
        "samples-ignored",
        "the bound forgets to divide by K",
        "evaluation/likelihood.py",
        "self.log_sum - math.log(self.count)",
        "self.log_sum",
        "linear_gaussian evaluation",
    ),
    Bug(
        "last-batch",
        "the last, smaller batch of an evaluation is dropped",
        "data/batches.py",
        "for start in range(0, len(dataset), batch_size):",
        "for start in range(0, len(dataset) - len(dataset) % batch_size, batch_size):",
        "data_batches evaluation",
    ),
    Bug(
        "batch-means",
        "a mean of batch means in validation",
        "training/validation.py",
        "value.cpu().double() * len(x)",
        "value.cpu().double() * VALIDATION_BATCH",
        "training",
    ),
    Bug(
        "noise-by-batch",
        "evaluation noise depends on the batch",
        "densities/noise.py",
        "rows[0] * SAMPLES_PER_BLOCK, self.first_image - columns[0] * IMAGES_PER_BLOCK\n        whole",
        "rows[0] * SAMPLES_PER_BLOCK, 0\n        whole",
        "noise evaluation",
    ),
    Bug(
        "beta-in-elbo",
        "β in the reported ELBO",
        "training/validation.py",
        "**terms(trace), **own,",
        '**terms(trace), "elbo": -loss, **own,',
        "training objectives",
    ),
    Bug(
        "selection-warm-up",
        "the best checkpoint is chosen while β warms up",
        "training/validation.py",
        "selection_of(objective, trace, last_step)",
        "selection_of(objective, trace, step)",
        "training",
    ),
    Bug(
        "free-bits-order",
        "free bits floor each image, not the batch mean",
        "objectives/evidence.py",
        "per_dim.flatten(0, -2).mean(0).clamp_min(free_bits).sum()",
        "per_dim.flatten(0, -2).clamp_min(free_bits).mean(0).sum()",
        "objectives",
    ),
    Bug(
        "bf16-density",
        "densities in bf16",
        "models/likelihoods.py",
        "return full_precision(self.network(given) if",
        "return (self.network(given) if",
        "models",
    ),
    Bug(
        "optimal-scale",
        "the optimal scale is frozen from the last batch alone",
        "models/likelihoods.py",
        "            total += (power",
        "            total = (power",
        "models",
    ),
    Bug(
        "random-state",
        "the generator is not restored on resume",
        "training/state.py",
        "    set_generator_states(trainer.device, states)",
        "    pass",
        "resume",
    ),
    Bug(
        "ema-unsaved",
        "the averaged weights are not restored on resume",
        "training/state.py",
        '    load_weights(trainer.ema.model, checkpoint.tensors["ema"])\n',
        "",
        "resume",
    ),
    Bug(
        "ema-buffers",
        "statistics of BatchNorm are left out of the average",
        "training/ema.py",
        "            follower.copy_(leader)",
        "            pass",
        "training",
    ),
    Bug(
        "ema-decay",
        "the average follows by its decay",
        "training/ema.py",
        "clamp_min(1 - self.decay)",
        "clamp_min(self.decay)",
        "training",
    ),
    Bug(
        "skip-not-skipped",
        "a non-finite update moves the weights",
        "training/optimizer.py",
        "found_inf=skipped,",
        "found_inf=None,",
        "training",
    ),
    Bug(
        "clip-by-value",
        "gradients are divided by the norm, not by what is above the limit",
        "training/step.py",
        "clipping = (norm / self.clip).clamp_min(1)",
        "clipping = norm / self.clip",
        "training",
    ),
    Bug(
        "order-repeats",
        "every epoch has the same order",
        "data/batches.py",
        "permutation(Stream.ORDER, self.seed, epoch, self.count",
        "permutation(Stream.ORDER, self.seed, 0, self.count",
        "data_batches",
    ),
    Bug(
        "warm-up-zero",
        "the first step of a warm-up does not move",
        "config/schedule_shapes.py",
        "(step.to(torch.float32) + 1) / warmup",
        "step.to(torch.float32) / warmup",
        "schedules",
    ),
    Bug(
        "active-std",
        "active units by the spread, not by the variance",
        "evaluation/latents.py",
        "return self.mean_variance > ACTIVE_VARIANCE",
        "return self.mean_variance.sqrt() > ACTIVE_VARIANCE",
        "evaluation",
    ),
    Bug(
        "decoder-label",
        "the decoder of a conditional model is not told the class",
        "networks/trunks.py",
        "self.vectors(context).to(z.dtype)",
        "0 * self.vectors(context).to(z.dtype)",
        "models conditional",
    ),
    Bug(
        "manifest",
        "a checkpoint with a changed byte is accepted",
        "training/checkpoint.py",
        "        if entry != _sums(data):",
        "        if False:",
        "checkpoint",
    ),
    Bug(
        "iwae-count",
        "the importance-weighted bound lacks its -log K",
        "objectives/importance.py",
        "torch.logsumexp(grouped, 1) - math.log(grouped.shape[1])",
        "torch.logsumexp(grouped, 1)",
        "objectives importance",
    ),
    Bug(
        "dreg-weights",
        "the doubly reparameterised gradient weighs by w, not w²",
        "objectives/importance.py",
        "normalised.square()",
        "normalised",
        "objectives importance",
    ),
    Bug(
        "landing",
        "sticking the landing keeps the score of q",
        "models/vae.py",
        "q.detach().log_prob(z) if stopped",
        "q.log_prob(z) if stopped",
        "objectives",
    ),
    Bug(
        "marginals-joint",
        "the marginals of q(z) are summed over dimensions before the mean over images",
        "objectives/aggregate.py",
        "torch.logsumexp(weights.unsqueeze(-1) + per_dim, -2).sum(-1)",
        "torch.logsumexp(weights + per_dim.sum(-1), -1)",
        "aggregate objectives",
    ),
    Bug(
        "stratum",
        "stratified sampling weighs an image itself like the others",
        "objectives/aggregate.py",
        "return torch.where(itself, -math.log(images), math.log(other)).to(like.dtype)",
        "return torch.full_like(itself, math.log(other), dtype=like.dtype)",
        "aggregate",
    ),
    Bug(
        "discriminator-moved",
        "the model's loss moves the discriminator",
        "objectives/adversarial.py",
        "latent.z.flatten(2), stopped=True)",
        "latent.z.flatten(2))",
        "learned_objectives",
    ),
    Bug(
        "model-moved",
        "the discriminator's loss moves the model",
        "objectives/adversarial.py",
        "latent.z.detach().flatten(2), self.reference",
        "latent.z.flatten(2), self.reference",
        "learned_objectives",
    ),
    Bug(
        "flow-determinant",
        "the sign of the log-determinant of a flow",
        "densities/flows.py",
        ".sum(-1) - log_det",
        ".sum(-1) + log_det",
        "flows",
    ),
    Bug(
        "mask",
        "a flow's output sees its own number",
        "densities/flows.py",
        "order.repeat(2)[:, None] > below",
        "order.repeat(2)[:, None] >= below",
        "flows",
    ),
    Bug(
        "mixture-weights",
        "a mixture prior forgets its weights",
        "densities/mixtures.py",
        "torch.logsumexp(terms + self.log_weights, -1)",
        "torch.logsumexp(terms, -1)",
        "priors",
    ),
    Bug(
        "vamp-statistics",
        "pseudo-inputs move batch statistics",
        "models/priors/vamp.py",
        "        posterior.eval()\n",
        "",
        "priors",
    ),
    Bug(
        "code-rate",
        "the rate of a codebook in bits, not nats",
        "models/posteriors.py",
        "math.log(codes) / dims",
        "math.log2(codes) / dims",
        "codebooks",
    ),
    Bug(
        "straight-through",
        "no gradient passes a quantiser",
        "models/posteriors.py",
        "z = codes.detach() + (encoded - encoded.detach())",
        "z = codes.detach()",
        "codebooks",
    ),
    Bug(
        "ais-weight",
        "annealed weights take the temperature for its step",
        "evaluation/ais.py",
        "(next_beta - beta) * state.gain",
        "next_beta * state.gain",
        "estimators",
    ),
    Bug(
        "leapfrog",
        "the last step of a trajectory is whole, not half",
        "evaluation/hmc.py",
        "(size if leap < leapfrogs - 1 else 0.5 * size)",
        "size",
        "estimators",
    ),
    Bug(
        "mig-gap",
        "MIG takes the gap to the worst dimension",
        "evaluation/disentanglement/information.py",
        "return ranked[-1] - ranked[-2]",
        "return ranked[-1] - ranked[0]",
        "disentanglement",
    ),
    Bug(
        "mig-reshaped",
        "factors are read in another order of images",
        "evaluation/disentanglement/information.py",
        "binned(column, bins) * size + of_factor",
        "binned(column, bins) * size + of_factor[::-1]",
        "disentanglement",
    ),
    Bug(
        "grid-event",
        "a grid's density is summed over its last axis alone",
        "densities/codes.py",
        "return values.sum(tuple(range(-event_dims, 0)))",
        "return values.sum(-1) if event_dims == 1 else values.sum((-2, -1)).mean(-1)",
        "grids",
    ),
    Bug(
        "places-transposed",
        "the places of a quantised grid come back turned",
        "densities/codebooks.py",
        "return values.movedim(-1, -1 - places) if places else values",
        "return values.movedim(-1, -1 - places).flip(-1) if places else values",
        "grids",
    ),
    Bug(
        "layout-order",
        "chosen groups stand in the caller's order",
        "models/layout.py",
        "return tuple(group for group in self.groups if not self.chosen or group.name in self.chosen)",
        "return tuple(group for group in (self.groups[::-1] if self.chosen else self.groups)"
        " if not self.chosen or group.name in self.chosen)",
        "layout",
    ),
    Bug(
        "column-places",
        "a column's name takes its row for its column",
        "models/layout.py",
        "row, column = divmod(place, group.event[2])",
        "column, row = divmod(place, group.event[2])",
        "layout",
    ),
    Bug(
        "restart-used",
        "codes that are in use start again too",
        "models/posteriors.py",
        "unused = (~used).nonzero().flatten()",
        "unused = (~used).roll(1).nonzero().flatten()",
        "grids",
    ),
    Bug(
        "one-noise",
        "every group of latents gets the noise of the first",
        "evaluation/chunks.py",
        "lambda level, shape, like: noises[level])",
        "lambda level, shape, like: noises[0].expand(shape) if noises[0].shape == shape else"
        " noises[0].flatten(2)[..., :1].unflatten(-1, (1, 1, 1)).expand(shape))",
        "groups",
    ),
    Bug(
        "other-data",
        "a run takes whatever data lies there",
        "data/splits.py",
        'return all(before.get(fact) == now.get(fact) for fact in ("fingerprint", "classes"))',
        'return all(before.get(fact) == now.get(fact) for fact in ("classes",))',
        "run",
    ),
    Bug(
        "shift-noise",
        "the horizontal shift has the vertical one's noise",
        "data/augment.py",
        "+ moves[:, 1:]",
        "+ moves[:, :1]",
        "data_augment",
    ),
    Bug(
        "sampling-error",
        "the sampling error of the bound lacks its -1/K",
        "evaluation/likelihood.py",
        "(1 / self.effective_samples - 1 / self.samples).clamp_min(0)",
        "(1 / self.effective_samples).clamp_min(0)",
        "evaluation",
    ),
    Bug(
        "crop-height",
        "a crop is centred in width but not in height",
        "data/images.py",
        "(have_width - cut_width) / 2, (have_height - cut_height) / 2",
        "(have_width - cut_width) / 2, 0.0",
        "data_images",
    ),
    Bug(
        "calibrate-100",
        "the optimal scale is of 100 images",
        "training/validation.py",
        "CALIBRATION_IMAGES = 4096",
        "CALIBRATION_IMAGES = 100",
        "training",
    ),
    Bug(
        "flip-noise-shared",
        "the flip has the noise of a shift",
        "data/augment.py",
        "noise[:, :1] < 0.5",
        "noise[:, 2:] < 0.5",
        "data_augment",
    ),
    Bug(
        "pad-odd",
        "the odd row of padding goes above",
        "data/images.py",
        "top, left = (height - pixels.shape[0]) // 2, (width - pixels.shape[1]) // 2\n    padded",
        "top, left = (height - pixels.shape[0] + 1) // 2, (width - pixels.shape[1]) // 2\n    padded",
        "data_images",
    ),
    Bug(
        "fit-pad-inner",
        "a padded image is scaled by the ratio of its widths alone",
        "data/images.py",
        "inner = max(1, round(have_height * scale)), max(1, round(have_width * scale))",
        "inner = max(1, round(have_height * scale)), max(1, round(have_width * scales[1]))",
        "data_images",
    ),
    Bug(
        "stretch-axes",
        "a stretched image loses what is wider than high",
        "data/images.py",
        "_resize(pixels, height, width, (0, 0, have_width, have_height))",
        "_resize(pixels, height, width, (0, 0, have_width, min(have_width, have_height)))",
        "data_images",
    ),
    Bug(
        "content-left",
        "padding is cut off the left as it is off the top",
        "data/pixels.py",
        "top, left = (images.shape[-2] - size[0]) // 2, (images.shape[-1] - size[1]) // 2",
        "top, left = (images.shape[-2] - size[0]) // 2, (images.shape[-2] - size[0]) // 2",
        "data_images",
    ),
    Bug(
        "nll-se-root",
        "a standard error divides by n, not n - 1",
        "evaluation/likelihood.py",
        "float(self.importance.std()) / math.sqrt(count)",
        "float(self.importance.std(correction=0)) / math.sqrt(count)",
        "evaluation",
    ),
    Bug(
        "nll-se-elbo",
        "the bound's standard error is the ELBO's",
        "evaluation/likelihood.py",
        "float(self.importance.std()) / math.sqrt(count)",
        "float(self.elbo.std()) / math.sqrt(count)",
        "evaluation",
    ),
    Bug(
        "ais-se",
        "annealing's standard error divides by the number of images",
        "verbs/ais.py",
        "float(bound.std()) / math.sqrt(len(bound)) if",
        "float(bound.std()) / len(bound) if",
        "estimators",
    ),
    Bug(
        "ais-gap-se",
        "the gap's error takes both bounds for independent",
        "verbs/ais.py",
        "float((above - below).std()) / math.sqrt(images)",
        "math.hypot(float(above.std()), float(below.std())) / math.sqrt(images)",
        "estimators",
    ),
    Bug(
        "info-se",
        "the parts of the rate divide by the images, not the codes",
        "evaluation/information.py",
        "float(values.std()) / math.sqrt(len(values))",
        "float(values.std()) / math.sqrt(self.images)",
        "estimators",
    ),
    Bug(
        "aggregate-bias",
        "what chance shows of a gap is taken for less",
        "evaluation/latents.py",
        "dims * (dims + 3) / (4 * count)",
        "dims * (dims + 1) / (4 * count)",
        "health",
    ),
    Bug(
        "best-restart-patience",
        "a better validation leaves the patience spent",
        "training/loop.py",
        "= step, value, 0\n            return True",
        "= step, value, progress.validations_since_best\n            return True",
        "training",
    ),
    Bug(
        "validate-at",
        "validation weighs by the step after",
        "training/loop.py",
        "at = torch.tensor(step - 1, device",
        "at = torch.tensor(step, device",
        "training",
    ),
    Bug(
        "restart-seed",
        "unused codes start again from the same images",
        "training/loop.py",
        'f"restart {step}"',
        '"restart"',
        "training",
    ),
    Bug(
        "validate-last",
        "selection draws other noise than the loss",
        "training/validation.py",
        "with seeded(device, drawing):\n            selection",
        "with seeded(device, drawing + 1):\n            selection",
        "training",
    ),
    Bug(
        "validate-drawing",
        "an objective draws the same for each batch of a validation",
        "training/validation.py",
        'derived_seed(seed, "objective", start)',
        'derived_seed(seed, "objective")',
        "training",
    ),
    Bug(
        "patience-selection",
        "the best checkpoint is of the loss, not of the selection",
        "training/loop.py",
        'return self._judge(step, values["selection"])',
        'return self._judge(step, values["loss"])',
        "training",
    ),
    Bug(
        "augment-epoch",
        "every epoch has the same flips and shifts",
        "data/pixels.py",
        "augment(images, indices, epoch, seed,",
        "augment(images, indices, epoch * 0, seed,",
        "data_augment",
    ),
    Bug(
        "augment-indices",
        "flips and shifts follow the place in the batch",
        "data/pixels.py",
        "augment(images, indices, epoch, seed,",
        "augment(images, torch.arange(len(indices), device=indices.device), epoch, seed,",
        "data_augment",
    ),
    Bug(
        "dequantize-shared",
        "channels share their dequantisation in training",
        "data/pixels.py",
        "return dequantize(x, torch.rand_like(x), self.bits)",
        "return dequantize(x, torch.rand_like(x[:, :1]), self.bits)",
        "data_augment",
    ),
    Bug(
        "dequantize-eval-shared",
        "channels share their dequantisation in an evaluation",
        "data/pixels.py",
        "return dequantize(x, noise.uniform(x.shape, x), self.bits)",
        "return dequantize(x, noise.uniform(x[:, :1].shape, x), self.bits)",
        "data_augment",
    ),
    Bug(
        "binarize-eval-shared",
        "a row shares its binarisation in an evaluation",
        "data/pixels.py",
        'return binarize(x, "dynamic", noise.uniform(x.shape, x))',
        'return binarize(x, "dynamic", noise.uniform(x[..., :1].shape, x))',
        "data_augment",
    ),
    Bug(
        "pixels-noise-latent",
        "the noise of pixels is that of the first codes",
        "densities/noise.py",
        'self._block(torch.rand, "pixels", 0, column',
        "self._block(torch.rand, 0, 0, column",
        "noise",
    ),
    Bug(
        "stream-split-limit",
        "data.limit draws from the stream of the split",
        "data/splits.py",
        "permutation(Stream.LIMIT, config.seed",
        "permutation(Stream.SPLIT, config.seed",
        "data_splits",
    ),
    Bug(
        "epochs-round",
        "a share of an epoch is cut, not rounded, to steps",
        "training/loop.py",
        "round(training.epochs * self.steps_per_epoch)",
        "int(training.epochs * self.steps_per_epoch)",
        "training",
    ),
    Bug(
        "cyclical-delay",
        "a cyclical schedule ignores its delay",
        "config/schedule_shapes.py",
        "time = (step.to(torch.float32) - delay).clamp_min(0)",
        "time = step.to(torch.float32)",
        "schedules",
    ),
    Bug(
        "watch-few",
        "a watch looks at 10 images",
        "evaluation/health.py",
        "SEEN_IMAGES = 1000",
        "SEEN_IMAGES = 10",
        "health",
    ),
    Bug(
        "mixture-nine-tenths",
        "a mixture is of nine tenths of the codes",
        "trained/samplers/mixture.py",
        "return cls._shrunk(*_mixture(values, count, seed), share)",
        "return cls._shrunk(*_mixture(rest, count, seed), share)",
        "posthoc",
    ),
    Bug(
        "mixture-shared-noise",
        "a mixture's component and place share a stream",
        "trained/samplers/mixture.py",
        'derived_seed(seed, "component")',
        'derived_seed(seed, "noise")',
        "posthoc",
    ),
    Bug(
        "proxy-accuracy",
        "a proxy's accuracy is of 100 images",
        "evaluation/features.py",
        "(named == dataset.labels).double().mean()",
        "(named[:100] == dataset.labels[:100]).double().mean()",
        "features",
    ),
    Bug(
        "psnr-mean-batch",
        "scores of reconstructions divide by whole batches",
        "evaluation/evaluate.py",
        "total / len(dataset) for name",
        "total / (len(dataset) // 250 * 250 or len(dataset)) for name",
        "evaluation",
    ),
    Bug(
        "sets-round",
        "images to compare are cut, not rounded, to bytes",
        "evaluation/sets.py",
        "(images.clamp(0, 1) * 255).round()",
        "(images.clamp(0, 1) * 255)",
        "features",
    ),
    Bug(
        "ais-warm-noise",
        "annealing climbs with the noise of its warm-up",
        "evaluation/ais.py",
        'purpose = "up" if codes is None else "down"',
        'purpose = "warm-up"',
        "estimators",
    ),
    Bug(
        "ais-accept",
        "acceptance is divided by one temperature too many",
        "evaluation/ais.py",
        "accepted / max(1, len(steps))",
        "accepted / max(1, len(betas))",
        "estimators",
    ),
    Bug(
        "probe-standard",
        "held-out codes are standardised by their own mean",
        "evaluation/probe.py",
        "(test - centre) / scale",
        "(test - test.mean(0)) / scale",
        "compare",
    ),
    Bug(
        "calibrate-own-weights",
        "the optimal scale is of the validation set",
        "training/loop.py",
        "calibrate(self.ema.model, self.splits.train",
        "calibrate(self.ema.model, self.splits.validation",
        "training",
    ),
    Bug(
        "information-first",
        "mutual information is of the first images",
        "evaluation/information.py",
        "rows = spread(len(dataset), MOST_IMAGES).to(device)",
        "rows = torch.arange(min(len(dataset), MOST_IMAGES)).to(device)",
        "estimators",
    ),
    Bug(
        "ais-rows-noise",
        "annealing binarises every image as the first",
        "verbs/ais.py",
        "pixels.for_evaluation(dataset.images[i : i + 1].to(device), i, seed)",
        "pixels.for_evaluation(dataset.images[i : i + 1].to(device), 0, seed)",
        "estimators",
    ),
    Bug(
        "ais-importance-noise",
        "the bound beside annealing repeats its noise",
        "verbs/ais.py",
        "noise = partial(BlockNoise, seed, first)",
        "noise = partial(BlockNoise, seed, 0)",
        "estimators",
    ),
    Bug(
        "ais-own-labels",
        "the model's own images have the first labels alone",
        "verbs/ais.py",
        "context[spread(len(context), own_images)]",
        "context[:own_images]",
        "conditional",
    ),
    Bug(
        "corruption-shared",
        "a denoising autoencoder's images share their noise",
        "models/autoencoder.py",
        "return x + level * torch.randn_like(x)",
        "return x + level * torch.randn_like(x[:1])",
        "models",
    ),
    Bug(
        "corruption-mask-shared",
        "a mask is of columns, not of pixels",
        "models/autoencoder.py",
        "return x * (torch.rand_like(x) >= level)",
        "return x * (torch.rand_like(x[:, :1, :1]) >= level)",
        "models",
    ),
    Bug(
        "gaussian-sample-shared",
        "the pixels of a normal sample share their noise by rows",
        "densities/images.py",
        "noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)",
        "noise = torch.randn((*shape[:-1], 1), dtype=self.loc.dtype, device=self.loc.device).expand(shape)",
        "tables",
    ),
    Bug(
        "uniform-sample-shared",
        "the pixels of a Bernoulli sample share their noise by rows",
        "densities/images.py",
        "return torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).clamp_min(tiny)",
        "return torch.rand((*shape[:-1], 1), dtype=self.loc.dtyp"
        "e, device=self.loc.device).clamp_min(tiny).expand(shape)",
        "tables",
    ),
    Bug(
        "logistic-sample-shared",
        "the pixels of a logistic mixture's sample share their noise by rows",
        "densities/logistics.py",
        "return torch.rand_like(values).clamp_min(torch.finfo(values.dtype).tiny)",
        "return torch.rand_like(values[..., :1]).clamp_min(torch.finfo(values.dtype).tiny).expand(values.shape)",
        "tables",
    ),
    Bug(
        "calibrate-first",
        "the optimal scale is of the first images of a sorted set",
        "training/validation.py",
        "spread(len(train), CALIBRATION_IMAGES).split",
        "torch.arange(min(len(train), CALIBRATION_IMAGES)).split",
        "training",
    ),
    Bug(
        "flow-first",
        "a flow holds out the first codes of a sorted set",
        "trained/samplers/flow.py",
        "data = data[torch.randperm(len(data), generator=generator)]",
        "data = data[torch.arange(len(data))]",
        "posthoc",
    ),
)


def main() -> int:
    """Plant, test, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="NAME", choices=[bug.name for bug in BUGS])
    parser.add_argument("--jobs", type=int, default=1, metavar="COUNT")
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    chosen = [bug for bug in BUGS if options.only is None or bug.name in options.only]
    with ThreadPoolExecutor(options.jobs) as pool:
        caught = dict(zip(chosen, pool.map(told, chosen), strict=True))
    survivors = [bug.name for bug, found in caught.items() if not found]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} caught")
    if options.write:
        options.write.write_text(page(caught))
    return 5 if survivors else 0


def told(bug: Bug) -> str:
    """What noticed the bug, which is also printed."""
    found = noticed(bug)
    print(f"{bug.name:20} {'caught by ' + found if found else 'SURVIVES'}", flush=True)
    return found


def noticed(bug: Bug) -> str:
    """The first test that fails with the bug planted and passes without it; empty where none does."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in subprocess.run(TRACKED, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
        plant(bug, copy / "src" / "vaekit" / bug.file)
        guards = [f"tests/test_{name}.py" for name in bug.guards.split()]
        found = failing_test(copy, guards) or failing_test(copy, [])
        shutil.copy(ROOT / "src" / "vaekit" / bug.file, copy / "src" / "vaekit" / bug.file)
        if found and failing_test(copy, [f"tests/{found}"]):
            raise RuntimeError(f"{bug.name}: {found} fails without the bug, too")
        return found


def plant(bug: Bug, file: Path) -> None:
    """Change the line. ValueError where it is not there once: then the list is out of date."""
    text = file.read_text()
    if text.count(bug.right) != 1:
        raise ValueError(f"{bug.name}: '{bug.right}' occurs {text.count(bug.right)} times in {bug.file}")
    file.write_text(text.replace(bug.right, bug.wrong))


def failing_test(copy: Path, files: list[str]) -> str:
    """The first failing quick test of these files (of all, where none is named)."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *files]
    here = {**os.environ, "PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, cwd=copy, env=here, capture_output=True, text=True)
    match = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", found.stdout, re.M)
    if found.returncode not in (0, 1):
        raise RuntimeError(found.stdout[-2000:] + found.stderr[-2000:])
    return match[1].removeprefix("tests/") if match else ""


def page(caught: dict[Bug, str]) -> str:
    """The table of the docs."""
    rows = "\n".join(
        # a bar would end the cell
        f"| {bug.about.replace('|', '&#124;')} | `{bug.file}` | {f'`{found}`' if found else '**no test**'} |"
        for bug, found in caught.items()
    )
    count = sum(map(bool, caught.values()))
    return f"""# Planted bugs

A suite is worth what it notices. `python scripts/plant_bugs.py --write docs/planted-bugs.md` plants these bugs one at a
time in a copy of the project and runs the quick suite on it: {count} of {len(caught)} are caught. The test named is the
first that failed.

| bug | in | caught by |
|---|---|---|
{rows}
"""


if __name__ == "__main__":
    sys.exit(main())
