"""Codes that are small images obey the laws of flat ones, and what makes no sense for them is refused in a sentence."""

import itertools
import math

import numpy as np
import pytest
import torch
from small_runs import SIZES

from vaekit import evaluate, load, train, vae
from vaekit.config.schema import Config, DataConfig, LatentConfig, ModelConfig, Part
from vaekit.data.dataset import Dataset
from vaekit.data.pixels import Pixels
from vaekit.densities.codes import DiagonalNormal, kl_of, kl_per_dim_of
from vaekit.densities.noise import BlockNoise
from vaekit.errors import ConfigError, VaekitWarning
from vaekit.evaluation import latents as latents_module
from vaekit.evaluation.evaluate import evaluate_model
from vaekit.evaluation.latents import latent_use
from vaekit.evaluation.likelihood import bounds
from vaekit.models.build import POSTERIORS, PRIORS, event_of
from vaekit.models.trace import log_weight, terms
from vaekit.objectives import Facts, needs_of
from vaekit.objectives.build import OBJECTIVES, build_objective
from vaekit.trained.run import open_run
from vaekit.training.combinations import check_config

SHAPE, LATENT = (1, 12, 8), (4, 4)  # a grid of 4 channels at 6 × 4 places
SMALL = {"widths": (6,)}
NETWORKS = ("conv", "resnet")
PAIRS = [
    (q, p)
    for q, p in itertools.product(POSTERIORS, PRIORS)
    if POSTERIORS[q].grids and PRIORS[p].grids and POSTERIORS[q].discrete == PRIORS[p].discrete
]
OPTIONS = {"vq": {"codes": 5}, "fsq": {"levels": (3, 4)}}
GRID_RUN = (
    *(word for word in SIZES if "network" not in word and "latent_dim" not in word),
    "model.network={kind: conv, widths: [8]}",
    "model.latent={channels: 2, side: 4}",
)


def model_of(posterior="diagonal", prior="standard", network="conv", **prior_options):
    torch.manual_seed(0)
    return vae(
        SHAPE,
        network=Part(network, SMALL),
        posterior=Part(posterior, OPTIONS.get(posterior, {})),
        prior=Part(prior, prior_options),
        classes=3 if PRIORS[prior].of_class else 0,
        latent=LATENT,
    ).double()


def labels_of(model, count):
    return torch.arange(count) % model.classes if model.classes else None


def images(count=5, shape=SHAPE, seed=1):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).round()


def test_a_grid_normal_is_the_flat_normal_of_its_numbers():
    loc, log_scale = torch.randn(2, 3, 4, 6, 5, dtype=torch.float64)
    q = DiagonalNormal(loc, log_scale, 3)
    p = DiagonalNormal(loc[:1].flip(1), 0.3 * log_scale[:1], 3)
    z = q.rsample(torch.Size((2,)))
    assert q.batch_shape == (3,) and q.event_shape == (4, 6, 5) and q.flattened().event_shape == (120,)
    assert torch.allclose(q.log_prob(z), q.flattened().log_prob(z.flatten(2)))
    assert torch.allclose(kl_of(q, p), kl_of(q.flattened(), p.flattened()))
    assert torch.allclose(kl_per_dim_of(q, p).flatten(1), kl_per_dim_of(q.flattened(), p.flattened()))
    assert torch.allclose(q.entropy(), q.flattened().entropy())
    assert torch.equal(q.covariance, q.flattened().covariance)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("posterior", "prior"), PAIRS)
