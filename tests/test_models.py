"""What models do around their networks: precision, corruption, estimated scales, sampling."""

import pytest
import torch
from laws import assert_nothing_goes_together

from vaekit.config.schema import ModelConfig, Part
from vaekit.densities.noise import BlockNoise, no_noise
from vaekit.errors import ConfigError, DataError
from vaekit.models.autoencoder import Autoencoder, corrupted
from vaekit.models.build import build_model, vae
from vaekit.models.likelihoods import set_precision
from vaekit.models.trace import terms

SHAPE = (1, 12, 10)
SMALL = Part("mlp", {"widths": (16,)})


def images(count=64):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0))


def autoencoder(corruption, level=0.3):
    torch.manual_seed(0)
    config = ModelConfig(
        kind="autoencoder",
        latent_dim=4,
        network=SMALL,
        likelihood=Part("gaussian"),
        corruption=corruption,
        corruption_level=level,
    )
    made = build_model(config, SHAPE)
    assert isinstance(made, Autoencoder)
    return made


def test_reduced_precision_is_of_the_networks_alone():
    torch.manual_seed(0)
    model, x = vae(SHAPE, 4, SMALL), images().round()
    whole = terms(model(x, 1, BlockNoise(0)))
    set_precision(model, torch.bfloat16)
    trace = model(x, 1, BlockNoise(0))
    found = terms(trace)
    assert {trace.latents[0].q.loc.dtype, trace.px.loc.dtype, trace.px.log_prob(x).dtype} == {torch.float32}
    assert float((found["elbo"] - whole["elbo"]).abs().detach()) > 0  # the networks did change their precision
    assert torch.allclose(found["elbo"], whole["elbo"], rtol=1e-3)
    assert torch.allclose(found["rate"], whole["rate"], rtol=2e-2)


def test_double_precision_is_not_narrowed():
    model = vae(SHAPE, 4, SMALL).double()
    assert model(images().double().round()).px.loc.dtype == torch.float64


@pytest.mark.parametrize(
    ("corruption", "expected"),
    [
        ("gaussian", lambda x, y: abs(float((y - x).std()) - 0.3) < 0.02),
        ("mask", lambda x, y: abs(float((y == 0).float().mean()) - 0.3) < 0.02 and bool(((y == 0) | (y == x)).all())),
        ("salt", lambda x, y: abs(float(((y == 0) | (y == 1)).float().mean()) - 0.3) < 0.02),
        ("none", torch.equal),
    ],
)
def test_corruption_is_what_its_name_says(corruption, expected):
    x = images()
    assert expected(x, autoencoder(corruption).corrupt(x))


@pytest.mark.parametrize("corruption", ["gaussian", "mask", "salt"])
def test_every_pixel_is_corrupted_by_itself(corruption):
    """No two channels, rows, columns or neighbouring images go together; half of the salt and pepper is salt."""
    torch.manual_seed(0)
    grey = torch.full((4000, 2, 2, 3), 0.5)
    seen = corrupted(grey, corruption, 0.4)
    assert_nothing_goes_together(seen)
    if corruption == "salt":
        salt, pepper = (float((seen == value).double().mean()) for value in (1.0, 0.0))
        assert salt == pytest.approx(0.2, abs=0.01) and pepper == pytest.approx(0.2, abs=0.01)


def test_a_denoising_autoencoder_sees_noise_in_training_only_and_aims_at_the_clean_image():
    model, x = autoencoder("gaussian"), images()
    plain = autoencoder("none")(x).px.mean
    model.train()
    trace = model(x)
    assert not torch.allclose(trace.px.mean, plain)
    assert torch.equal(trace.x, x)
    assert torch.equal(model.eval()(x).px.mean, plain)


