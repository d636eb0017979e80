"""Scores of disentanglement: the best for perfect codes, chance for noise, and no change by what does not matter."""

import csv
import json
import math
import shutil

import numpy as np
import pytest
import torch
from small_runs import SIZES

from vaekit.data.dataset import Dataset, Factors
from vaekit.errors import DataError, NumericalError
from vaekit.evaluation import disentanglement as scoring
from vaekit.evaluation.disentanglement import labelled, score_codes, score_representation
from vaekit.evaluation.disentanglement.importance import _completeness, _disentanglement
from vaekit.evaluation.disentanglement.information import binned
from vaekit.evaluation.disentanglement.interventions import Sharing
from vaekit.plots import information_map
from vaekit.verbs.disentanglement import factors_of
from vaekit.verbs.train import train

SIZES_OF = (3, 4, 5, 12)
NAMES = ("shape", "scale", "turn", "x")
ORDERED = (False, True, True, True)
SCALES = np.array([1.0, 1e-3, 40.0, -7.0])


def grid(repeats=2):
    """Every combination of the factors, as often."""
    values = np.tile(np.indices(SIZES_OF).reshape(4, -1).T, (repeats, 1))
    return values, Factors(torch.from_numpy(values), NAMES, SIZES_OF, ORDERED)


def standardised(values):
    return (values - values.mean(0)) / values.std(0)


def close_codes():
    """Codes in which each factor has its dimension, in other units each, a little blurred and mixed; and noise."""
    values, factors = grid()
    random = np.random.default_rng(1)
    clean = standardised(values) + 0.15 * random.standard_normal(values.shape)
    clean = clean @ (np.eye(4) + 0.15 * random.standard_normal((4, 4)))
    return np.hstack([clean * SCALES, random.standard_normal((len(values), 2))]), factors


@pytest.fixture(scope="module")
def perfect():
    values, factors = grid()
    return score_codes(values * SCALES + 3.0, factors)


@pytest.fixture(scope="module")
def noise():
    values, factors = grid()
    return score_codes(np.random.default_rng(0).standard_normal((len(values), 6)), factors)


# The best, and chance


def test_a_perfect_code_gets_the_best_of_every_score(perfect):
    for score in perfect.scores:
        assert score.value == pytest.approx(score.best, abs=1e-6), score
    assert perfect["mig"] == pytest.approx(1, abs=1e-9)
    assert perfect.information == pytest.approx(np.diag(np.log(SIZES_OF)), abs=1e-9)


def test_the_best_sap_is_one_for_ordered_factors_and_less_by_chance_for_others(perfect):
    best = next(score.best for score in perfect.scores if score.name == "sap")
    assert best == pytest.approx((2 / 3 + 1 + 1 + 1) / 4)
    assert perfect["sap"] == pytest.approx(best, abs=1e-9)


def test_more_dimensions_than_factors_do_not_spoil_a_perfect_code():
    values, factors = grid()
    codes = np.hstack([np.full((len(values), 2), 0.3), values * SCALES, np.zeros((len(values), 1))])
    found = score_codes(codes, factors)
    for score in found.scores:
        assert score.value == pytest.approx(score.best, abs=1e-6), score


def test_noise_gets_chance_in_every_score(noise):
    for score in noise.scores:
        assert score.value == pytest.approx(score.chance, abs=0.05), score
    assert next(score.chance for score in noise.scores if score.name == "factor_vae") == 1 / 4


@pytest.mark.parametrize("count", [1440, 1000], ids=["even", "part"])
def test_constant_codes_get_chance_and_do_not_crash(count):
    rows = np.random.default_rng(5).permutation(1440)[:count]
    values, factors = grid()
    random = np.random.default_rng(0)
    rounding = np.float32(0.7) + random.choice(np.float32([0, 6e-8]), (count, 1))
    found = score_codes(np.hstack([np.full((count, 2), 0.1), rounding]), factors.subset(torch.from_numpy(rows)))
    assert (len(found.scores), len(values)) == (8, 1440)
    for score in found.scores:
        assert score.value == pytest.approx(score.chance, abs=0.08), score