def test_every_pair_on_a_grid_bounds_and_trains_every_weight(posterior, prior, network):
    """A doubled batch changes no term; more samples tighten the bound; every weight has a gradient."""
    model, x = model_of(posterior, prior, network), images(6)
    labels = labels_of(model, 6)
    trace = model(x, 32, BlockNoise(0), labels)
    latent, found = trace.latents[0], terms(trace)
    assert latent.z.shape == (32, 6, 4, 6, 4) and latent.q.event_shape == (4, 6, 4) == latent.p.event_shape

    def repeated(level, shape, like):
        drawn = BlockNoise(0)(level, torch.Size((32, 6, *shape[2:])), like)
        return torch.cat([drawn, drawn], 1)

    twice = model(torch.cat([x, x]), 32, repeated, None if labels is None else torch.cat([labels, labels]))
    for name, value in terms(twice).items():
        assert torch.allclose(value, found[name], rtol=1e-9), name
    weights = log_weight(trace)
    bound = weights.logsumexp(0) - math.log(32)
    assert bool((bound >= weights.mean(0) - 1e-9).all())
    loss = -found["elbo"] + trace.penalty.mean()
    loss.backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and bool(weight.grad.isfinite().all()), name


@pytest.mark.parametrize("prior", [kind for kind in PRIORS if PRIORS[kind].grids])
def test_draws_of_a_prior_have_its_shape_and_its_moments(prior):
    model = model_of("vq" if PRIORS[prior].discrete else "diagonal", prior)
    p = model.p(torch.tensor([1])) if model.classes else model.p()
    drawn = p.seeded_draws(4096).double()
    assert drawn.shape[-3:] == (4, 6, 4)
    flat = drawn.reshape(4096, -1)
    assert bool(((flat.mean(0) - p.mean.flatten()).abs() < 5 * p.stddev.flatten() / 64 + 1e-9).all())
    assert torch.allclose(flat.std(0), p.stddev.flatten(), rtol=0.1)


def test_quantised_places_choose_rows_and_pay_for_each():
    model, x = model_of("vq", "codes"), images()
    q, p = model.q(x), model.p()
    assert q.index.shape == (5, 6, 4, 1)
    rows = q.z.permute(0, 2, 3, 1)  # (B, h, w, C)
    assert torch.equal(rows, model.posterior.codebook[q.index[..., 0]])
    drawn = p.rsample(torch.Size((3,))) if p.has_rsample else p.from_noise(torch.randn(3, *p.noise_shape).double())
    distances = (drawn.permute(0, 2, 3, 1)[..., None, :] - model.posterior.codebook).square().sum(-1)
    assert float(distances.min(-1).values.max()) == 0
    assert torch.allclose(-p.log_prob(drawn), torch.tensor(24 * math.log(5), dtype=torch.float64))
    assert torch.allclose(kl_of(q, p), torch.tensor(24 * math.log(5), dtype=torch.float64))
    assert float(kl_per_dim_of(q, p).sum((1, 2, 3))[0]) == pytest.approx(24 * math.log(5))


def test_rounded_places_number_every_combination():
    model, x = model_of("fsq", "codes"), images(40)
    q = model.q(x)
    rows = q.z.permute(0, 2, 3, 1).unflatten(-1, (2, 2))  # two groups of two numbers at each place
    assert torch.allclose(rows, model.posterior.codebook[q.index])


# Other sizes


def test_a_larger_image_has_the_same_codes_where_its_borders_are_far():
    """All layers are convolutions: places whose view lies inside the crop are those of the crop."""
    torch.manual_seed(0)
    model = vae(
        (1, 16, 16), network=Part("conv", SMALL), prior=Part("learned", {"per": "channel"}), latent=(3, 8)
    ).double()
    large = images(2, (1, 32, 24))
    whole, part = model.q(large), model.q(large[:, :, 8:24, 4:20])
    assert whole.event_shape == (3, 16, 12) and part.event_shape == (3, 8, 8)
    assert torch.allclose(whole.loc[:, :, 4 + 3 : 12 - 3, 2 + 3 : 10 - 3], part.loc[:, :, 3:5, 3:5], atol=1e-12)
    trace = model(large, 4)
    assert trace.px.event_shape == (1, 32, 24) and bool(trace.log_px.isfinite().all())
    assert trace.latents[0].p.event_shape == (3, 16, 12)
    decoded = model.decode(model.encode(large)).mean
    again = model.decode(model.encode(large[:, :, 8:24, 4:20])).mean
    assert torch.allclose(decoded[..., 8 + 7 : 24 - 7, 4 + 7 : 20 - 7], again[..., 7:9, 7:9], atol=1e-9)


