"""The densities at chosen and extreme settings; test_tables walks the table with random ones."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.integrate import quad
from scipy.special import kve

from vaekit.densities.codes import DiagonalNormal, kl_per_dim_of
from vaekit.densities.images import (
    BernoulliImage,
    ContinuousBernoulliImage,
    CrossEntropyImage,
    GaussianImage,
    HyperbolicImage,
    ImageDistribution,
    LaplaceImage,
    LogBesselK1,
)
from vaekit.densities.logistics import DiscretisedLogisticImage
from vaekit.models.trace import Latent, kl


def pixel(*values, dtype=torch.float64):
    """Parameters of an image of one pixel."""
    return tuple(torch.tensor(float(v), dtype=dtype).reshape(1, 1, 1) for v in values)


# name -> settings of one-pixel distributions, from easy to extreme
SETTINGS: dict[str, list[ImageDistribution]] = {
    "bernoulli": [BernoulliImage(*pixel(l)) for l in (-30, -2, 0, 5)],
    "continuous-bernoulli": [ContinuousBernoulliImage(*pixel(l)) for l in (-40, -3, -0.09, -1e-6, 0, 0.11, 7, 60)],
    "gaussian": [GaussianImage(*pixel(m, math.log(s))) for m, s in ((0.5, 0.1), (0.0, 0.01), (2.0, 3.0))],
    "laplace": [LaplaceImage(*pixel(m, math.log(s))) for m, s in ((0.5, 0.1), (0.0, 0.01), (2.0, 3.0))],
    "charbonnier": [
        HyperbolicImage(*pixel(m, math.log(s)), epsilon=e)
        for m, s, e in ((0.5, 0.1, 1e-3), (0.2, 0.05, 0.3), (0.5, 0.5, 1e-6), (0.3, 0.01, 1.0))
    ],
    "discretised-logistic": [
        DiscretisedLogisticImage(*pixel(m, s), bits=b)
        for m, s, b in ((0.5, -3, 8), (0, -7, 8), (1.2, -9, 8), (0.3, 2, 8), (-0.5, -1, 8), (0.5, -2, 3), (0.1, -4, 1))
    ],
}
CASES = [(name, i) for name, settings in SETTINGS.items() for i in range(len(settings))]


def log_prob(distribution, value):
    x = torch.full((1, 1, 1), float(value), dtype=torch.float64)
    return float(distribution.log_prob(x))


def grid_of(distribution):
    steps = 1 if isinstance(distribution, BernoulliImage) else distribution.steps
    return [k / steps for k in range(steps + 1)]


def total_mass(distribution):
    if distribution.base_measure != "density":
        return sum(math.exp(log_prob(distribution, x)) for x in grid_of(distribution))
    if isinstance(distribution, ContinuousBernoulliImage):
        peak = [0.0, 1.0]
    else:
        loc = float(distribution.loc)
        width = float(distribution.log_scale.exp()) + getattr(distribution, "epsilon", 0.0)
        peak = [loc + side * width * reach for reach in (800, 40, 4, 0.2) for side in (-1, 1)] + [loc]
    edges = sorted(peak)
    return sum(
        quad(lambda x: math.exp(log_prob(distribution, x)), low, high, epsabs=1e-13, epsrel=1e-13, limit=200)[0]
        for low, high in itertools.pairwise(edges)
    )


@pytest.mark.parametrize(("name", "i"), CASES)
def test_normalises(name, i):
    assert abs(total_mass(SETTINGS[name][i]) - 1) < 1e-10


def test_cross_entropy_is_not_a_likelihood_and_says_so():
    distribution = CrossEntropyImage(*pixel(0.3))
    mass = quad(lambda x: math.exp(log_prob(distribution, x)), 0, 1)[0]
    assert not distribution.is_likelihood
    assert mass < 0.9


@pytest.mark.parametrize(("name", "i"), CASES)
def test_samples_follow_the_distribution(name, i):
    """Mean and spread of samples agree with the density's own, within 5 standard errors."""
    torch.manual_seed(0)
    distribution = SETTINGS[name][i]
    samples = distribution.sample(torch.Size([40_000])).double().flatten().numpy()
    if distribution.base_measure != "density":
        xs = np.array(grid_of(distribution))
        p = np.array([math.exp(log_prob(distribution, x)) for x in xs])
        mean, variance = (p * xs).sum(), (p * xs**2).sum() - (p * xs).sum() ** 2
        assert set(np.round(samples * (len(xs) - 1)).astype(int)) <= set(range(len(xs)))
        tolerance = 1e-3 if name == "discretised-logistic" else 1e-9  # its mean is the integral of a midpoint sum
        assert abs(float(distribution.mean) - mean) < tolerance
    else:
        mean = float(distribution.mean)
        low, high = (
            (0, 1) if name == "continuous-bernoulli" else (mean - 400 * samples.std(), mean + 400 * samples.std())
        )
        points = [mean + side * k * samples.std() for k in (0, 1, 5, 30) for side in (-1, 1)]
        inside = sorted({p for p in points if low < p < high})
        edges = [low, *inside, high]

        def moment(power):
            return sum(
                quad(lambda x: (x - mean) ** power * math.exp(log_prob(distribution, x)), a, b, limit=200)[0]
                for a, b in itertools.pairwise(edges)
            )

        assert abs(moment(1)) < 1e-6
        variance = moment(2)
    error = math.sqrt(variance / len(samples)) + 1e-9
    assert abs(samples.mean() - mean) < 5 * error
    assert abs(samples.var() - variance) < 0.08 * variance + 1e-9