def test_a_code_turned_by_45_degrees_is_worse():
    """Pairs of dimensions of a perfect code, mixed evenly."""
    values, factors = grid()
    turn = np.array([[1, -1], [1, 1]]) / math.sqrt(2)
    mixed = standardised(values)[:, [1, 3, 0, 2]] @ np.kron(np.eye(2), turn)
    found = score_codes(mixed, factors)
    assert found["mig"] < 0.3 and found["sap"] < 0.4
    assert found["dci_disentanglement"] < 0.6 and found["dci_completeness"] < 0.6
    assert found["dci_informativeness"] > 0.9 and found["factor_vae"] < 0.9 and found["modularity"] < 0.95


def test_a_factor_in_two_dimensions_is_modular_but_not_complete():
    """What tells the scores apart: twice the same dimension has no gap, and serves one factor all the same."""
    values, factors = grid()
    found = score_codes(np.hstack([values, values]), factors)
    assert found["mig"] == pytest.approx(0, abs=1e-9) and found["sap"] == pytest.approx(0, abs=1e-9)
    assert found["modularity"] == pytest.approx(1) and found["factor_vae"] == 1
    assert found["dci_disentanglement"] > 0.99 and found["dci_completeness"] < 0.7


def test_two_factors_in_one_dimension_are_not_modular():
    values, factors = grid()
    both = values[:, :1] * 4 + values[:, 1:2]
    found = score_codes(np.hstack([both, values[:, 2:]]), factors)
    assert found["modularity"] == pytest.approx((1 - (math.log(3) / math.log(4)) ** 2 / 3 + 1 + 1) / 3)
    assert found["dci_disentanglement"] < 0.9
    assert found["dci_completeness"] > 0.99


def test_the_blur_of_a_code_in_its_own_units_changes_little():
    """A dimension counts by its own spread: without that, the one with the smallest unit would win every vote."""
    values, factors = grid()
    blurred = standardised(values) + 0.1 * np.random.default_rng(0).standard_normal(values.shape)
    found = score_codes(blurred * SCALES, factors)
    assert found["factor_vae"] == 1 and found["beta_vae"] == 1 and found["mig"] > 0.9


# What changes nothing


def test_the_order_of_the_dimensions_does_not_count():
    codes, factors = close_codes()
    plain, turned = score_codes(codes, factors), score_codes(codes[:, [3, 5, 0, 2, 1, 4]], factors)
    assert 0.1 < plain["mig"] < 0.9
    for name in ("mig", "sap", "modularity", "factor_vae"):
        assert turned[name] == pytest.approx(plain[name], abs=1e-12), name
    for name in ("dci_disentanglement", "dci_completeness", "dci_informativeness", "beta_vae"):
        assert turned[name] == pytest.approx(plain[name], abs=0.01), name


def test_an_increasing_function_of_a_dimension_leaves_what_counts_ranks():
    codes, factors = close_codes()
    bent = np.column_stack([np.exp(codes[:, 0]), 1e6 * codes[:, 1] ** 3, np.arctan(codes[:, 2]), codes[:, 3:]])
    plain, changed = labelled(codes, factors), labelled(bent, factors)
    for score in (scoring.mig, scoring.modularity):
        assert score(changed) == pytest.approx(score(plain), abs=1e-12)


def test_the_unit_of_a_dimension_does_not_count():
    codes, factors = close_codes()
    plain, scaled = labelled(codes, factors), labelled(codes * 2.0 ** np.array([-30, 20, 0, 9, 30, -9]), factors)
    for score in (scoring.sap, scoring.factor_vae_score, scoring.beta_vae_score):
        assert score(scaled) == pytest.approx(score(plain), abs=1e-9)


def test_the_order_of_the_images_does_not_count_for_tables():
    codes, factors = close_codes()
    rows = np.random.default_rng(0).permutation(len(codes))
    plain = labelled(codes, factors)
    mixed = labelled(codes[rows], factors.subset(torch.from_numpy(rows)))
    for score in (scoring.mig, scoring.sap, scoring.modularity):
        assert score(mixed) == pytest.approx(score(plain), abs=1e-12)


