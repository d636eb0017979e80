"""Laws of the posteriors: flows are densities, quantised codes are counted, and both train inside a VAE."""

import itertools
import math

import pytest
import torch
from laws import SMALL, STEP
from small_runs import SIZES

from vaekit import evaluate, load, train
from vaekit.autoregressive import MaskedNetwork
from vaekit.build import POSTERIORS, PRIORS, build_objective, vae
from vaekit.codebooks import UniformCodes, nearest
from vaekit.config.schema import Part
from vaekit.distributions import DiagonalNormal, kl_of
from vaekit.errors import ConfigError
from vaekit.evaluation.codes import CodeUse
from vaekit.evaluation.health import diagnose
from vaekit.noise import BlockNoise
from vaekit.runs import read_config
from vaekit.trace import kl, log_q, log_weight, terms
from vaekit.training.step import forward_of

SHAPE = (1, 6, 5)
FLOWS = ("iaf", "maf")
QUANTISED = ("vq", "fsq")
OPTIONS = {
    "iaf": {"widths": (16,), "context": 5},
    "maf": {"widths": (16,), "context": 5, "transforms": 3},
    "vq": {"codes": 8, "groups": 2},
    "fsq": {"levels": (3, 4)},
}
PAIRS = [  # a prior per class needs a class: tests/test_combinations.py gives it one
    (q, p)
    for q, p in itertools.product(POSTERIORS, PRIORS)
    if POSTERIORS[q].discrete == PRIORS[p].discrete and p != "per-class"
]


def model_of(posterior, prior=None, dims=4, dtype=torch.float64, **options):
    torch.manual_seed(0)
    prior = prior or ("codes" if POSTERIORS[posterior].discrete else "standard")
    part = Part(posterior, {**OPTIONS.get(posterior, {}), **options})
    return vae(SHAPE, dims, SMALL, posterior=part, prior=prior).to(dtype)


def images(count=3, dtype=torch.float64):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=dtype).round()