def test_gaussian_and_laplace_agree_with_scipy():
    for x, m, s in ((0.1, 0.4, 0.05), (0.9, 0.4, 2.0)):
        assert math.isclose(log_prob(GaussianImage(*pixel(m, math.log(s))), x), scipy.stats.norm.logpdf(x, m, s))
        assert math.isclose(log_prob(LaplaceImage(*pixel(m, math.log(s))), x), scipy.stats.laplace.logpdf(x, m, s))


def test_hyperbolic_tends_to_the_laplace_and_the_gaussian():
    laplace, near = LaplaceImage(*pixel(0.5, -2)), HyperbolicImage(*pixel(0.5, -2), epsilon=1e-7)
    assert math.isclose(log_prob(laplace, 0.3), log_prob(near, 0.3), rel_tol=1e-5)
    epsilon, scale = 50.0, 1e-3  # exp(-d^2 / (2 epsilon s)): a normal of variance epsilon * s
    wide = HyperbolicImage(*pixel(0.5, math.log(scale)), epsilon=epsilon)
    normal = GaussianImage(*pixel(0.5, 0.5 * math.log(epsilon * scale)))
    assert math.isclose(log_prob(wide, 0.3), log_prob(normal, 0.3), abs_tol=1e-4)


@pytest.mark.parametrize("t", [1e-4, 0.01, 1.0, 30.0, 5000.0])
def test_bessel_value_and_gradient(t):
    x = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    value = LogBesselK1.apply(x)
    value.backward()
    assert math.isclose(float(value.detach()), math.log(kve(1, t)), rel_tol=1e-9)
    step = t * 1e-5
    slope = (math.log(kve(1, t + step)) - math.log(kve(1, t - step))) / (2 * step)
    assert math.isclose(float(x.grad), slope, rel_tol=1e-4)


@pytest.mark.parametrize(("mean", "log_scale"), [(0.5, -3.0), (0.5, -8.0), (0.0, -6.0), (3.0, -4.0), (0.2, 2.5)])
def test_discretised_logistic_in_float32_keeps_its_tails(mean, log_scale):
    """Against mpmath with 1,500 digits, 1e-4 relative, tails included."""
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 1500
    m, s = torch.tensor(mean, dtype=torch.float32), torch.tensor(log_scale, dtype=torch.float32)
    distribution = DiscretisedLogisticImage(m.reshape(1, 1, 1), s.reshape(1, 1, 1))
    for k in (0, 1, 30, 127, 128, 200, 254, 255):
        x = torch.tensor(k / 255, dtype=torch.float32)
        scale = mpmath.exp(mpmath.mpf(float(s)))

        def cdf(edge, scale=scale):
            return 1 / (1 + mpmath.exp(-(edge - mpmath.mpf(float(m))) / scale))

        exact = mpmath.mpf(k) / 255
        half = mpmath.mpf(1) / 510
        high = mpmath.mpf(1) if k == 255 else cdf(exact + half)
        low = mpmath.mpf(0) if k == 0 else cdf(exact - half)
        reference = float(mpmath.log(high - low))
        found = float(distribution.log_prob(x.reshape(1, 1, 1)))
        assert math.isclose(found, reference, rel_tol=1e-4, abs_tol=2e-5 * float(1 / scale) + 1e-6), (
            k,
            found,
            reference,
        )


