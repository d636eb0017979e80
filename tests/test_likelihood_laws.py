"""Discrete likelihoods: they sum to 1 at every bit depth, keep their tails, and say what their samples are."""

import itertools
import math

import mpmath
import pytest
import torch

from vaekit.config.schema import Part
from vaekit.densities.images import BernoulliImage
from vaekit.densities.logistics import DiscretisedLogisticImage, LogisticMixtureImage, mean_value
from vaekit.evaluation.chunks import rows_at_once
from vaekit.models.build import LIKELIHOODS, vae

LIMITS = [(torch.float64, 1e-10), (torch.float32, 2e-5)]
LOCS = (-4.0, -0.1, 0.0, 0.003, 0.5, 0.997, 1.0, 1.2)
LOG_SCALES = (-9.0, -6.0, -3.0, -1.0, 3.0)
DISCRETE = [kind for kind, likelihood in LIKELIHOODS.items() if likelihood.family.base_measure.startswith("disc")]


def grid(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """loc and log_scale (1, H, W): every pair."""
    loc = torch.tensor(LOCS, dtype=dtype)[:, None].expand(len(LOCS), len(LOG_SCALES))
    log_scale = torch.tensor(LOG_SCALES, dtype=dtype).expand(len(LOCS), len(LOG_SCALES))
    return loc[None], log_scale[None]


def levels(bits: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """(2^bits, *shape): images of one grey value each."""
    steps = 2**bits - 1
    return (torch.arange(steps + 1, dtype=dtype) / steps).view(-1, *[1] * len(shape)).expand(-1, *shape)


def mixture(channels: int, bits: int, dtype=torch.float64, seed: int = 0, size=(2, 3), components: int = 3):
    """A mixture with random parameters, from mild to sharp, whose components reach past both ends."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int, low: float, high: float) -> torch.Tensor:
        return (low + (high - low) * torch.rand(*shape, *size, generator=random, dtype=torch.float64)).to(dtype)

    pairs = channels * (channels - 1) // 2
    return LogisticMixtureImage(
        draw(components, low=-3, high=3),
        draw(components, channels, low=-0.3, high=1.3),
        draw(components, channels, low=-6, high=0),
        draw(components, pairs, low=-1, high=1) if pairs else None,
        bits,
    )


@pytest.mark.parametrize(("dtype", "limit"), LIMITS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_a_logistic_sums_to_one_at_every_bit_depth(bits, dtype, limit):
    loc, log_scale = grid(dtype)
    px = DiscretisedLogisticImage(loc, log_scale, bits)
    total = px.pixel_log_prob(levels(bits, loc.shape, dtype)).exp().sum(0)
    assert float((total - 1).abs().max()) < limit


@pytest.mark.parametrize(("dtype", "limit"), LIMITS)
def test_a_bernoulli_sums_to_one(dtype, limit):
    logits = torch.tensor([-80.0, -20, -1e-3, 0, 3, 40], dtype=dtype).view(1, 1, -1)
    total = BernoulliImage(logits).pixel_log_prob(levels(1, logits.shape, dtype)).exp().sum(0)
    assert float((total - 1).abs().max()) < limit


@pytest.mark.parametrize(("dtype", "limit"), LIMITS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_a_grey_mixture_sums_to_one_at_every_bit_depth(bits, dtype, limit):
    loc, log_scale = grid(dtype)
    locs, log_scales = torch.stack([loc, loc.flip(1), 0 * loc]), torch.stack([log_scale, log_scale.flip(2), log_scale])
    logits = torch.tensor([0.0, 5.0, -9.0], dtype=dtype).view(3, 1, 1).expand(3, *loc.shape[1:])
    px = LogisticMixtureImage(logits, locs, log_scales, None, bits)
    total = px.pixel_log_prob(levels(bits, loc.shape, dtype)).exp().sum(0)
    assert float((total - 1).abs().max()) < limit


@pytest.mark.parametrize(("dtype", "limit"), LIMITS)
@pytest.mark.parametrize(("channels", "bits"), [(2, 1), (2, 5), (3, 1), (3, 2), (3, 3), (4, 2)])
def test_a_coloured_pixel_sums_to_one_over_every_colour(channels, bits, dtype, limit):
    px = mixture(channels, bits, dtype)
    line = levels(bits, (), dtype)
    colours = torch.cartesian_prod(*[line] * channels).view(-1, channels, 1, 1).expand(-1, -1, 2, 3)
    total = px.pixel_log_prob(colours).exp().sum(0)
    assert float((total - 1).abs().max()) < limit


@pytest.mark.parametrize(("dtype", "limit"), LIMITS)
def test_colours_of_eight_bits_sum_to_one_channel_by_channel(dtype, limit):
    """The sum over blue is a mixture of red and green, whose sum over green is one of red: a chain."""
    px = mixture(3, 8, dtype)
    shorter = [
        LogisticMixtureImage(
            px.log_weights, px.loc[:, :n], px.log_scale[:, :n], px.coupling[:, : n * (n - 1) // 2] if n > 1 else None
        )
        for n in (1, 2, 3)
    ]
    before = torch.rand(7, 3, 2, 3, generator=torch.Generator().manual_seed(1)).mul(255).round().to(dtype) / 255
    for n in (1, 2, 3):
        x = before[:, :n].expand(256, -1, -1, -1, -1).clone()
        x[:, :, n - 1] = levels(8, (7, 2, 3), dtype)
        total = shorter[n - 1].pixel_log_prob(x).double().logsumexp(0)
        expected = shorter[n - 2].pixel_log_prob(before[:, : n - 1]).double() if n > 1 else torch.zeros_like(total)
        assert float((total - expected).abs().max()) < limit * 3  # relative to the probability of the colours before


# Against many digits


def exact_mass(k: int, loc: mpmath.mpf, log_scale: float, bits: int) -> mpmath.mpf:
    """The mass of a logistic between the edges of the k-th grey value, as a difference of its distribution function."""
    if k > loc * (2**bits - 1):  # mirrored into the lower tail, where the difference keeps its digits
        return exact_mass(2**bits - 1 - k, 1 - loc, log_scale, bits)
    steps, scale = 2**bits - 1, mpmath.exp(mpmath.mpf(log_scale))

    def cdf(edge: mpmath.mpf) -> mpmath.mpf:
        return 1 / (1 + mpmath.exp(-(edge - loc) / scale))

    high = mpmath.mpf(1) if k == steps else cdf((mpmath.mpf(k) + 0.5) / steps)
    low = mpmath.mpf(0) if k == 0 else cdf((mpmath.mpf(k) - 0.5) / steps)
    return high - low


def assert_close(found: float, exact: mpmath.mpf, relative: float = 1e-4) -> None:
    reference = float(mpmath.log(exact))
    assert math.isclose(found, reference, rel_tol=relative, abs_tol=1e-37), (found, reference)


@pytest.mark.parametrize("bits", [1, 3, 5, 8])
@pytest.mark.parametrize("log_scale", [-9.0, -6.5, -3.0, 0.0, 3.0])
def test_float32_is_exact_to_four_digits_far_into_both_tails(log_scale, bits):
    """In relative terms even where a value is almost sure, and its log-probability almost 0."""
    with mpmath.workdps(60):
        for loc in torch.tensor([-3.0, -0.01, 0.0, 0.2, 0.5, 1 / 3, 0.998, 1.0, 1.7]).tolist():
            px = DiscretisedLogisticImage(torch.full((1, 1, 1), loc), torch.full((1, 1, 1), log_scale), bits)
            for k in sorted({0, 1, 2**bits // 3, 2**bits // 2, 2**bits - 2, 2**bits - 1}):
                found = float(px.log_prob(torch.full((1, 1, 1), k) / (2**bits - 1)))
                assert_close(found, exact_mass(k, mpmath.mpf(loc), float(torch.tensor(log_scale)), bits))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_mixture_in_float32_is_what_its_formula_says(channels):
    """Weights, coupling of green to red and of blue to both, and the product over channels, each by hand."""
    px = mixture(channels, 8, torch.float32, size=(1, 1))
    logits = [mpmath.mpf(float(w)) for w in px.log_weights.flatten()]
    locs, log_scales = px.loc[..., 0, 0].tolist(), px.log_scale[..., 0, 0].tolist()
    ties = [[], []] if px.coupling is None else px.coupling[..., 0, 0].tolist()
    with mpmath.workdps(60):
        for colour in itertools.product((0, 1, 90, 254, 255), repeat=channels):
            value = [mpmath.mpf(k) / 255 - mpmath.mpf("0.5") for k in colour]
            whole = mpmath.mpf(0)
            for component, weight in enumerate(logits):
                mass = mpmath.exp(weight) / sum(mpmath.exp(w) for w in logits)
                for c, k in enumerate(colour):
                    loc = mpmath.mpf(locs[component][c])
                    if c == 1:
                        loc += ties[component][0] * value[0]
                    if c == 2:
                        loc += ties[component][1] * value[0] + ties[component][2] * value[1]
                    mass *= exact_mass(k, loc, log_scales[component][c], 8)
                whole += mass
            found = float(px.log_prob(torch.tensor(colour).view(-1, 1, 1) / 255))
            assert_close(found, whole)


@pytest.mark.parametrize("kind", DISCRETE)
@pytest.mark.parametrize("size", [0.0, 30.0, 1e4])
def test_gradients_are_finite_whatever_the_network_says(kind, size):
    torch.manual_seed(0)
    model = vae((3, 2, 2), 2, Part("mlp", {"widths": ()}), kind)
    x = torch.tensor([0.0, 1.0, 100 / 255, 1.0]).view(1, 1, 2, 2).expand(4, 3, 2, 2)
    z = size * torch.randn(2, 4, 2)
    model.likelihood(z).log_prob(x).sum().backward()
    gradients = [p.grad for p in model.likelihood.parameters()]
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients)


# Samples and means of colours


@pytest.mark.parametrize(("channels", "bits"), [(1, 1), (1, 8), (2, 3), (3, 1), (3, 2)])
def test_samples_have_the_frequencies_of_the_probabilities(channels, bits):
    """Every colour of one pixel, by a chi-square statistic: its mean is the number of colours, its spread sqrt(2n)."""
    torch.manual_seed(0)
    px = mixture(channels, bits, seed=3, size=(1, 1))
    steps, count = 2**bits - 1, 60_000
    samples = px.sample(torch.Size([count]))
    assert bool(px.support.check(samples).all())
    index = torch.zeros(count, dtype=torch.long)
    for channel in range(channels):
        index = index * (steps + 1) + (samples[:, channel, 0, 0] * steps).round().long()
    colours = torch.cartesian_prod(*[torch.arange(steps + 1.0, dtype=torch.float64) / steps] * channels)
    p = px.log_prob(colours.view(-1, channels, 1, 1)).exp()
    found = torch.bincount(index, minlength=len(p))
    common = p * count > 5
    statistic = float(((found - p * count).square() / (p * count))[common].sum())
    rare = int(common.sum())
    assert abs(statistic - rare) < 5 * math.sqrt(2 * rare)
    assert float(found[~common].sum()) <= 3 * float(p[~common].sum() * count) + 5


@pytest.mark.parametrize(("channels", "bits"), [(2, 1), (2, 6), (3, 1), (3, 3)])
def test_the_mean_of_a_colour_is_the_expectation_over_the_colours_before(channels, bits):
    px = mixture(channels, bits, seed=4, size=(4, 5))
    colours = torch.cartesian_prod(*[levels(bits, (), torch.float64)] * channels).view(-1, channels, 1, 1)
    p = px.pixel_log_prob(colours.expand(-1, -1, 4, 5)).exp()
    error = (px.mean - (p * colours).sum(0)).abs()
    assert float(error.max()) < 1 / 34 and float(error.mean()) < 5e-3
    assert float(error[0].max()) < (1e-9 if bits < 4 else 0.5 / (2**bits - 1))  # the first channel leans on none


def test_without_coupling_the_mean_is_the_weighted_mean_of_the_components():
    px = mixture(3, 8)
    free = LogisticMixtureImage(px.log_weights, px.loc, px.log_scale, None)
    weighted = (px.log_weights.exp()[:, None] * mean_value(px.loc, px.log_scale, 255)).sum(0)
    assert torch.allclose(free.mean, weighted)
    assert not torch.allclose(px.mean[1], weighted[1], atol=1e-3)


# The class around it


def test_coupling_is_of_colours_and_an_option():
    def outputs(channels: int, **options) -> int:
        made = []
        LIKELIHOODS["discretised-logistic-mixture"](
            lambda count: made.append(count) or torch.nn.Identity(), (channels, 2, 2), components=7, **options
        )
        return made[0]

    assert [outputs(c) for c in (1, 2, 3)] == [7 * 3, 7 * 6, 7 * 10]  # as counted in the paper
    assert [outputs(c, coupling=False) for c in (1, 2, 3)] == [7 * 3, 7 * 5, 7 * 7]


def test_the_network_says_each_parameter_of_a_pixel_at_its_own_place():
    """The numbers of a pixel come in the order weights, locations, scales, coupling; other pixels are untouched."""
    kind = LIKELIHOODS["discretised-logistic-mixture"]
    made = kind(lambda count: torch.nn.Identity(), (3, 2, 2), components=2)
    values = torch.zeros(1, 20, 2, 2)
    before = made.decoded(values)
    for at, name, place in ((1, "log_weights", (1,)), (2 + 4, "loc", (1, 1)), (8 + 2, "log_scale", (0, 2)),
                            (14 + 5, "coupling", (1, 2))):  # fmt: skip
        changed = values.clone()
        changed[0, at, 1, 0] = 0.3
        difference = getattr(made.decoded(changed), name) - getattr(before, name)
        moved = difference[0].abs().sum((-2, -1)) > 1e-6
        assert bool(moved[place]) and int(moved.sum()) == (2 if name == "log_weights" else 1)
        assert int((difference[0].abs() > 1e-6).sum((-2, -1)).max()) == 1


def test_samples_of_codes_keep_their_own_pixels():
    """(S, B) of codes: each image is scored against its own row, whatever the samples."""
    torch.manual_seed(0)
    model, x = vae((3, 4, 5), 3, Part("mlp", {"widths": (8,)}), "discretised-logistic-mixture"), torch.rand(6, 3, 4, 5)
    x = (x * 255).round() / 255
    z = torch.randn(2, 6, 3)
    together = model.likelihood(z).log_prob(x)
    for s, b in itertools.product(range(2), range(6)):
        alone = model.likelihood(z[s, b : b + 1]).log_prob(x[b : b + 1])
        assert torch.allclose(together[s, b], alone, rtol=1e-5)
    assert model.likelihood(z).sample().shape == model.likelihood(z).mean.shape == (2, 6, 3, 4, 5)


def test_chunks_of_an_evaluation_shrink_with_the_components(monkeypatch):
    monkeypatch.setattr("vaekit.evaluation.chunks.free_memory", lambda device: 2**24)
    rows = [
        rows_at_once(
            vae((3, 8, 8), 2, Part("mlp", {"widths": (8,)}), Part("discretised-logistic-mixture", {"components": k})),
            torch.device("cpu"),
        )
        for k in (2, 20)
    ]
    assert rows[1] == pytest.approx(rows[0] / 10, rel=0.1)


@pytest.mark.slow
def test_what_a_mixture_holds_at_once_is_within_what_the_chunks_allow():
    """The largest sum of live tensors of the density is below TENSORS_AT_ONCE of the network's output."""
    from vaekit.evaluation.chunks import TENSORS_AT_ONCE

    for shape in ((1, 32, 32), (3, 32, 32)):
        model = vae(shape, 2, Part("mlp", {"widths": (8,)}), "discretised-logistic-mixture")
        x, z = torch.rand(64, *shape), torch.randn(1, 64, 2)
        widest = model.likelihood.numbers * shape[1] * shape[2] * 64 * 4
        with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profiler:
            model.likelihood(z).log_prob(x)
        now = most = 0
        for event in profiler.profiler.kineto_results.events():
            if event.name() == "[memory]":
                now += event.nbytes()
                most = max(most, now)
        assert widest < most < TENSORS_AT_ONCE * widest, (most / widest, shape)
