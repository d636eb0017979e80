"""Every check of the self-test fails where the code is wrong, and the table and the exit code say so."""

import importlib.util
import json
import math
import os
import sys
import tempfile
from functools import partial

import pytest
import torch

from vaekit.config.schedule_shapes import cosine
from vaekit.densities import codes as distributions
from vaekit.densities.codes import DiagonalNormal
from vaekit.densities.images import GaussianImage
from vaekit.densities.logistics import DiscretisedLogisticImage
from vaekit.densities.noise import BlockNoise
from vaekit.evaluation import likelihood
from vaekit.evaluation.ais import Annealing
from vaekit.evaluation.disentanglement import information
from vaekit.evaluation.disentanglement.information import entropies
from vaekit.models import build, trace
from vaekit.models import likelihoods as conditionals
from vaekit.objectives import aggregate, evidence, importance
from vaekit.objectives.adversarial import Discriminator
from vaekit.selftest import bounds, durability, linear_gaussian
from vaekit.selftest.run import CHECKS, judge, run_checks

CPU = torch.device("cpu")
ALWAYS_HERE = {
    "optional",
    "sums-float32",
    "perfect-code",
    "noise-code",
    "devices",
    "saved",
    "resumed",
}  # also where there is no float64


def verdict(name):
    (figure,) = run_checks([name], device="cpu")
    return figure.verdict