@pytest.mark.parametrize("name", SETTINGS)
def test_float32_agrees_with_float64_in_value_and_gradient(name):
    for distribution in SETTINGS[name]:
        x = torch.full((1, 1, 1), float(grid_of(distribution)[-1]) if distribution.base_measure != "density" else 0.75)
        results = []
        for dtype in (torch.float32, torch.float64):
            loc = distribution.loc.to(dtype).requires_grad_()
            extra = [distribution.log_scale.to(dtype)] if hasattr(distribution, "log_scale") else []
            options = {k: getattr(distribution, k) for k in ("epsilon",) if hasattr(distribution, k)}
            if isinstance(distribution, DiscretisedLogisticImage):
                options["bits"] = int(math.log2(distribution.steps + 1))
            value = type(distribution)(loc, *extra, **options).log_prob(x.to(dtype))
            value.backward()
            results.append((float(value.detach()), float(loc.grad)))
        (v32, g32), (v64, g64) = results
        assert math.isclose(v32, v64, rel_tol=1e-4, abs_tol=1e-3)
        assert math.isclose(g32, g64, rel_tol=1e-2, abs_tol=1e-3)


KL_SETTINGS = [
    (m, math.log(s), pm, math.log(ps))
    for m, pm in ((0.0, 0.0), (1.5, 0.0), (-0.3, 0.7))
    for s, ps in (
        *((1.0, 1.0), (1e-3, 1.0), (0.3, 1.0), (1e3, 1e3), (2.0, 0.5)),
        *((1e3, 1.0), (0.999, 1.0), (5.0, 30.0), (1e-3, 2e-3), (0.1, 0.1)),
    )
]


@pytest.mark.parametrize("setting", KL_SETTINGS)
def test_closed_form_kl_agrees_with_monte_carlo(setting):
    torch.manual_seed(1)
    m, ls, pm, pls = (torch.tensor([v], dtype=torch.float64) for v in setting)
    q, p = DiagonalNormal(m, ls), DiagonalNormal(pm, pls)
    half = torch.randn(50_000, 1, dtype=torch.float64)
    z = q.from_noise(torch.cat([half, -half]))  # antithetic: symmetric in the noise
    exact = float(kl(Latent(z, q, p)))
    drawn = q.log_prob(z) - p.log_prob(z)
    pairs = drawn.view(2, -1).mean(0)
    error = float(pairs.std()) / math.sqrt(len(pairs))
    assert exact >= 0
    assert abs(float(drawn.mean()) - exact) < 4 * error + 1e-9
    if exact > 0.1:
        assert abs(float(drawn.mean()) - exact) < 0.01 * exact


def test_kl_per_dim_adds_up_and_near_zero_keeps_its_digits():
    torch.manual_seed(0)
    q = DiagonalNormal(torch.randn(3, 5), torch.randn(3, 5))
    p = DiagonalNormal(torch.zeros(5), torch.zeros(5))
    assert torch.allclose(kl_per_dim_of(q, p).sum(-1), kl(Latent(q.mean, q, p)))
    near = DiagonalNormal(torch.zeros(1), torch.tensor([1e-4]))
    assert math.isclose(float(kl_per_dim_of(near, DiagonalNormal(torch.zeros(1), torch.zeros(1)))), 1e-8, rel_tol=0.02)


def test_kl_per_dim_refuses_what_does_not_factorise():
    p = DiagonalNormal(torch.zeros(2), torch.zeros(2))
    full = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
    with pytest.raises(TypeError, match="free bits per level"):
        kl_per_dim_of(full, p)


def test_diagonal_normal_is_torchs_normal():
    loc, log_scale, z = torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 3)
    reference = torch.distributions.Independent(torch.distributions.Normal(loc, log_scale.exp()), 1)
    own = DiagonalNormal(loc, log_scale)
    assert torch.allclose(own.log_prob(z), reference.log_prob(z), atol=1e-5)
    assert torch.allclose(own.entropy(), reference.entropy(), atol=1e-5)


def test_validation_refuses_values_outside_the_support():
    with pytest.raises(ValueError, match="support"):
        BernoulliImage(torch.zeros(1, 2, 2), validate_args=True).log_prob(torch.full((1, 2, 2), 0.5))