def test_a_prior_with_numbers_for_each_place_refuses_other_places():
    model = model_of(prior="learned")
    with pytest.raises(ConfigError, match=r"this prior is of 6×4 places.*12×8"):
        model(images(2, (1, 24, 16)))
    assert model_of(prior="learned", per="channel")(images(2, (1, 24, 16))).px.event_shape == (1, 24, 16)


@pytest.fixture(scope="module")
def grid_run(tmp_path_factory):
    torch.set_num_threads(1)
    return train("digits", *GRID_RUN, "training.epochs=3", out=tmp_path_factory.mktemp("grid") / "run")


def test_a_run_on_a_grid_speaks_matrices(grid_run):
    trained = load(grid_run)
    files = list(open_run(grid_run).dataset("test").images[:3, 0].numpy())
    codes = trained.encode(files)
    assert codes.shape == (3, 2 * 4 * 4) and trained.latent_dim == 32
    assert np.array_equal(trained.decode(codes), trained.reconstruct(files))
    assert trained.layout.column(17) == "channel 1 at 0,1"


def test_a_run_at_another_size_takes_and_gives_images_of_it(grid_run):
    trained = load(grid_run)
    wide = trained.at((16, 24))
    image = np.random.default_rng(0).integers(0, 256, (16, 24), np.uint8)
    assert wide.encode(image).shape == (1, 2 * 8 * 12)
    assert wide.reconstruct(image).shape == (1, 16, 24)
    assert wide.sample(3).shape == (3, 16, 24) and trained.sample(3).shape == (3, 8, 8)
    with pytest.raises(ConfigError, match="choose multiples of 2"):
        trained.at((9, 9))


def test_a_flat_code_has_one_size(digits_run):
    with pytest.raises(ConfigError, match=r"model\.latent"):
        load(digits_run).at((16, 16))


def test_every_verb_takes_a_grid_or_says_what_to_choose(grid_run, vaekit, tmp_path):
    from PIL import Image

    file = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)).save(file)
    for words in (
        ("evaluate", grid_run, "--samples", 5),
        ("pictures", grid_run),
        ("reconstruct", grid_run, file),
        ("reconstruct", grid_run, file, "--size", "16x12"),
        ("sample", grid_run, "--size", 16),
        ("sample", grid_run, "--sampler", "mixture"),
        ("sample", grid_run, "--near", file),
        ("interpolate", grid_run),
        ("traverse", grid_run, "--dims", "1"),
        ("arithmetic", grid_run, "class:1", "--plus", file),
        ("attribute", grid_run, "--class", 3),
        ("neighbours", grid_run, file),
        ("latents", grid_run),
        ("latents", grid_run, "--encode", tmp_path),
        ("anomalies", grid_run, file),
        ("disentanglement", grid_run),
        ("quality", grid_run, "--count", 20, "--sampler", "prior"),
        ("ais", grid_run, "--images", 2, "--temperatures", 3),
    ):
        answer = vaekit(*words)
        assert answer.code == 0, (words, answer.err)
    assert (grid_run / "grids" / "kl_map.png").is_file() and (grid_run / "grids" / "traverse_channel_1.png").is_file()
    table = (grid_run / "reports" / "codes.csv").read_text().splitlines()
    assert table[0].startswith('file,"channel 0 at 0,0","channel 0 at 0,1"')
    for words, said in (
        (("sample", grid_run, "--grid"), "2 dimensions"),
        (("traverse", grid_run, "--dims", 2), "channel 2 does not exist; this model has 0 to 1"),
        (("sample", grid_run, "--size", "9"), "choose multiples of 2"),
        (("sample", grid_run, "--size", "a"), "is no size"),
        (("sample", grid_run, "--size", "16", "--sampler", "mixture"), "leave --size out"),
        (("reconstruct", grid_run, "--size", "16"), "images of your own"),
    ):
        answer = vaekit(*words)
        assert answer.code == 2 and said in answer.err and answer.err.count("\n") == 1, answer


