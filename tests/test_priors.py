"""What every prior obeys: a density, drawn as it says, with its own moments; and what each one adds."""

import math
import sys

import numpy as np
import pytest
import torch
from laws import panels
from scipy.stats import kstest

from vaekit.config.load import load_config
from vaekit.config.schema import ModelConfig, Part, TrainingConfig
from vaekit.data.dataset import Dataset
from vaekit.data.pixels import Pixels
from vaekit.densities.codes import DiagonalNormal, kl_of
from vaekit.densities.mixtures import Mixture
from vaekit.densities.noise import BlockNoise
from vaekit.errors import ConfigError, DataError
from vaekit.evaluation.chunks import rows_at_once
from vaekit.evaluation.latents import latent_use
from vaekit.evaluation.likelihood import bounds
from vaekit.models.build import LIKELIHOODS, PRIORS, build_model, vae
from vaekit.models.trace import Latent, kl
from vaekit.objectives.build import build_objective
from vaekit.training.checkpoint import load_weights
from vaekit.training.combinations import check_config
from vaekit.training.optimizer import build_optimizer
from vaekit.training.step import forward_of
from vaekit.training.validation import adopt

SHAPE, CLASSES, DRAWS = (1, 4, 5), 3, 40_000
OPTIONS = {
    "mixture": [{"components": 4}, {"components": 1, "weights": "uniform"}],
    "vamp": [{"components": 5, "weights": "learned"}, {"components": 3, "inputs": "data"}],
    "flow": [{"hidden": 8}, {"family": "nsf", "hidden": 8}],
}
DENSITIES = [kind for kind in PRIORS if not PRIORS[kind].discrete]  # tests of posteriors look at the other
CASES = [(kind, options) for kind in DENSITIES for options in OPTIONS.get(kind, [{}])]
NAMES = ["-".join([kind, *map(str, options.values())]) for kind, options in CASES]
every_prior = pytest.mark.parametrize(("kind", "options"), CASES, ids=NAMES)
COMPILED_QUICKLY = ("mixture-4", "vamp-5-learned")


def slow_where(name):
    """Splines cost seconds wherever they are looked at closely."""
    return [pytest.mark.slow] if name.startswith("flow-nsf") else []


every_density = pytest.mark.parametrize(
    ("kind", "options"), [pytest.param(*c, id=n, marks=slow_where(n)) for c, n in zip(CASES, NAMES, strict=True)]
)
every_compiled = pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param(*c, id=n, marks=[] if n in COMPILED_QUICKLY else [pytest.mark.slow])
        for c, n in zip(CASES, NAMES, strict=True)
    ],
)


def model_with(kind, options, dims=2, network="mlp", **network_options):
    """A float32 VAE whose prior has been moved away from where it starts."""
    if kind == "flow":
        pytest.importorskip("zuko")
    torch.manual_seed(0)
    labelled = kind == "per-class"
    network_options = network_options or {"widths": (8,)}
    config = ModelConfig(
        latent_dim=dims,
        network=Part(network, network_options),
        prior=Part(kind, options),
        context="class" if labelled else "none",
    )
    model = build_model(config, SHAPE, CLASSES if labelled else 0)
    model.adopt(lambda count: torch.rand(count, *SHAPE))
    with torch.no_grad():
        for parameter in model.prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for weight in model.posterior.parameters():
            weight.mul_(2)
    return model


def context_for(model, count=4):
    return torch.arange(count) % CLASSES if model.classes else None


def prior_of(kind, options, dims=2):
    """Its distribution in float64, of batch (): that of one class where each has its own."""
    model = model_with(kind, options, dims).double()
    p = model.p(torch.tensor([1]) if model.classes else None)
    return p.at(torch.tensor(0)) if model.classes else p


@every_density
@torch.no_grad()
def test_total_mass_is_one(kind, options):
    """In the plane, by panels that meet at the mean, where a density may have its kink; NSF has corners elsewhere."""
    p = prior_of(kind, options)
    reach, limit = (7, 5e-3) if options.get("family") else (12, 1e-6)
    lines = [panels(float(m), float(s), reach) for m, s in zip(p.mean, p.stddev, strict=True)]
    z = torch.cartesian_prod(*(points for points, _ in lines))
    area = torch.outer(*(weights for _, weights in lines)).flatten()
    assert abs(float(p.log_prob(z).exp() @ area) - 1) < limit