@pytest.mark.parametrize(("likelihood", "power"), [("gaussian", 2), ("laplace", 1)])
def test_the_optimal_scale_is_frozen_from_all_of_the_training_set(likelihood, power):
    """Root mean square (normal) or mean absolute (Laplace) error over all images, whatever the batches."""
    torch.manual_seed(0)
    model, x = vae(SHAPE, 4, SMALL, Part(likelihood, {"scale": "optimal"})), images()
    error = (x - model.decode(model.encode(x)).mean).detach().abs()
    with torch.no_grad():
        model.calibrate((part, None) for part in x.split([40, 20, 4]))
    assert torch.allclose(model.likelihood.log_scale.exp(), (error**power).mean() ** (1 / power), rtol=1e-5)
    # while training, the batch's own error: no other scale explains the batch better
    model.train()
    best = model(x, 1, no_noise).px.log_prob(x).mean()
    model.eval()
    for shift in (-0.1, 0.0, 0.1):
        with torch.no_grad():
            model.likelihood.log_scale.add_(shift)
        assert model(x, 1, no_noise).px.log_prob(x).mean() <= best + 1e-3


def test_samples_of_the_prior_spread_with_the_temperature():
    torch.manual_seed(0)
    model = vae(SHAPE, 4, Part("mlp", {"widths": ()}), "gaussian")
    spread = [float(model.generate(200, BlockNoise(0), t).mean.std(0).mean().detach()) for t in (0.0, 0.5, 1.0)]
    assert spread[0] < 1e-6
    assert spread[1] == pytest.approx(0.5 * spread[2], rel=1e-4)


def test_stopped_log_q_has_no_gradient_into_the_posterior_but_through_the_code():
    """Roeder, Wu & Duvenaud 2017: the score term is what is stopped."""
    torch.manual_seed(0)
    model, x = vae(SHAPE, 4, SMALL), images().round()
    latent = model(x, 1, BlockNoise(0), stopped=True).latents[0]
    assert torch.allclose(latent.log_q_stopped, latent.q.log_prob(latent.z))
    (through_z,) = torch.autograd.grad(latent.log_q_stopped.sum(), latent.z, retain_graph=True)
    (whole,) = torch.autograd.grad(latent.log_q_stopped.sum(), latent.q.loc)
    assert torch.allclose(whole, through_z.sum(0))  # all of it flows through z = loc + scale * noise


def test_a_conditional_model_gives_each_image_what_its_own_label_says():
    """The label reaches encoder and decoder, row by row; a batch is not mixed with its neighbours."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(latent_dim=4, network=SMALL, context="class"), SHAPE, classes=3)
    x, labels = images(6).round(), torch.tensor([0, 1, 2, 0, 1, 2])
    trace = model(x, 5, BlockNoise(0), labels)
    for row, label in enumerate(labels.tolist()):
        alone = model(x[row : row + 1], 5, BlockNoise(0, row), torch.tensor([label]))
        assert torch.allclose(alone.log_px[:, 0], trace.log_px[:, row], rtol=1e-4)
        other = model(x[row : row + 1], 5, BlockNoise(0, row), torch.tensor([(label + 1) % 3]))
        assert not torch.allclose(other.latents[0].q.loc, alone.latents[0].q.loc)
        z = trace.latents[0].z[:, row : row + 1]
        assert not torch.allclose(model.decode((z,), torch.tensor([(label + 1) % 3])).mean, trace.px.mean[:, row, None])


@pytest.mark.parametrize(("context", "classes", "message"), [("class", 3, "give the label"), ("none", 0, "no labels")])
def test_labels_are_given_exactly_where_they_are_wanted(context, classes, message):
    model = build_model(ModelConfig(latent_dim=4, network=SMALL, context=context), SHAPE, classes=classes)
    with pytest.raises(ConfigError, match=message):
        model(images(2), context=None if classes else torch.tensor([0, 1]))


def test_a_conditional_model_without_classes_is_refused():
    with pytest.raises(DataError, match="labelled images of 2 or more classes"):
        build_model(ModelConfig(context="class"), SHAPE, classes=1)