def test_channels_of_the_statistics_add_up_to_the_rate(grid_run):
    opened = open_run(grid_run)
    use = opened.use(opened.dataset("test"))
    metrics = evaluate(grid_run, samples=2)
    assert (
        float(use.unit_kl_nats.sum()) == pytest.approx(use.rate_nats) == pytest.approx(metrics["rate_nats"], rel=1e-5)
    )
    assert use.unit_kl_nats.shape == (2,) and use.kl_nats.shape == (32,)


def test_wide_codes_keep_variances_alone_and_the_same_ones(monkeypatch):
    model, data = model_of().float(), Dataset((images(30) * 255).to(torch.uint8))
    full = latent_use(model, data, Pixels(), 0, batch=7)
    monkeypatch.setattr(latents_module, "MOST_COVARIED", 90)  # of 96 columns
    wide = latent_use(model, data, Pixels(), 0, batch=7)
    assert full.has_covariance and not wide.has_covariance and wide.covariance.shape == (96,)
    for name in ("mean", "mean_variance", "aggregate_std", "prior_std", "active", "kl_nats", "marginal_kl_nats"):
        assert torch.allclose(getattr(full, name).double(), getattr(wide, name).double(), rtol=1e-9, atol=1e-12), name
    assert math.isnan(wide.aggregate_kl_nats) and math.isfinite(full.aggregate_kl_nats)


def test_batches_change_no_bound_of_a_grid():
    model, data = model_of().float(), Dataset((images(70) * 255).to(torch.uint8))
    first, second = (bounds(model, data, Pixels(), 20, 3, rows=rows) for rows in (2000, 37))
    assert torch.allclose(first.importance, second.importance, rtol=1e-5)


# Unused codes


def test_unused_codes_start_again_from_images_and_used_ones_stay():
    model = model_of("vq", "codes")
    x = images(200)
    with torch.no_grad():
        model.posterior.codebook[:] = torch.cat([model.posterior.codebook[:1], 1e3 + torch.randn(4, 4).double()])
        before, used = model.posterior.codebook.clone(), model.q(x).index.unique()
    assert used.tolist() == [0]
    moved = model.restart(lambda count: x[:count])
    assert moved["posterior.codebook"].tolist() == [1, 2, 3, 4]
    assert torch.equal(model.posterior.codebook[0], before[0])
    with torch.no_grad():
        assert model.q(x).index.unique().tolist() == [0, 1, 2, 3, 4]
    assert model.restart(lambda count: x[:count]) == {}


def test_restarts_can_be_turned_off_and_other_posteriors_have_none():
    torch.manual_seed(0)
    still = vae(
        SHAPE, network=Part("conv", SMALL), posterior=Part("vq", {"restart": False}), prior="codes", latent=LATENT
    )
    assert still.restart(lambda count: images(9)) == {} == model_of().restart(lambda count: images(9))


def test_a_run_that_restarts_codes_resumes_to_the_same_bytes(tmp_path):
    words = [*GRID_RUN, "model.posterior={kind: vq, codes: 64}", "model.prior=codes", "training.keep=9"]
    whole = train("digits", *words, "training.epochs=4", "training.validate_every=9", out=tmp_path / "whole")
    assert "start again from images" in (whole / "logs" / "train.log").read_text()
    part = train("digits", *words, "training.epochs=4", "training.validate_every=9", out=tmp_path / "part")
    for step in ("step-00000036", "step-00000040"):
        for file in (part / "checkpoints" / step).glob("*"):
            file.unlink()
        if (part / "checkpoints" / step).exists():
            (part / "checkpoints" / step).rmdir()
    with pytest.warns(VaekitWarning, match="latest is damaged"):
        train(str(part / "config.yaml"), out=part, resume=True)
    last = sorted(path.name for path in (whole / "checkpoints").glob("step-*"))[-1]
    for name in ("model", "ema", "optimizer"):
        one, other = ((run / "checkpoints" / last / f"{name}.safetensors").read_bytes() for run in (whole, part))
        assert one == other, name


# What makes no sense


