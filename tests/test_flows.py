"""Laws of flow posteriors: they are densities, bend where a normal cannot, and begin as one."""

import itertools
import math

import pytest
import torch
from small_posteriors import FLOWS, flow_of, images, model_of, noise_of, shaken

from vaekit.densities.codes import DiagonalNormal, kl_of
from vaekit.densities.flows import MaskedNetwork
from vaekit.densities.noise import BlockNoise
from vaekit.models.build import POSTERIORS
from vaekit.models.trace import log_q, log_weight
from vaekit.models.vae import Encoded

# Masked networks


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("widths", [(), (3,), (16, 9)])
def test_no_output_depends_on_the_numbers_from_its_own_on(widths, reverse):
    """The Jacobian of shift and scale is strictly triangular, and full below where the widths allow it."""
    torch.manual_seed(0)
    network = MaskedNetwork(6, 2, widths, reverse=reverse).double()
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn_like(weight))
    step = network(torch.randn(2, dtype=torch.float64))
    both = torch.autograd.functional.jacobian(
        lambda x: torch.stack(step.shift_and_log_scale(x)), torch.randn(6, dtype=torch.float64)
    )
    for jacobian in both:
        ordered = jacobian.flip(0, 1) if reverse else jacobian
        assert bool((ordered.triu() == 0).all())
        if widths != (3,):  # three units cannot tell five numbers apart, but the last output sees some of each kind
            assert bool((ordered[torch.tril_indices(6, 6, -1).unbind()] != 0).all())


def test_the_context_reaches_every_shift_and_scale():
    torch.manual_seed(0)
    network = MaskedNetwork(4, 3, (8,)).double()
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn_like(weight))
    x = torch.zeros(4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda h: torch.cat(network(h).shift_and_log_scale(x)), torch.randn(3, dtype=torch.float64)
    )
    assert bool((jacobian.abs() > 1e-6).all())


def test_one_map_stretches_by_no_more_than_it_says():
    network = MaskedNetwork(3, 1, (8,))
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(1e3 * torch.ones_like(weight))
    x = torch.tensor([1.0, -2.0, 3.0])
    _, log_scale = network(torch.ones(1)).shift_and_log_scale(x)
    assert float(log_scale.detach().abs().max()) <= 2.0


# Flows as densities


@pytest.mark.parametrize("kind", FLOWS)
def test_log_q_is_the_base_density_less_the_log_determinant_of_the_whole_jacobian(kind):
    q = flow_of(kind)
    noise = noise_of(q, samples=2)
    _, log_density = q.drawn(noise)
    for s, b in itertools.product(range(2), range(3)):

        def image(e, b=b):
            return q.from_noise(e.expand(3, -1))[b]

        jacobian = torch.autograd.functional.jacobian(image, noise[s, b])
        base = torch.distributions.Normal(0.0, 1.0).log_prob(noise[s, b]).sum()
        assert abs(float(log_density[s, b].detach() - (base - torch.linalg.slogdet(jacobian).logabsdet))) < 1e-8


@pytest.mark.parametrize("kind", FLOWS)
def test_the_order_turns_round_so_that_every_number_depends_on_every_noise(kind):
    """Each map alone is triangular; two in a row are not."""
    q = flow_of(kind)
    jacobian = torch.autograd.functional.jacobian(lambda e: q.from_noise(e.expand(3, -1))[0], noise_of(q)[0, 0])
    assert bool((jacobian.abs() > 1e-9).all())