@pytest.mark.slow
def test_this_machine_passes(vaekit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    answer = vaekit("selftest", "--device", "cpu", "--json")
    figures = {figure["name"]: figure for figure in json.loads(answer.out)}
    assert answer.code == 0, answer.out
    assert figures.keys() == CHECKS.keys()
    assert {name for name, figure in figures.items() if figure["verdict"] == "not here"} <= {"devices"}
    assert not list(tmp_path.iterdir())


# Bugs, each with the check that finds it


def half_forgotten(q, p):
    ratio, shift = q.log_scale - p.log_scale, (q.loc - p.loc) * (-p.log_scale).exp()
    return torch.expm1(2 * ratio) + shift.square() - ratio


def edge_forgotten(self, x, right=DiscretisedLogisticImage.pixel_log_prob):
    return torch.where(x < 0.5 / self.steps, right(self, x + 1 / self.steps), right(self, x))


def normaliser_forgotten(self, x):
    return -0.5 * ((x - self.loc) * (-self.log_scale).exp()).square() - self.log_scale


def weight_with_wrong_sign(trace):
    (latent,) = trace.latents
    return trace.log_px - latent.p.log_prob(latent.z) + latent.q.log_prob(latent.z)


def samples_not_counted(self, right=likelihood.StreamedLogMean.result):
    importance, effective = right(self)
    return importance + math.log(self.count), effective


def samples_counted_twice(self, right=likelihood.StreamedLogMean.result):
    importance, effective = right(self)
    return importance - math.log(self.count), effective


def noise_by_batch(self, level, shape, like):
    return torch.randn(shape, generator=torch.Generator().manual_seed(self.seed + self.first_sample)).to(like)


def short_path(self):
    return [t / 250 for t in range(self.temperatures + 1)]


def large_in_bf16(parameters):
    return parameters.float() * (1.05 if parameters.dtype == torch.bfloat16 else 1)


def equal_weights(batch, images, sampling, like):
    return like.new_full((batch, batch), -math.log(images * batch))


def live(self, z, stopped=False, right=Discriminator.forward):
    return right(self, z)


def half_loaded(model, tensors):
    model.load_state_dict({name: value for name, value in tensors.items() if "running" not in name}, strict=False)


def loaded_at_half_precision(model, tensors):
    model.load_state_dict({name: value.half() for name, value in tensors.items()})


NORMALS = (DiagonalNormal, DiagonalNormal)
normal_kl = distributions.KL_PER_DIM[NORMALS]
BUGS = {
    "half-forgotten": ("kl", distributions, "KL_PER_DIM", {NORMALS: half_forgotten}),
    "half-forgotten, relatively": ("kl-relative", distributions, "KL_PER_DIM", {NORMALS: half_forgotten}),
    "kl-negated": ("kl", distributions, "KL_PER_DIM", {NORMALS: lambda q, p: -normal_kl(q, p)}),
    "kl-reversed": ("exact-elbo", distributions, "KL_PER_DIM", {NORMALS: lambda q, p: normal_kl(p, q)}),
    "pi-forgotten": ("codes", distributions, "LOG_2PI", 0.0),
    "edge": ("sums", DiscretisedLogisticImage, "pixel_log_prob", edge_forgotten),
    "edge-float32": ("sums-float32", DiscretisedLogisticImage, "pixel_log_prob", edge_forgotten),
    "normaliser": ("integrals", GaussianImage, "pixel_log_prob", normaliser_forgotten),
    "weight-sign": ("exact-weights", bounds, "log_weight", weight_with_wrong_sign),
    "kl-not-counted": ("order", "vaekit.evaluation.chunks", "kl", lambda latent: 0 * trace.kl(latent)),
    "samples-counted-twice": ("order", likelihood.StreamedLogMean, "result", samples_counted_twice),
    "weight-sign-one": ("one-sample", "vaekit.evaluation.chunks", "log_weight", weight_with_wrong_sign),
    "samples-not-counted": ("thousand", likelihood.StreamedLogMean, "result", samples_not_counted),
    "noise-by-batch": ("batches", BlockNoise, "__call__", noise_by_batch),
    "noise-by-order": ("company", "vaekit.evaluation.likelihood", "RepeatedNoise", BlockNoise),
    "path-that-ends-early": ("annealing", Annealing, "betas", short_path),
    "gradient-of-iwae-not-squared": ("doubly", importance, "_scale_gradient", lambda latent, factor: None),
    "image-itself-not-singled-out": ("aggregate", aggregate, "log_weights", equal_weights),
    "sum-over-images": ("duplicated", evidence, "distortion", lambda trace: -trace.log_px.sum()),
    "other-network-moved": ("two-networks", Discriminator, "forward", live),
    "larger-in-bf16": ("bf16", conditionals, "full_precision", large_in_bf16),
    "entropy-in-bits": ("perfect-code", information, "entropies", lambda data: entropies(data) / math.log(2)),
    "too-many-bins": ("noise-code", information, "bins_for", lambda size: 400),
    "steps-that-stay-large": ("ppca", linear_gaussian, "cosine", lambda rate, end, over: cosine(rate, rate, over)),
    "buffers-not-loaded": ("saved", durability, "load_weights", half_loaded),
    "half-precision": ("saved", durability, "load_weights", loaded_at_half_precision),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_is_found(bug, monkeypatch):
    name, home, attribute, wrong = BUGS[bug]
    if bug == "steps-that-stay-large":
        monkeypatch.setattr(bounds, "gap_after_training", partial(bounds.gap_after_training, steps=300))
    target = (f"{home}.{attribute}",) if isinstance(home, str) else (home, attribute)
    monkeypatch.setattr(*target, wrong)
    assert verdict(name) == "fail"


def test_every_line_of_the_tables_is_checked(monkeypatch):
    """A wrong likelihood that is added to the table is found, whatever its name."""

    class Wrong(build.LIKELIHOODS["laplace"]):
        def located(self, loc, log_scale):
            px = super().located(loc, log_scale)
            px.pixel_log_prob = lambda x: type(px).pixel_log_prob(px, x) + 1e-6
            return px

    monkeypatch.setattr(build, "LIKELIHOODS", {**build.LIKELIHOODS, "new": Wrong})
    assert verdict("integrals") == "fail"


def test_a_run_that_ends_before_it_can_be_killed_is_no_proof(monkeypatch, tmp_path):
    monkeypatch.setattr(durability, "COMMAND", ("recipes",))
    with pytest.raises(durability.RunFailed, match="not killed"):
        durability._killed(tmp_path, "run", CPU)


@pytest.mark.slow
def test_a_resume_that_forgets_the_generator_is_found(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import vaekit.training.state as state\nstate.set_generator_states = lambda *now: None\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    (figure,) = run_checks(["resumed"], device="cpu")
    assert figure.verdict == "fail" and figure.value > 0


# Verdicts, table, exit code


@pytest.mark.parametrize("name", CHECKS)
def test_the_limit_decides(name):
    check = CHECKS[name]
    beyond = check.limit * 1.001 if check.limit else 1e-12
    for value, expected in ((check.limit, "ok"), (beyond, "fail"), (math.inf, "fail"), (math.nan, "fail")):
        assert judge(name, check._replace(measure=lambda device, value=value: value), CPU).verdict == expected


def test_the_numbers_do_not_depend_on_what_ran_before_and_disturb_nothing():
    before = torch.get_rng_state()
    alone = list(run_checks(["kl"], device="cpu"))
    torch.rand(5)
    after_another = list(run_checks(["sums", "kl"], device="cpu"))
    assert alone == after_another[1:]
    torch.set_rng_state(before)
    list(run_checks(["exact-weights", "company"], device="cpu"))
    assert torch.equal(torch.get_rng_state(), before)


def test_where_there_is_no_float64_it_says_so():
    for name in CHECKS.keys() - ALWAYS_HERE:
        figure = judge(name, CHECKS[name], torch.device("mps"))
        assert figure.verdict == "not here" and "float64" in figure.note


def test_the_table_says_ok_and_exits_with_0(vaekit):
    answer = vaekit("selftest", "--only", "sums", "--only", "exact-elbo", "--device", "cpu")
    assert answer.code == 0 and answer.err == ""
    rows = answer.out.splitlines()[2:]
    assert [row.split()[0] for row in rows] == ["sums", "exact-elbo"]
    assert all(row.split()[-1] == "ok" for row in rows)


def test_a_failed_check_exits_with_5_and_is_named(vaekit, monkeypatch):
    monkeypatch.setattr(DiscretisedLogisticImage, "pixel_log_prob", edge_forgotten)
    answer = vaekit("selftest", "--only", "sums", "--only", "exact-elbo", "--device", "cpu")
    assert answer.code == 5
    assert answer.err == "vaekit: 1 of 2 checks failed: sums\n"
    figures = json.loads(vaekit("selftest", "--only", "sums", "--device", "cpu", "--json").out)
    assert figures[0]["verdict"] == "fail" and figures[0]["value"] > figures[0]["limit"]


def test_an_exception_is_that_checks_failure_in_one_line(vaekit, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("shapes do not fit\nsecond line")

    monkeypatch.setattr(trace, "kl_of", broken)
    answer = vaekit("selftest", "--only", "exact-elbo", "--only", "exact-weights", "--device", "cpu")
    assert answer.code == 5
    assert answer.out.splitlines()[-1] == "exact-elbo: RuntimeError: shapes do not fit"
    assert answer.out.splitlines()[3].split()[-1] == "ok"
    assert "Traceback" not in answer.out + answer.err


def test_a_training_that_fails_says_what_it_said(monkeypatch):
    monkeypatch.setattr(durability, "COMMAND", ("train", "digits", "--nonsense"))
    (figure,) = run_checks(["resumed"], device="cpu")
    assert figure.verdict == "fail" and "--nonsense" in figure.note and "\n" not in figure.note


def test_unknown_names_and_devices_are_refused(vaekit):
    answer = vaekit("selftest", "--only", "resume")
    assert answer.code == 2 and "did you mean 'resumed'?" in answer.err
    assert vaekit("selftest", "--only", "sums", "--device", "warp").code == 2


def test_what_is_not_installed_is_not_here_and_the_rest_is_checked(monkeypatch):
    """A plain install has no zuko: that is no failure, and is said."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "zuko" else find(name, *rest))
    (figure,) = run_checks(["optional"], device="cpu")
    assert figure.verdict == "not here" and "the prior 'flow' needs zuko" in figure.note
    monkeypatch.setitem(sys.modules, "zuko", None)
    (figure,) = run_checks(["kl-relative"], device="cpu")
    assert figure.verdict == "ok"
