"""Laws of quantised posteriors: codes are rows, counted, uniform under their prior, and learned."""

import math

import pytest
import torch
from laws import STEP
from small_posteriors import QUANTISED, images, model_of

from vaekit.config.schema import Part
from vaekit.densities.codebooks import UniformCodes, nearest
from vaekit.evaluation.code_use import CodeUse
from vaekit.evaluation.health import diagnose
from vaekit.models.trace import kl, log_q, log_weight, terms
from vaekit.objectives.build import build_objective


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