@pytest.mark.parametrize("kind", FLOWS)
def test_a_member_of_a_batch_of_flows_is_the_same_flow_alone(kind):
    """Which a draw from a VampPrior made of flows rests on."""
    q, index = flow_of(kind), torch.tensor([2, 0])
    noise = noise_of(q)
    alone = q.at(index)
    assert torch.equal(alone.from_noise(noise[:, index]), q.from_noise(noise)[:, index])
    z = q.from_noise(noise)[:, index]
    assert torch.allclose(alone.log_prob(z), q.log_prob(q.from_noise(noise))[:, index], rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", FLOWS)
def test_the_drawn_density_is_the_density_and_the_inverse_returns_the_noise(kind):
    q = flow_of(kind)
    noise = noise_of(q)
    z, log_density = q.drawn(noise)
    assert torch.equal(z, q.from_noise(noise))
    assert torch.allclose(q.log_prob(z), log_density, rtol=0, atol=1e-8)
    back, log_det = q.pulled((z - q.loc) / q.log_scale.exp())
    assert torch.allclose(back, noise, rtol=0, atol=1e-9)
    assert torch.allclose(log_det, q.pushed(noise)[1], rtol=0, atol=1e-9)
    single = flow_of(kind, dtype=torch.float32)
    z, log_density = single.drawn(noise.float())
    assert torch.allclose(single.log_prob(z), log_density, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", FLOWS)
def test_a_flow_of_two_dimensions_integrates_to_one(kind):
    q = flow_of(kind, dims=2, count=1)
    axis = torch.linspace(-1, 1, 501, dtype=torch.float64)
    z, _ = q.drawn(noise_of(q, samples=4000))
    low, high = z.amin((0, 1)), z.amax((0, 1))
    centre, half = (low + high) / 2, 0.9 * (high - low)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    with torch.no_grad():
        mass = q.log_prob((centre + half * grid)[:, :, None]).exp().sum() * half.prod() * (2 / 500) ** 2
    assert abs(float(mass) - 1) < 2e-3


@pytest.mark.parametrize("kind", FLOWS)
def test_a_new_flow_is_the_diagonal_normal(kind):
    """ELBO and bound of an untrained flow are those of its loc and log_scale."""
    model, x = model_of(kind), images()
    trace = model(x, 3, BlockNoise(0))
    latent = trace.latents[0]
    plain = DiagonalNormal(latent.q.loc, latent.q.log_scale)
    assert torch.allclose(log_q(latent), plain.log_prob(latent.z), rtol=0, atol=1e-10)
    assert torch.equal(latent.q.mean, latent.q.loc)
    same = model.trace(Encoded(x, plain, latent.p), 3, BlockNoise(0))
    assert torch.allclose(log_weight(trace), log_weight(same), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", FLOWS)
def test_many_samples_are_those_of_each_image_alone(kind):
    """The context is shared by samples and kept apart between images."""
    model, x = shaken(model_of(kind)), images()
    trace = model(x, 4, BlockNoise(0))
    for i in range(3):
        alone = model(x[i : i + 1], 4, BlockNoise(0, i))
        assert torch.allclose(log_weight(alone)[:, 0], log_weight(trace)[:, i])
    q = trace.latents[0].q
    z = trace.latents[0].z
    each = torch.stack([q.log_prob(z[:, :, None])[..., i] for i in range(3)], -1)  # of every z under every image's q
    assert torch.allclose(each.diagonal(dim1=1, dim2=2), q.log_prob(z))


@pytest.mark.parametrize("kind", FLOWS)
def test_stopped_log_q_reaches_no_weight_but_through_the_code(kind):
    """Roeder, Wu & Duvenaud 2017, arXiv:1703.09194: with z held, nothing flows; with z live, all of it through z."""
    model, x = shaken(model_of(kind)), images()
    trace = model(x, 2, BlockNoise(0), stopped=True)
    latent = trace.latents[0]
    assert torch.allclose(latent.log_q_stopped, log_q(latent), atol=1e-8)
    weights = [w for w in model.posterior.parameters() if w.requires_grad]
    stopped = latent.q.detach()
    held = latent.z.detach().requires_grad_()
    (score,) = torch.autograd.grad(stopped.log_prob(held).sum(), held)
    assert not stopped.log_prob(latent.z.detach()).requires_grad
    whole = torch.autograd.grad(latent.log_q_stopped.sum(), weights, retain_graph=True)
    through_z = torch.autograd.grad(latent.z, weights, score)
    assert all(torch.allclose(a, b, atol=1e-8) for a, b in zip(whole, through_z, strict=True))
    epsilon = 1e-6 * torch.randn(held.shape, generator=torch.Generator().manual_seed(0), dtype=held.dtype)
    change = stopped.log_prob(held + epsilon) - stopped.log_prob(held - epsilon)
    assert torch.allclose(change.sum(), 2 * (score * epsilon).sum(), rtol=1e-5)


@pytest.mark.parametrize("kind", FLOWS)
def test_the_one_sample_kl_averages_to_the_integral(kind):
    model = shaken(model_of(kind, dims=2), 0.3)
    q, p = model.q(images(1)), model.p()
    assert kl_of(q, p) is None
    axis = torch.linspace(-1, 1, 401, dtype=torch.float64)
    with torch.no_grad():
        z, log_density = q.drawn(noise_of(q, samples=20_000))
        low, high = z.amin((0, 1)), z.amax((0, 1))
        grid = (low + high) / 2 + 0.9 * (high - low) * torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
        inside = q.log_prob(grid[:, :, None])[..., 0]
        cell = (0.9 * (high - low)).prod() * (2 / 400) ** 2
        exact = float((inside.exp() * (inside - p.log_prob(grid))).sum() * cell)
        drawn = log_density - p.log_prob(z)
    assert abs(float(drawn.mean()) - exact) < 4 * float(drawn.std()) / math.sqrt(20_000) + 1e-3


@pytest.mark.parametrize("kind", FLOWS)
def test_the_spread_of_a_flow_is_the_mean_square_around_its_code(kind):
    q = shaken(model_of(kind), 0.2).q(images())
    with torch.no_grad():
        z = q.from_noise(noise_of(q, samples=20_000))
        truth = (z - q.mean).square().mean(0)
        assert torch.equal(q.mean, q.from_noise(torch.zeros_like(q.loc)))
        assert torch.equal(q.variance, q.variance)
        assert float((q.variance / truth - 1).abs().mean()) < 0.2
        assert torch.allclose(q.stddev.square(), q.variance)


def _best_kl(family, log_target, steps, dims=2):
    """Lowest KL(q || target) that a family finds, nats less the target's log-normaliser, by 10,000 fresh samples."""
    torch.manual_seed(0)
    loc, log_scale = torch.zeros(1, dims, requires_grad=True), torch.zeros(1, dims, requires_grad=True)
    networks = [MaskedNetwork(dims, 1, (32,), reverse=i % 2 == 1) for i in range(2)] if family else []
    weights = [loc, log_scale, *(w for network in networks for w in network.parameters())]
    optimizer = torch.optim.Adam(weights, lr=3e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def cost(count):
        maps = tuple(network(torch.zeros(1, 1)) for network in networks)
        q = family(loc, log_scale, maps) if family else DiagonalNormal(loc, log_scale, validate_args=False)
        z, log_density = q.drawn(torch.randn(count, 1, dims))
        return ((q.log_prob(z) if log_density is None else log_density) - log_target(z)).mean()

    for _ in range(steps):
        optimizer.zero_grad()
        cost(256).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return float(cost(10_000))


def ring(z):
    """Log of an unnormalised density on two sides of a ring, after Rezende & Mohamed 2015, arXiv:1505.05770."""
    far = ((z.norm(dim=-1) - 2) / 0.4).square() / 2
    sides = torch.stack([-0.5 * ((z[..., 0] - side) / 0.6).square() for side in (-2, 2)])
    return torch.logsumexp(sides, 0) - far


def banana(z):
    """Log of an unnormalised density: z1 near the half square of z0, which is normal of scale 2."""
    return -0.5 * ((z[..., 0] / 2).square() + ((z[..., 1] - 0.5 * z[..., 0].square()) / 0.3).square())


def log_normaliser(log_target):
    axis = torch.linspace(-12, 30, 4201, dtype=torch.float64)  # steps of 0.01
    rows = [torch.logsumexp(log_target(torch.stack([x.expand(4201), axis], -1)), 0) for x in axis[:2401]]
    return float(torch.logsumexp(torch.stack(rows), 0)) + 2 * math.log(0.01)


@pytest.mark.parametrize(("target", "steps"), [(ring, 80), pytest.param(banana, 600, marks=pytest.mark.slow)])
def test_flows_come_nearer_than_the_best_diagonal_normal(target, steps):
    """KL to a bent density, nats: at least a third of a nat less, and never below 0."""
    constant = log_normaliser(target)
    found = {kind: _best_kl(kind and POSTERIORS[kind].family, target, steps) + constant for kind in (None, *FLOWS)}
    print(target.__name__, {kind or "diagonal": round(value, 3) for kind, value in found.items()})
    for kind in FLOWS:
        assert -0.02 < found[kind] < found[None] - 0.33, found