def test_twice_the_images_change_nothing_but_what_is_drawn():
    codes, factors = close_codes()
    twice = factors._replace(values=factors.values.repeat(2, 1))
    plain, doubled = score_codes(codes, factors), score_codes(np.tile(codes, (2, 1)), twice)
    for name in ("mig", "sap"):
        assert doubled[name] == pytest.approx(plain[name], abs=1e-12), name
    for name in ("modularity", "factor_vae", "beta_vae", "dci_disentanglement", "dci_completeness"):
        assert doubled[name] == pytest.approx(plain[name], abs=0.05), name


def test_the_same_seed_gives_the_same_scores_and_another_one_nearly():
    codes, factors = close_codes()
    data = labelled(codes, factors)
    for score in (scoring.factor_vae_score, scoring.beta_vae_score, lambda *given: scoring.dci(*given).completeness):
        first, again, other = (score(data, seed) for seed in (0, 0, 1))
        assert first == again and other == pytest.approx(first, abs=0.06)


def test_names_of_values_do_not_count_for_a_class():
    """A factor without order may be numbered in any way."""
    codes, factors = close_codes()
    renamed = factors.values.clone()
    renamed[:, 0] = torch.tensor([1, 2, 0])[renamed[:, 0]]
    plain, other = labelled(codes, factors), labelled(codes, factors._replace(values=renamed))
    for score in (scoring.mig, scoring.sap, scoring.modularity):
        assert score(other) == pytest.approx(score(plain), abs=1e-12)


# Each by hand


def test_mig_and_sap_by_hand():
    """x is in z0, and half of the time in z1; y is in z1 alone, and it is a class."""
    values = np.tile(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), (100, 1))
    factors = Factors(torch.from_numpy(values), ("x", "y"), (2, 2), (True, False))
    noisy = np.where(np.arange(400) // 4 % 10 < 9, values[:, 1], 1 - values[:, 1])  # right 9 times of 10
    data = labelled(np.stack([values[:, 0], noisy], 1), factors)
    told = math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1)
    assert scoring.mutual_information(data) == pytest.approx(np.diag([math.log(2), told]), abs=1e-9)
    assert scoring.mig(data) == pytest.approx((1 + told / math.log(2)) / 2)
    assert scoring.sap(data) == pytest.approx((1 + (0.9 - 0.5)) / 2)
    assert scoring.sap(data._replace(ordered=(True, True))) == pytest.approx((1 + (0.9 - 0.1) ** 2) / 2)
    assert scoring.modularity(data) == pytest.approx(1)