def shaken(model, size=0.5):
    """The model with weights far from where they start, so that no map is the identity."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.posterior.parameters():
            weight += size * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return model


def flow_of(kind, dims=4, dtype=torch.float64, count=3):
    """q(z | x) of a shaken flow: batch (count,)."""
    return shaken(model_of(kind, dims=dims, dtype=dtype)).q(images(count, dtype))


def noise_of(q, samples=5, seed=3):
    shape = (samples, *q.batch_shape, *q.noise_shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=q.loc.dtype)


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
    same = model.trace(x, plain, latent.p, 3, BlockNoise(0))
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


# Quantised codes


def quantised(kind, dims=4, **options):
    model = model_of(kind, dims=dims, **options)
    return model, model.q(images(40))


def encodings_of(model, x):
    return model.posterior.parameters_of(x)


def test_a_vector_is_replaced_by_the_nearest_of_the_codebook():
    model, q = quantised("vq")
    vectors = encodings_of(model, images(40)).unflatten(-1, (2, 2))
    distances = torch.cdist(vectors, model.posterior.codebook)
    assert torch.equal(q.index, distances.argmin(-1))
    assert torch.equal(q.z.unflatten(-1, (2, 2)), model.posterior.codebook[q.index])
    assert len(q.index.unique()) > 1


def test_every_level_is_reached_and_rounding_moves_by_half_a_level():
    model, _ = quantised("fsq")
    posterior, levels = model.posterior, torch.tensor([3.0, 4.0, 3.0, 4.0])
    wide = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None].expand(-1, 4)
    posterior.network = torch.nn.Identity()
    q = posterior((wide + 1) / 2)
    for d in range(4):
        values = q.z[:, d].unique()
        assert torch.allclose(values, torch.linspace(-1, 1, int(levels[d]), dtype=torch.float64))
    place = levels * torch.sigmoid(wide) - 0.5
    assert float(((q.z + 1) * (levels - 1) / 2 - place).abs().max()) <= 0.5 + 1e-9
    assert torch.allclose(posterior.codebook[q.index].flatten(-2).to(q.z.dtype), q.z)


def test_the_codes_of_fsq_are_every_combination_of_levels():
    rows = model_of("fsq").posterior.codebook
    assert rows.shape == (12, 2)
    assert len(rows.unique(dim=0)) == 12


@pytest.mark.parametrize("kind", QUANTISED)
def test_gradients_pass_straight_through(kind):
    """d loss / d encoding is d loss / d z, times the slope of the bounded map for fsq."""
    model, x = model_of(kind), images()
    found = {}
    inner = model.posterior.network

    class Watched(torch.nn.Module):
        def forward(self, given):
            found["encoding"] = inner(given)
            found["encoding"].retain_grad()
            return found["encoding"]

    model.posterior.network = Watched()
    trace = model(x)
    z = trace.latents[0].z
    (wanted,) = torch.autograd.grad(-trace.log_px.mean(), z, retain_graph=True)
    (-trace.log_px.mean()).backward()
    slope = 1.0
    if kind == "fsq":
        level, share = model.posterior.levels, torch.sigmoid(found["encoding"].detach())
        slope = level * share * (1 - share) * 2 / (level - 1)
    assert float(wanted.abs().max()) > 0
    assert torch.allclose(found["encoding"].grad, slope * wanted.sum(0), rtol=1e-12)


def test_the_codebook_moves_to_the_encodings_and_commitment_the_encodings_to_the_codebook():
    x = images(40)
    for commitment in (0.0, 0.25):
        model = model_of("vq", commitment=commitment)
        encoded = encodings_of(model, x).unflatten(-1, (2, 2)).detach()
        q = model.q(x)
        q.penalty.sum().backward()
        book = model.posterior.codebook
        expected = torch.zeros_like(book).index_add(
            0, q.index.flatten(), (2 * (book[q.index] - encoded)).flatten(0, 1).detach()
        )
        assert torch.allclose(book.grad, expected)  # untouched by the commitment, whatever its weight
        moved = [w.grad.abs().max() for w in model.posterior.network.parameters() if w.grad is not None]
        assert (max(moved, default=0.0) > 0) == (commitment > 0)
        distance = (book[q.index] - encoded).square().sum((-2, -1))
        assert torch.allclose(q.penalty, (1 + commitment) * distance)


@pytest.mark.parametrize("kind", QUANTISED)
def test_the_rate_is_the_logarithm_of_the_number_of_codes(kind):
    model, x = model_of(kind), images(5)
    trace = model(x, 3, stopped=True)
    codes, groups = (8, 2) if kind == "vq" else (12, 2)
    latent = trace.latents[0]
    assert torch.allclose(kl(latent), torch.tensor(groups * math.log(codes), dtype=torch.float64))
    assert bool((log_q(latent) == 0).all() and (latent.log_q_stopped == 0).all())
    assert torch.allclose(log_weight(trace), trace.log_px - groups * math.log(codes))
    assert float(latent.q.log_prob(latent.z + 1).max()) == -math.inf
    assert latent.z.shape == (3, 5, 4)


@pytest.mark.parametrize("kind", QUANTISED)
def test_the_prior_draws_every_code_equally_often(kind):
    model = model_of(kind)
    p = model.p()
    assert isinstance(p, UniformCodes)
    noise = torch.randn(20_000, *p.noise_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = model.posterior.codebook.detach()
    z = p.from_noise(noise).detach()
    index = nearest(z.unflatten(-1, (2, 2)), rows)
    assert torch.equal(rows[index].flatten(-2), z)
    counts = torch.stack([torch.bincount(group, minlength=len(rows)) for group in index.T]).double()
    expected = 20_000 / len(rows)
    assert float(((counts - expected).square() / expected).sum()) < 4 * 2 * len(rows)
    assert torch.allclose(z.mean(0), p.mean, atol=0.05)
    assert torch.allclose(z.std(0), p.stddev, atol=0.05)
    assert torch.isfinite(p.from_noise(torch.full((1, 2), 9.0))).all()  # where the normal's distribution rounds to 1


def test_the_penalty_is_in_the_loss_once_and_not_in_the_elbo():
    model, x = model_of("vq"), images(40)
    trace = model(x, 2)
    loss = build_objective(Part("elbo"), 1, 30).objective(trace, STEP)
    assert float(trace.penalty.mean().detach()) > 0
    assert torch.allclose(loss, trace.penalty.mean() - terms(trace)["elbo"])


@pytest.mark.parametrize(
    ("counts", "perplexity", "used"),
    [([7, 0, 0, 0], 1.0, 1), ([3, 3, 3, 3], 4.0, 4), ([2, 1, 1, 0], 2**1.5, 3)],
)
def test_the_perplexity_of_a_known_assignment(counts, perplexity, used):
    use = CodeUse(torch.tensor(counts))
    assert use.perplexity == pytest.approx(perplexity, rel=1e-12)
    assert use.used == used


def test_a_collapsed_codebook_is_told_and_a_used_one_is_not():
    few = CodeUse(torch.tensor([500] * 12 + [0] * 500)).metrics()
    assert next(f.text for f in diagnose(few)).startswith("12 of 512 codes are used: the codebook has collapsed")
    assert not diagnose(CodeUse(torch.tensor([10] * 400 + [0] * 112)).metrics())
    # ten choices cannot use 512 rows
    assert not diagnose(CodeUse(torch.tensor([1] * 10 + [0] * 502)).metrics())


# Every posterior with every prior that fits


@pytest.mark.parametrize(("posterior", "prior"), PAIRS)
def test_every_pair_trains_every_weight(posterior, prior):
    model, x = model_of(posterior, prior), images(8)
    objective = build_objective(Part("elbo"), 1, 30).objective
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = objective(model(x, 2, BlockNoise(0)), STEP)
        loss.backward()
        assert all(w.grad is not None and bool(w.grad.isfinite().all()) for w in model.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 1


@pytest.mark.parametrize(("posterior", "prior"), PAIRS)
def test_terms_are_unchanged_by_duplication(posterior, prior):
    model, x = model_of(posterior, prior), images(4)
    objective = build_objective(Part("elbo"), 1, 30).objective

    def alike(level, shape, like):  # the same noise for both halves
        return torch.randn(
            (*shape[:1], 4, *shape[2:]), generator=torch.Generator().manual_seed(0), dtype=like.dtype
        ).repeat(1, shape[1] // 4, 1)

    once, twice = model(x, 2, alike), model(torch.cat([x, x]), 2, alike)
    assert torch.allclose(objective(once, STEP), objective(twice, STEP))
    assert all(torch.allclose(value, terms(twice)[name]) for name, value in terms(once).items())


def assert_goes_through_the_commands(vaekit, folder, kind):
    """Train, evaluate, sample and describe: a run of this posterior is a run like any other."""
    words = {"vq": ["model.posterior.groups=2"], "fsq": ["model.posterior.levels=[5, 5]"]}.get(kind, [])
    prior = "codes" if kind in QUANTISED else "standard"
    run = train(
        "digits", *SIZES, "training.epochs=2", f"model.posterior={kind}", f"model.prior={prior}", *words, out=folder
    )
    metrics = evaluate(run, samples=4)
    assert ("codes_used" in metrics) == (kind in QUANTISED)
    assert all(math.isfinite(value) for value in metrics.values() if isinstance(value, float))
    for command in (("sample",), ("latents",), ("traverse",), ("sample", "--sampler", "mixture")):
        answer = vaekit(command[0], run, *command[1:])
        assert answer.code == 0, answer.err
    assert load(run).encode(load(run).sample(2)).shape == (2, 4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", (*FLOWS, *QUANTISED))
def test_a_run_goes_through_the_commands(vaekit, tmp_path, kind):
    assert_goes_through_the_commands(vaekit, tmp_path / "run", kind)


def test_a_run_counts_its_codes(tmp_path):
    """What evaluate reports is counted over every image and group of the split."""
    words = ["model.posterior={kind: vq, codes: 8, groups: 2}", "model.prior=codes", "training.epochs=1"]
    run = train("digits", *SIZES, *words, out=tmp_path / "run")
    metrics = evaluate(run, samples=1)
    assert metrics["codes_total"] == 8
    assert 1 <= metrics["code_perplexity"] <= metrics["codes_used"] <= 8
    assert metrics["rate_nats"] == pytest.approx(2 * math.log(8))
    assert "aggregate_kl_nats" not in metrics


def assert_compiles(posterior, prior, samples):
    torch._dynamo.reset()
    x, results = images(4, torch.float32), []
    for compiled in (False, True):
        model = shaken(model_of(posterior, prior, dtype=torch.float32), 0.1)
        forward = forward_of(model, build_objective(Part("elbo"), 1, 30).objective, samples)
        torch.manual_seed(5)
        run = torch.compile(forward, fullgraph=True, backend="aot_eager") if compiled else forward
        loss, values = run(x, STEP)
        loss.backward()
        results.append((loss.detach(), values["rate"], [w.grad.clone() for w in model.parameters()]))
    (loss, rate, gradients), (loss2, rate2, gradients2) = results
    assert torch.allclose(loss, loss2, rtol=1e-5)
    assert torch.allclose(rate, rate2, rtol=1e-5)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(gradients, gradients2, strict=True))


def test_a_flow_compiles_in_one_graph():
    assert_compiles("iaf", "standard", 1)


@pytest.mark.slow
@pytest.mark.parametrize(("posterior", "prior"), PAIRS)
def test_every_pair_compiles_in_one_graph(posterior, prior):
    assert_compiles(posterior, prior, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model.posterior=vq",), "set model.prior=codes"),
        (("model.prior=codes",), "choose vq or fsq"),
        (("model.posterior=iaf", "objective.free_bits=0.1"), "objective.free_bits_per=level"),
    ],
)
def test_pairs_that_do_not_fit_are_refused_with_a_remedy(words, message):
    with pytest.raises(ConfigError, match=message):
        read_config("digits", words)


def test_free_bits_per_level_go_with_a_flow():
    free = "objective={kind: elbo, free_bits: 0.1, free_bits_per: level}"
    assert read_config("digits", ["model.posterior=maf", free]).model.posterior.kind == "maf"


@pytest.mark.parametrize(
    ("posterior", "options", "message"),
    [
        ("vq", {"groups": 3}, "3 equal groups"),
        ("fsq", {"levels": (3, 3, 3)}, "multiple of the 3 levels"),
        ("fsq", {"levels": (1, 4)}, "2 values or more"),
        ("fsq", {"levels": (300, 300)}, "65536 or fewer"),
    ],
)
def test_groups_that_do_not_fit_are_refused(posterior, options, message):
    with pytest.raises(ConfigError, match=message):
        model_of(posterior, **options)


def test_a_quantised_posterior_and_another_prior_are_refused_from_python_too():
    with pytest.raises(ConfigError, match="only together"):
        model_of("vq", "standard")