@every_density
@torch.no_grad()
def test_draws_follow_the_density_and_the_moments(kind, options):
    """A line's CDF by quadrature against draws; the stated mean and deviation within 4 standard errors."""
    p = prior_of(kind, options, dims=1 if kind != "flow" else 2)
    torch.manual_seed(1)
    z = p.rsample(torch.Size([DRAWS]))
    own = DRAWS if kind != "flow" else 4096  # its moments are themselves of so many draws
    error = p.stddev / math.sqrt(own)
    assert bool(((z.mean(0) - p.mean).abs() < 4 * error + 4 * p.stddev / math.sqrt(DRAWS)).all())
    squares = (z - p.mean).square()
    assert bool(((squares.mean(0) - p.variance).abs() < 8 * squares.std(0) / math.sqrt(own)).all())
    if kind == "flow":  # in the plane: the mass of a half-plane, by quadrature
        lines = [m + s * torch.linspace(-7, 7, 141).double() for m, s in zip(p.mean, p.stddev, strict=True)]
        grid = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1)
        mass = p.log_prob(grid.reshape(-1, 2)).exp()
        share = float(mass[(grid.reshape(-1, 2).sum(-1) < p.mean.sum())].sum() / mass.sum())
        assert abs(float((z.sum(-1) < p.mean.sum()).double().mean()) - share) < 0.02
        return
    line = p.mean + p.stddev * torch.linspace(-12, 12, 6001, dtype=torch.float64)[:, None]
    cdf = torch.cumulative_trapezoid(p.log_prob(line).exp(), line[:, 0]).numpy()
    found = kstest(z[:, 0].numpy(), lambda at: np.interp(at, line[1:, 0].numpy(), cdf))
    assert found.pvalue > 1e-3, found


@every_density
@torch.no_grad()
def test_quantiles_are_those_of_each_dimension(kind, options):
    p = prior_of(kind, options)
    shares = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)
    torch.manual_seed(2)
    below = (p.rsample(torch.Size([DRAWS])) < p.quantile(shares)[:, None]).double().mean(1)
    assert bool(((below - shares[:, None]).abs() < 0.04).all())


@every_prior
def test_a_stopped_prior_is_the_same_density_without_gradients(kind, options):
    model = model_with(kind, options)
    p = model.p(context_for(model))
    z = torch.randn(7, 4, 2, requires_grad=True)
    assert torch.allclose(p.detach().log_prob(z), p.log_prob(z), rtol=1e-6, atol=1e-6)
    weights = list(model.parameters())
    p.detach().log_prob(z).sum().backward()
    assert z.grad is not None and all(weight.grad is None for weight in weights)
    if weights_of_prior := list(model.prior.parameters()):
        p.log_prob(z).sum().backward()
        assert all(weight.grad is not None for weight in weights_of_prior)


@every_prior
@torch.no_grad()
def test_temperature_narrows_and_nothing_is_left_of_it_at_zero(kind, options):
    model = model_with(kind, options)
    p = model.p(context_for(model, 1000))
    noise = torch.randn(1000, *p.noise_shape)
    cold, warm = p.from_noise(noise, 0.0), p.from_noise(noise, 0.5)
    assert bool(cold.isfinite().all())
    apart = p.from_noise(noise) - cold
    if kind != "flow":  # each code moves along a line from the mean of its component
        assert torch.allclose(warm - cold, 0.5 * apart, atol=1e-5)
    if PRIORS[kind].factorises:
        assert torch.allclose(cold, p.mean.expand(1000, -1))
    assert model.generate(3, BlockNoise(0), 0.0, context_for(model, 3)).mean.isfinite().all()