def config_of(**model):
    binary = DataConfig(binarize="dynamic")
    return Config(data=binary, model=ModelConfig(latent=LatentConfig(channels=4, side=4), **model))


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_objective_runs_on_a_grid_or_is_refused_in_a_sentence(kind):
    from dataclasses import replace

    problems = [p.message for p in check_config(replace(config_of(), objective=Part(kind)))]
    if needs_of(build_objective(Part(kind), 1, 1, Facts(1, 1)).objective).flat:
        assert len(problems) == 1 and "set model.latent=null" in problems[0]
        return
    assert problems == []
    model = model_of()
    objective = build_objective(Part(kind), 10, 96, Facts(100, model.layout.width)).objective
    objective = objective.double() if isinstance(objective, torch.nn.Module) else objective
    trace = model(images(6), 2, stopped=True)
    loss = objective(trace, torch.tensor(0))
    loss.backward()
    assert bool(loss.isfinite())


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"network": Part("mlp")}, "'mlp' gives no grid of codes; choose model.network=conv or resnet"),
        ({"posterior": Part("iaf")}, "'iaf' is of flat codes"),
        ({"prior": Part("vamp")}, "'vamp' is of flat codes"),
        ({"prior": Part("mixture")}, "choose model.prior=standard or learned"),
    ],
)
def test_parts_of_flat_codes_are_refused(model, said):
    assert any(said in problem.message for problem in check_config(config_of(**model)))


@pytest.mark.parametrize(
    ("shape", "side", "expected"),
    [((3, 64, 64), 8, (4, 8, 8)), ((1, 28, 20), 10, (4, 14, 10)), ((1, 28, 20), 5, (4, 7, 5)), ((1, 28, 28), 8, None),
     ((1, 28, 20), 20, None), ((1, 9, 12), 3, None), ((1, 30, 20), 5, None)],
)  # fmt: skip
def test_a_grid_is_the_image_divided_by_a_power_of_two(shape, side, expected):
    config = ModelConfig(latent=LatentConfig(channels=4, side=side))
    if expected is None:
        with pytest.raises(ConfigError, match=r"divided by 2, 4, 8|even sides"):
            event_of(config, shape)
    else:
        assert event_of(config, shape) == expected


def test_widths_are_one_for_each_halving():
    with pytest.raises(ConfigError, match="2 widths halve the image as often"):
        vae((1, 16, 16), network=Part("conv", {"widths": (4, 4)}), latent=(2, 8))


def test_the_learned_prior_per_channel_is_the_same_at_every_place():
    p = model_of(prior="learned", per="channel").p()
    assert p.event_shape == (4, 6, 4)
    model = model_of(prior="learned", per="channel")
    with torch.no_grad():
        model.prior.loc += torch.arange(4.0).view(4, 1, 1)
    assert torch.equal(model.p().mean, torch.arange(4.0).double().view(4, 1, 1).expand(4, 6, 4))


def test_what_wide_codes_leave_out_of_an_evaluation_is_said(monkeypatch):
    model, data, said = model_of().float(), Dataset((images(60) * 255).to(torch.uint8)), []
    monkeypatch.setattr(latents_module, "MOST_COVARIED", 90)
    monkeypatch.setattr("vaekit.evaluation.information.MOST_TERMS", 60 * 100 * 49)
    metrics = evaluate_model(model, data, Pixels(), samples=2, say=said.append).metrics
    assert not {"mutual_information_nats", "aggregate_kl_nats"} & metrics.keys()
    assert [line.split(":")[0] for line in said] == ["mutual information is left out", "aggregate_kl_nats is left out"]


def test_a_grid_that_the_images_have_not_is_refused_before_a_folder_is_made(tmp_path, vaekit):
    words = ("model.network=conv", "model.latent={channels: 4, side: 3}", "--out", tmp_path / "run")
    answer = vaekit("train", "digits", *words)
    assert answer.code == 2 and "choose model.latent.side=4 or 2 or 1" in answer.err and answer.err.count("\n") == 1
    assert not (tmp_path / "run").exists()
