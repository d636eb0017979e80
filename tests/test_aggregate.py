"""Laws of the objectives that look at the codes of a batch together."""

import math

import pytest
import torch
from laws import objective_for, small_model
from torch.distributions import MultivariateNormal

from vaekit.densities.codes import DiagonalNormal
from vaekit.models.trace import Latent, log_q
from vaekit.objectives.adversarial import Discriminator, permuted
from vaekit.objectives.aggregate import log_aggregate, log_weights
from vaekit.objectives.matching import imq, mmd_squared, rbf
from vaekit.objectives.total_correlation import rate_parts

STEP = torch.tensor(0)
IMAGES = 200


def posteriors(count=IMAGES, seed=0, mix=0.9):
    """(loc, log_scale) (count, 2) of made images whose codes depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(count, 2, dtype=torch.float64, generator=generator)
    loc[:, 1] = mix * loc[:, 0] + math.sqrt(1 - mix**2) * loc[:, 1]
    return loc, torch.full_like(loc, math.log(0.5))


def normal(loc, log_scale):
    return DiagonalNormal(loc, log_scale, validate_args=False)


def standard():
    return normal(torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))


def exact_log_q(z, loc, log_scale):
    """(log q(z), Σ_d log q(z_d)) (...) of the mixture over every image."""
    each = torch.distributions.Normal(loc, log_scale.exp()).log_prob(z.unsqueeze(-2))
    share = math.log(len(loc))
    return torch.logsumexp(each.sum(-1), -1) - share, (torch.logsumexp(each, -2) - share).sum(-1)


@pytest.mark.parametrize("sampling", ["weighted", "stratified"])
def test_with_three_equal_weights_the_parts_are_the_sampled_rate(sampling):
    model, x = small_model("gaussian")
    options = {"alpha": 2.0, "beta": 2.0, "gamma": 2.0, "sampling": sampling}
    trace = model(x, 3)
    (latent,) = trace.latents
    rate = (log_q(latent) - latent.p.log_prob(latent.z)).mean()
    loss = objective_for("total-correlation", options, x)(trace, STEP)
    assert torch.allclose(loss, 2 * rate - trace.log_px.mean())


def test_each_weight_multiplies_its_own_part():
    model, x = small_model("gaussian")
    trace = model(x, 3)
    parts = rate_parts(trace.latents[0], 50, "weighted")
    base = {"alpha": 0.0, "beta": 0.0, "gamma": 0.0}
    for name, part in zip(base, parts, strict=True):
        loss = objective_for("total-correlation", base | {name: 3.0}, x)(trace, STEP)
        assert torch.allclose(loss, 3 * part - trace.log_px.mean())


def test_every_image_in_the_batch_makes_stratified_sampling_exact():
    loc, log_scale = posteriors(40)
    z = normal(loc, log_scale).rsample(torch.Size([3]))
    for found, exact in zip(
        log_aggregate(normal(loc, log_scale), z, 40, "stratified"), exact_log_q(z, loc, log_scale), strict=True
    ):
        assert torch.allclose(found, exact)


def test_stratified_weights_are_of_the_diagonal_and_of_a_whole():
    weights = log_weights(5, 100, "stratified", torch.zeros(1, dtype=torch.float64)).exp()
    assert torch.allclose(weights.diagonal(), torch.tensor(1 / 100, dtype=torch.float64))
    assert torch.allclose(weights.sum(1), torch.ones(5, dtype=torch.float64))
    assert torch.allclose(weights, weights.T)


def test_stratified_sampling_is_unbiased_for_the_aggregate_density():
    """Of the code of one image, over batches of others: q(z) itself, not its logarithm."""
    loc, log_scale = posteriors()
    torch.manual_seed(1)
    z = normal(loc, log_scale).rsample()[:1]
    exact = exact_log_q(z, loc, log_scale)[0].exp()
    found = {"stratified": [], "weighted": []}
    for _ in range(3000):
        batch = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(IMAGES - 1)[:7]])
        codes = torch.cat([z, loc[batch[1:]]])[None]
        for sampling, values in found.items():
            joint, _ = log_aggregate(normal(loc[batch], log_scale[batch]), codes, IMAGES, sampling)
            values.append(joint[0, 0].exp())
    values = torch.stack(found["stratified"])
    assert abs(float(values.mean() - exact)) < 4 * float(values.std()) / math.sqrt(len(values))
    assert float(torch.stack(found["weighted"]).mean()) < 0.2 * float(exact)


def biases(size, images, draws):
    """Of the information and of the correlation by stratified sampling: estimate less the exact value, nats."""
    loc, log_scale = posteriors(images)
    total = torch.zeros(2, dtype=torch.float64)
    for _ in range(draws):
        some = torch.randperm(images)[:size]
        q = normal(loc[some], log_scale[some])
        z = q.rsample(torch.Size([1]))
        joint, product = log_aggregate(q, z, images, "stratified")
        exact_joint, exact_product = exact_log_q(z, loc, log_scale)
        total += torch.stack([(exact_joint - joint).mean(), ((joint - product) - (exact_joint - exact_product)).mean()])
    return total / draws


def test_the_bias_of_the_parts_falls_with_the_batch():
    torch.manual_seed(0)
    information, correlation = torch.stack([biases(size, IMAGES, 1600 // size) for size in (4, 16, 64)], 1).abs()
    assert information[0] > 2 * information[1] > 4 * information[2]
    assert correlation[0] > 2 * correlation[2]


@pytest.mark.parametrize("kernel", [rbf, imq])
def test_the_discrepancy_of_equal_distributions_is_zero_on_average_and_of_others_above(kernel):
    torch.manual_seed(0)
    a, b = torch.randn(2, 3000, 8, 3, dtype=torch.float64)
    values = mmd_squared(a, b, kernel, 3.0)
    assert abs(float(values.mean())) < 4 * float(values.std()) / math.sqrt(len(values))
    assert bool((values < 0).any())  # unbiased, so not a square
    for other in (b + 0.7, 2 * b):
        values = mmd_squared(a, other, kernel, 3.0)
        assert float(values.mean()) > 20 * float(values.std()) / math.sqrt(len(values))


def test_the_discrepancy_of_two_gaussians_is_the_known_one():
    """E k(a, b) of the RBF kernel for N(0, 1) against N(m, 1): s exp(-m² s² / (2 h²)), s² = h² / (h² + 2)."""
    torch.manual_seed(0)
    a, b = torch.randn(2, 20000, 8, 1, dtype=torch.float64)
    h2, m = 1.5, 0.8
    shrink = h2 / (h2 + 2)
    exact = 2 * math.sqrt(shrink) * (1 - math.exp(-(m**2) * shrink / (2 * h2)))
    values = mmd_squared(a, b + m, rbf, h2)
    assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / math.sqrt(len(values))


def test_infovae_weighs_the_rate_and_the_discrepancy():
    model, x = small_model("gaussian")
    trace = model(x, 2)
    (latent,) = trace.latents

    def loss(**options):
        torch.manual_seed(3)
        return objective_for("mmd", options, x)(trace, STEP)

    rate, distortion = (log_q(latent) * 0 + elbo_rate(latent)).mean(), -trace.log_px.mean()
    assert torch.allclose(loss(alpha=0.0, strength=1.0), distortion + rate)
    assert torch.allclose(loss(alpha=0.4, strength=0.6), distortion + 0.6 * rate)
    one, three = loss(alpha=1.0, strength=1.0) - distortion, loss(alpha=1.0, strength=3.0) - distortion
    assert torch.allclose(three, 3 * one) and abs(float(one.detach())) > 1e-3


def elbo_rate(latent):
    return torch.distributions.kl_divergence(latent.q, latent.p)


def test_permuted_codes_keep_their_marginals_and_lose_their_dependence():
    torch.manual_seed(0)
    z = torch.randn(1, 5000, 1).expand(2, 5000, 3).contiguous()
    shuffled = permuted(Latent(z, standard(), standard()))
    assert torch.equal(shuffled.sort(1).values, z.sort(1).values)
    assert abs(float(torch.corrcoef(shuffled[0].T)[0, 1])) < 0.06


def test_a_discriminator_at_its_optimum_says_the_total_correlation():
    """Of a Gaussian with correlation 0.8: -½ log(1 - 0.8²) nats."""
    torch.manual_seed(0)
    correlation = 0.8
    source = MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, correlation], [correlation, 1.0]]))
    network = Discriminator(2, (32, 32))
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    softplus = torch.nn.functional.softplus
    for step in range(600):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / 600)
        z = source.sample(torch.Size([1, 512]))
        loss = softplus(-network(z)).mean() + softplus(network(permuted(Latent(z, standard(), standard())))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = float(network(source.sample(torch.Size([20000]))).mean().detach())
    assert abs(found + 0.5 * math.log(1 - correlation**2)) < 0.06