@every_prior
@torch.no_grad()
def test_one_sample_estimates_average_to_the_divergence(kind, options):
    """Against the closed form where there is one, else against quadrature."""
    p = prior_of(kind, options)
    q = DiagonalNormal(torch.tensor([[0.4, -0.3]]).double(), torch.tensor([[-0.5, 0.2]]).double())
    torch.manual_seed(3)
    z = q.rsample(torch.Size([DRAWS]))
    each = q.log_prob(z) - p.log_prob(z)
    truth = kl_of(q, p)
    if truth is None:
        assert torch.allclose(kl(Latent(z, q, p)), each)
        lines = [
            m + s * torch.linspace(-9, 9, 201, dtype=torch.float64) for m, s in zip(q.mean[0], q.stddev[0], strict=True)
        ]
        grid = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).reshape(-1, 1, 2)
        log_q = q.log_prob(grid)
        mass = log_q.exp() * math.prod(float(line[1] - line[0]) for line in lines)
        truth = (mass * (log_q - p.log_prob(grid))).sum(0)
    assert abs(float(each.mean() - truth)) < 4 * float(each.std()) / math.sqrt(DRAWS)
    assert (kl_of(q, p) is not None) == PRIORS[kind].factorises


@every_density
def test_training_moves_every_parameter_and_lowers_the_loss(kind, options):
    model = model_with(kind, options).train()
    x, context = torch.rand(16, *SHAPE).round(), context_for(model, 16)
    objective = build_objective(Part("elbo"), 1, 20).objective
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    noise = torch.randn(4, 16, 2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        trace = model(x, 4, lambda level, shape, like: noise, context)
        loss = objective(trace, torch.tensor(0))
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
            assert bool((parameter.grad != 0).any()) or len(losses) > 0, name
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.5


@every_prior
def test_a_prior_is_saved_whole(kind, options):
    model, other = model_with(kind, options), model_with(kind, options)
    with torch.no_grad():
        for value in [*other.parameters(), *model.buffers()]:
            if value.is_floating_point():
                value.mul_(0.7)
    z, context = torch.randn(5, 4, 2), context_for(model)
    assert not torch.equal(other.p(context).log_prob(z), model.p(context).log_prob(z)) or PRIORS[kind].fixed
    assert not (PRIORS[kind].fixed and list(model.prior.parameters()))
    load_weights(other, {name: value.clone() for name, value in model.state_dict().items()})
    assert torch.equal(other.p(context).log_prob(z), model.p(context).log_prob(z))


@every_compiled
def test_the_step_compiles_in_one_graph(kind, options):
    torch._dynamo.reset()
    model = model_with(kind, options, 3).train()
    labels = torch.arange(4) % CLASSES if model.classes else None
    objective = build_objective(Part("elbo", {"free_bits": 0.1, "free_bits_per": "level"}), 1, 20).objective
    forward = forward_of(model, objective, 2, lambda x, rows: x, labels)
    inputs = torch.rand(4, *SHAPE).round(), torch.arange(4), torch.tensor(3)
    found = []
    for run in (forward, torch.compile(forward, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(5)
        model.zero_grad()
        loss, _ = run(*inputs)
        loss.backward()
        found.append((loss.detach(), [p.grad.clone() for p in model.parameters()]))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-5)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(found[0][1], found[1][1], strict=True))


# Mixtures


def test_one_standard_component_is_the_standard_normal():
    zeros = torch.zeros(1, 6)
    mixture = Mixture(DiagonalNormal(zeros, zeros), torch.zeros(1))
    z = 3 * torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(mixture.log_prob(z), DiagonalNormal(zeros[0], zeros[0]).log_prob(z), rtol=0, atol=1e-5)
    assert torch.equal(mixture.from_noise(torch.cat([z, z[:, :1]], -1)), z)


@pytest.mark.parametrize("scale", [1e-2, 0.1, 1.0])
def test_the_matrix_product_keeps_its_digits(scale):
    """1e-4 nats from the naive form in float64, at codes near and far from narrow components."""
    generator = torch.Generator().manual_seed(0)
    loc = 4 * torch.randn(30, 40, generator=generator)
    log_scale = math.log(scale) + 0.2 * torch.randn(30, 40, generator=generator)
    z = torch.cat([loc + scale * torch.randn(30, 40, generator=generator), torch.randn(9, 40, generator=generator)])
    log_weights = torch.log_softmax(torch.randn(30, generator=generator), 0)
    found = Mixture(DiagonalNormal(loc, log_scale), log_weights).log_prob(z.reshape(3, 13, 40)).flatten()
    wide = torch.distributions.Normal(loc.double(), log_scale.double().exp())
    naive = torch.logsumexp(wide.log_prob(z.double()[:, None]).sum(-1) + log_weights.double(), -1)
    assert float(((found - naive).abs() / (1e-4 + 1e-7 * naive.abs())).max()) < 1  # and float32's own last digit


def test_the_weights_are_those_of_the_draws():
    log_weights = torch.tensor([0.5, 0.2, 0.3]).log()
    far = DiagonalNormal(torch.tensor([[0.0], [100.0], [200.0]]), torch.zeros(3, 1))
    torch.manual_seed(0)
    drawn = (Mixture(far, log_weights).rsample(torch.Size([DRAWS])) / 100).round().flatten().long()
    shares = drawn.bincount() / DRAWS
    assert torch.allclose(shares, log_weights.exp(), atol=4 * 0.5 / math.sqrt(DRAWS))


def ring(count, generator):
    """Codes around 8 points of a circle of radius 3, and the entropy of their distribution (they do not overlap)."""
    angle = torch.randint(8, (count,), generator=generator) * math.pi / 4
    centres = 3 * torch.stack([angle.cos(), angle.sin()], -1)
    entropy = math.log(8) + 2 * math.log(0.2) + 1 + math.log(2 * math.pi)
    return centres + 0.2 * torch.randn(count, 2, generator=generator), entropy


@pytest.mark.parametrize(("kind", "most"), [("mixture", 0.05), pytest.param("flow", 0.7, marks=pytest.mark.slow)])
def test_what_a_normal_cannot_describe_a_richer_prior_can(kind, most):
    """Nats above the entropy of a ring of 8 Gaussians: 2.65 for a normal at its best."""
    if kind == "flow":
        pytest.importorskip("zuko")
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    options = {"components": 16, "spread": 0.9} if kind == "mixture" else {"family": "nsf", "hidden": 32}
    excess = {}
    for name, given in (("learned", {}), (kind, options)):
        prior = PRIORS[name]((2,), SHAPE, **given)
        optimizer = torch.optim.Adam(prior.parameters(), lr=3e-2 if name != "flow" else 1e-2)
        for _ in range(400):
            codes, entropy = ring(256, generator)
            optimizer.zero_grad()
            (-prior(None).log_prob(codes).mean()).backward()
            optimizer.step()
        codes, entropy = ring(20_000, generator)
        excess[name] = float(-prior(None).log_prob(codes).mean().detach()) - entropy
    assert -0.03 < excess[kind] < most
    assert excess["learned"] > 2.6


# VampPrior


@torch.no_grad()
def test_a_vamp_prior_is_the_mixture_of_its_posteriors():
    model = model_with("vamp", {"components": 6, "weights": "learned"}, 3)
    u, weights = torch.sigmoid(model.prior.inputs), torch.softmax(model.prior.weights.logits, 0)
    z = torch.randn(2, 5, 3)
    density = sum(w * model.q(one[None]).log_prob(z).exp() for w, one in zip(weights, u, strict=True))
    assert torch.allclose(model.p().log_prob(z), density.log(), rtol=1e-4, atol=1e-4)


def test_pseudo_inputs_leave_batch_statistics_alone_and_do_not_feel_the_batch():
    """The buffers after a step are those under the standard prior; the gradient reaches encoder and pseudo-inputs."""
    x, buffers = torch.rand(6, *SHAPE).round(), []
    for kind in ("standard", "vamp"):
        model = model_with(kind, {"components": 4} if kind == "vamp" else {}, network="conv", norm="batch").train()
        torch.manual_seed(9)
        state = {name: torch.randn_like(value) * 0.1 for name, value in model.posterior.named_parameters()}
        model.posterior.load_state_dict(state, strict=False)
        model(x)
        buffers.append({name: value.clone() for name, value in model.posterior.named_buffers()})
    assert buffers[0].keys() == buffers[1].keys() and any("running" in name for name in buffers[0])
    assert all(torch.equal(buffers[0][name], buffers[1][name]) for name in buffers[0])
    assert all(module.training for module in model.modules())
    before = model.p().mean
    with torch.no_grad():
        assert torch.equal(model.eval().p().mean, before)  # in training mode as in evaluation mode
    model.train().p().log_prob(torch.zeros(1, 2)).sum().backward()
    assert bool((model.prior.inputs.grad != 0).any())
    assert all(bool((weight.grad != 0).any()) for weight in list(model.posterior.parameters())[-2:])


DATA = Dataset(torch.randint(0, 256, (40, *SHAPE), generator=torch.Generator().manual_seed(0)).to(torch.uint8))


@pytest.mark.parametrize("options", [{"inputs": "data"}, {}])
def test_pseudo_inputs_can_be_training_images_drawn_by_the_seed(options):
    found = []
    for seed in (0, 0, 1):
        model = vae(
            SHAPE, 2, Part("mlp", {"widths": (8,)}), "gaussian", prior=Part("vamp", {"components": 9, **options})
        )
        random = torch.get_rng_state()
        adopt(model, DATA, Pixels(), seed)
        assert torch.equal(torch.get_rng_state(), random)
        found.append(model.prior.pseudo_inputs().detach())
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    gap = (found[0][:, None] - DATA.images / 255).abs().amax((-3, -2, -1)).min(1)
    assert float(gap.values.max()) < (1e-6 if "inputs" in options else 0.021)
    assert len(gap.indices.unique()) == 9


def test_pseudo_inputs_can_start_with_the_moments_of_the_images():
    torch.manual_seed(0)
    dim = Dataset((DATA.images // 8 + torch.arange(20).reshape(1, 4, 5) * 4).to(torch.uint8))
    model = vae(SHAPE, 2, prior=Part("vamp", {"components": 40, "start": "moments"}))
    adopt(model, dim, Pixels(), 0)
    u = model.prior.pseudo_inputs().detach()
    assert torch.allclose(u.mean(0), dim.images.double().mean(0).float() / 255, atol=0.04)
    assert torch.allclose(u.std(0), (dim.images.float() / 255).std(0), rtol=0.5)
    nearest = (u[:, None] - dim.images / 255).abs().amax((-3, -2, -1)).min(1).values
    assert float(nearest.min()) > 0.03  # noise, and none of the images


@pytest.mark.parametrize("kind", ["vamp", "mixture"])
def test_more_components_than_images_are_refused(kind):
    adopt(vae(SHAPE, 2, prior=Part(kind, {"components": 40})), DATA, Pixels(), 0)
    with pytest.raises(DataError, match=r"41 components .* the 40 training .* set model.prior.components=40 or less"):
        adopt(vae(SHAPE, 2, prior=Part(kind, {"components": 41})), DATA, Pixels(), 0)


def test_weight_decay_does_not_pull_at_means_and_pseudo_inputs():
    config = TrainingConfig(weight_decay=0.1)
    for kind, place in (("vamp", "inputs"), ("mixture", "loc")):
        model = model_with(kind, OPTIONS[kind][0])
        decaying = {id(w) for group in build_optimizer(model, config).groups if group.decay for w in group.weights}
        assert id(getattr(model.prior, place)) not in decaying
        assert decaying == {
            id(p) for part in (model.posterior, model.likelihood) for p in part.parameters() if p.ndim > 1
        }


# A normal for each class


@torch.no_grad()
def test_each_class_has_its_own_normal():
    model = model_with("per-class", {})
    p = model.p(torch.tensor([2, 0, 2]))
    assert torch.equal(p.loc, model.prior.loc[[2, 0, 2]])
    assert torch.equal(p.log_scale, model.prior.log_scale[[2, 0, 2]])


@torch.no_grad()
def test_moments_over_all_classes_are_those_of_their_mixture():
    model = model_with("per-class", {})
    model.prior.loc.mul_(10)
    labels = torch.tensor([0, 0, 0, 1, 2, 2])  # classes count as often as they occur
    use = latent_use(model, Dataset(DATA.images[:6], labels, ("a", "b", "c")), Pixels("threshold"), 0)
    normals = DiagonalNormal(model.prior.loc.double(), model.prior.log_scale.double())
    mixture = Mixture(normals, (labels.bincount() / 6).double().log())
    assert torch.allclose(use.prior_mean, mixture.mean, rtol=1e-5)
    assert torch.allclose(use.prior_std, mixture.stddev, rtol=1e-5)


# What reads a prior


@every_density
def test_evaluations_know_the_prior(kind, options):
    model = model_with(kind, options, 3).eval()
    labels = torch.arange(40) % CLASSES
    data = Dataset(DATA.images, labels, ("a", "b", "c"))
    use = latent_use(model, data, Pixels("threshold"), 0)
    found = bounds(model, data, Pixels("threshold"), 1, 0)
    assert use.has_prior and use.has_kl_per_dim == PRIORS[kind].factorises
    assert use.rate_nats == pytest.approx(float(found.rate.mean()), rel=1e-4, abs=1e-5)
    if use.has_kl_per_dim:
        assert use.rate_nats == pytest.approx(float(use.kl_nats.sum()), rel=1e-6)
    else:
        assert bool(use.kl_nats.isnan().all()) and torch.equal(use.importance, use.mean_variance)
    context = labels if model.classes else None
    torch.manual_seed(0)
    z = torch.cat([model.p(context).rsample(torch.Size([500])).detach().reshape(-1, 3) for _ in range(2)])
    if not model.classes:
        z = model.p().rsample(torch.Size([DRAWS])).detach()
    assert torch.allclose(use.prior_mean.float(), z.mean(0), atol=0.08 * float(use.prior_std.max()))
    assert torch.allclose(use.prior_std.float(), z.std(0), rtol=0.08)
    scale = float(use.prior_std.max()) ** 2
    assert torch.allclose(use.prior_covariance.float(), z.T.cov(), atol=0.08 * scale)


def test_a_prior_that_is_the_aggregate_posterior_has_no_gap():
    """Though its dimensions depend on each other, as those of the codes do."""
    model = vae(SHAPE, 3, Part("mlp", {"widths": ()}), prior=Part("vamp", {"components": len(DATA), "inputs": "data"}))
    with torch.no_grad():
        layer = model.posterior.network[1]
        layer.weight[1] += layer.weight[0]
        layer.weight[3:].zero_()
        layer.bias[3:] = -3.0
    adopt(model, DATA, Pixels(), 0)
    use = latent_use(model.eval(), DATA, Pixels(), 0)
    off_diagonal = use.correlation - torch.eye(3)
    assert float(off_diagonal.abs().max()) > 0.2
    assert use.aggregate_kl_nats == pytest.approx(0, abs=1e-4)


def test_a_wide_mixture_takes_fewer_codes_at_once():
    narrow, wide = (vae(SHAPE, 2, prior=Part("mixture", {"components": n})) for n in (10, 100_000))
    cpu = torch.device("cpu")
    assert rows_at_once(wide, cpu) <= 2**26 // 200_000 < rows_at_once(narrow, cpu)


# What is refused


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["model.prior=per-class"], "set model.context=class"),
        (["model.prior=vamp", "model.context=class"], "set model.context=none"),
        (["model.prior=mixture", "objective.free_bits=0.1"], "set objective.free_bits_per=level"),
        (["model.prior=flow", "objective.free_bits=0.1"], "set objective.free_bits_per=level"),
        (["model.prior={kind: vamp, components: 0}"], "components"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(words, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_config("digits", words, check=check_config)


def test_what_fits_is_taken():
    load_config(
        "digits", ["model.prior=vamp", "objective={kind: elbo, free_bits: 1, free_bits_per: level}"], check=check_config
    )
    load_config("digits", ["model.prior=learned", "objective.free_bits=0.1"], check=check_config)


def test_a_flow_without_zuko_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(ConfigError, match=r"needs the package zuko; make install EXTRAS=flows"):
        vae(SHAPE, 2, prior="flow")


def test_every_likelihood_meets_a_mixture():
    for kind in LIKELIHOODS:
        trace = vae(SHAPE, 2, Part("mlp", {"widths": (4,)}), kind, prior="mixture")(torch.rand(2, *SHAPE).round())
        assert bool(kl(trace.latents[0]).isfinite().all())