def test_the_gap_is_between_dimensions_and_in_shares_of_each_factors_own_entropy():
    """Factors of different entropy, and two dimensions that tell of the same one."""
    values = np.tile(np.indices((2, 16)).reshape(2, -1).T, (40, 1))
    factors = Factors(torch.from_numpy(values), ("a", "b"), (2, 16), (True, True))
    codes = np.stack([values[:, 0], values[:, 1], values[:, 1] // 4], 1)
    # of b: z1 has 4 bits, z2 has 2 of 4; of a: z0 has its one bit, the others none
    assert scoring.mig(labelled(codes, factors)) == pytest.approx((1 + (4 - 2) / 4) / 2)


def test_modularity_by_hand():
    values = np.tile(np.indices((2, 4)).reshape(2, -1).T, (100, 1))
    factors = Factors(torch.from_numpy(values), ("a", "b"), (2, 4), (True, True))
    codes = np.stack([4 * values[:, 0] + values[:, 1], values[:, 1], np.zeros(800)], 1)
    # z0 tells 1 bit of a and 2 of b: 1 - (1/2)²; z1 tells of b alone; z2 is left out
    assert scoring.modularity(labelled(codes, factors)) == pytest.approx((0.75 + 1) / 2)


def test_dci_by_hand():
    """H of (1/2, 1/2) is one half of log 4 and log 3 times 0.63; a dimension weighs by its importance."""
    importance = np.array([[1.0, 0, 0], [0, 0.5, 0], [0, 0.5, 0.5], [0, 0, 0.5]])
    half, third = 1 - math.log(2) / math.log(3), 1 - math.log(2) / math.log(4)
    assert _disentanglement(importance) == pytest.approx((1 * 1 + 0.5 * 1 + 1 * half + 0.5 * 1) / 3)
    assert _completeness(importance) == pytest.approx((1 + third + third) / 3)
    assert _disentanglement(np.zeros((2, 2))) == 0 and _completeness(np.zeros((2, 2))) == 0
    assert _disentanglement(np.ones((3, 1))) is None and _completeness(np.ones((1, 3))) is None


def test_bins_are_equally_filled_and_keep_equal_numbers_together():
    column = np.random.default_rng(0).standard_normal(1000)
    assert np.bincount(binned(column, 20)).tolist() == [50] * 20
    tied = np.round(column, 1)
    bins = binned(tied, 20)
    assert all(len(set(bins[tied == value])) == 1 for value in np.unique(tied))
    assert (np.diff(bins[np.argsort(tied, kind="stable")]) >= 0).all()


def test_partners_share_the_value_and_are_others():
    column = np.array([0, 1, 0, 2, 1, 1, 0, 2, 3])
    sharing = Sharing.of(column)
    first = np.repeat(np.arange(9), 200)
    second = sharing.partners(first, column[first], np.random.default_rng(0))
    assert (column[second] == column[first]).all()
    assert ((second != first) | (column[first] == 3)).all()
    assert {(a, b) for a, b in zip(first, second, strict=True) if column[a] == 0} == {
        (a, b) for a in (0, 2, 6) for b in (0, 2, 6) if a != b
    }
    group = sharing.group(1, 500, np.random.default_rng(0))
    assert set(group) == {1, 4, 5}


# What cannot be scored


def test_a_factor_without_variation_is_left_out_and_named(perfect):
    values, factors = grid()
    still = factors._replace(
        values=torch.cat([factors.values, torch.full((len(values), 1), 2)], 1),
        names=(*NAMES, "colour"),
        sizes=(*SIZES_OF, 3),
        ordered=(*ORDERED, False),
    )
    found = score_codes(values * SCALES + 3.0, still)
    assert found.factors == NAMES and found.scores == perfect.scores
    assert found.notes == ("the factor 'colour' has one value in these images, so it is left out",)


def test_values_that_no_image_has_do_not_count(perfect):
    values, factors = grid()
    spread = factors._replace(values=factors.values * 3 + 1, sizes=tuple(3 * size + 1 for size in SIZES_OF))
    assert score_codes(values * SCALES + 3.0, spread).scores == perfect.scores


def test_one_factor_has_the_scores_that_need_no_other():
    values, factors = grid()
    one = Factors(factors.values[:, :1], ("class",), (3,), (False,))
    found = score_codes(values[:, :2], one)
    assert [score.name for score in found.scores] == ["mig", "sap", "dci_completeness", "dci_informativeness"]
    assert found["mig"] == pytest.approx(1, abs=1e-9) and found["sap"] == pytest.approx(2 / 3)
    assert found.notes == (
        "left out, for one factor leaves nothing to say: dci_disentanglement, factor_vae, beta_vae, modularity",
    )


def test_one_dimension_has_no_completeness():
    values, factors = grid()
    found = score_codes(values[:, 3:], factors)
    assert found["mig"] == pytest.approx(1 / 4, abs=1e-9) and found["sap"] == pytest.approx(1 / 4, abs=1e-9)
    assert found.notes == ("left out, for one dimension leaves nothing to say: dci_completeness",)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda c, f: (np.where(c == c[7], np.nan, c), f), NumericalError, "not finite, first in dimension 0"),
        (lambda c, f: (np.where(np.arange(6) == 4, np.inf, c), f), NumericalError, "1440 of 1440 codes"),
        (lambda c, f: (c[:-1], f), DataError, "1439 codes but the factors of 1440 images"),
        (lambda c, f: (c[:, 0], f), DataError, "one row of numbers for each image"),
        (lambda c, f: (c, f._replace(values=f.values.float())), DataError, "whole numbers"),
        (lambda c, f: (c, f._replace(names=("a",))), DataError, "4 factors have 1 names"),
        (lambda c, f: (c, f._replace(values=f.values * 0)), DataError, "no factor varies"),
        (lambda c, f: (c[:239], f.subset(torch.arange(239))), DataError, "need 2"),
        (lambda c, f: (c[:0], f.subset(torch.arange(0))), DataError, "no factor varies"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(change, error, words):
    with pytest.raises(error, match=words) as refused:
        score_codes(*change(*close_codes()))
    assert "\n" not in str(refused.value)


def test_a_representation_is_asked_for_all_images():
    values, factors = grid()
    images = torch.from_numpy(values).view(-1, 4, 1, 1)
    found = score_representation(lambda given: given.flatten(1).numpy() * SCALES, images, factors)
    assert found["mig"] == pytest.approx(1, abs=1e-9)


# The command


@pytest.fixture(scope="module")
def sprites_run(tmp_path_factory):
    words = ("model.network={kind: mlp, widths: [16]}", "model.latent_dim=3", "training.epochs=0.2", "data.limit=640")
    return train("sprites", *words, out=tmp_path_factory.mktemp("sprites") / "run")


def test_the_command_writes_what_it_says(vaekit, sprites_run, tmp_path):
    run = shutil.copytree(sprites_run, tmp_path / "run")
    answer = vaekit("disentanglement", run, "--split", "validation")
    assert answer.code == 0, answer.err
    assert "864 validation images · factors: shape, scale, rotation, x, y" in answer.out
    for name in ("MIG", "SAP", "DCI disentanglement", "FactorVAE score", "β-VAE score", "modularity"):
        assert f"{name} " in answer.out
    written = json.loads((run / "reports" / "disentanglement.json").read_text())
    rows = list(csv.DictReader((run / "reports" / "disentanglement.csv").open()))
    assert {row["name"]: float(row["value"]) for row in rows} == {row["name"]: written[row["name"]] for row in rows}
    assert len(rows) == 8 and np.shape(written["information_nats"]) == (3, 5) and written["split"] == "validation"
    assert (run / "grids" / "factor_information.png").stat().st_size > 5000


def test_images_with_classes_alone_are_scored_on_the_class(vaekit, digits_run, tmp_path):
    run = shutil.copytree(digits_run, tmp_path / "run")
    answer = vaekit("disentanglement", run)
    assert answer.code == 0 and "factors: class" in answer.out and "left out, for one factor" in answer.out
    assert "FactorVAE" not in answer.out


def test_images_without_factors_or_classes_are_refused_in_one_line(vaekit, tmp_path):
    np.savez(tmp_path / "bare.npz", train=np.random.default_rng(0).integers(0, 256, (300, 1, 8, 8), np.uint8))
    words = [word for word in SIZES if not word.startswith("data.limit")]
    run = train("arrays", f"data.path={tmp_path / 'bare.npz'}", *words, "training.epochs=0.2", out=tmp_path / "run")
    answer = vaekit("disentanglement", run)
    assert answer.code == 3 and len(answer.err.splitlines()) == 1
    assert "neither factors nor classes" in answer.err


def test_the_factors_of_a_data_set_are_its_own_before_its_classes():
    images, labels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    own = Factors(torch.zeros(4, 1, dtype=torch.int64), ("x",), (1,), (True,))
    assert factors_of(Dataset(images, labels, ("a", "b"), factors=own)) is own
    assert factors_of(Dataset(images, labels, ("a", "b"))).values[:, 0].equal(labels)


def test_the_map_has_a_row_for_each_factor_and_shares_of_its_entropy():
    nats = np.array([[0.5, 0.0], [0.0, 2.0], [0.1, 1.0]])
    figure = information_map(nats, np.array([1.0, 2.0]), ("a", "b"), title="t")
    shown = figure.axes[0].images[0].get_array()
    assert np.allclose(shown, [[50, 0, 10], [0, 100, 50]])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b"]
