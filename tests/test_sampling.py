"""Codes on lines, arcs, grids and axes, and what is near: geometry that holds for any numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_runs import SIZES
from torch.distributions import Normal

from vaekit import load
from vaekit.data.dataset import Dataset
from vaekit.data.splits import load_splits
from vaekit.errors import ConfigError, DataError
from vaekit.trained import walks
from vaekit.trained.codes import encode_dataset, posterior_codes, quantile_grid, require_plane, some_rows
from vaekit.verbs.train import train

RNG = np.random.default_rng(0)
A, B = RNG.standard_normal((2, 7)).astype(np.float32)


@pytest.fixture(scope="module")
def model(digits_run):
    return load(digits_run)


@pytest.fixture(scope="module")
def data(model):
    return load_splits(model.config.data).train


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    options = ("model.latent_dim=2", "training.epochs=0.1")
    return load(train("digits", *SIZES, *options, out=tmp_path_factory.mktemp("plane") / "run"))


# Between two codes


@pytest.mark.parametrize("mode", walks.INTERPOLATIONS)
@pytest.mark.parametrize("steps", [2, 3, 10, 101])
def test_both_ends_are_exact_and_every_step_is_there(mode, steps):
    path = walks.interpolate(A, B, steps, mode)
    assert path.shape == (steps, 7) and path.dtype == np.float32
    assert np.array_equal(path[0], A) and np.array_equal(path[-1], B)


@pytest.mark.parametrize("mode", walks.INTERPOLATIONS)
def test_the_way_back_is_the_way_there(mode):
    assert np.allclose(walks.interpolate(A, B, 9, mode)[::-1], walks.interpolate(B, A, 9, mode), atol=1e-6)


def test_linear_has_the_mean_in_the_middle_and_equal_steps():
    path = walks.linear(A, B, 5)
    assert np.allclose(path[2], (A + B) / 2)
    assert np.allclose(np.diff(path, axis=0), (B - A) / 4, atol=1e-6)


def test_spherical_keeps_the_norm_and_turns_by_equal_angles():
    end = B * np.linalg.norm(A) / np.linalg.norm(B)
    path = walks.spherical(A, end, 8).astype(np.float64)
    assert np.allclose(np.linalg.norm(path, axis=1), np.linalg.norm(A), rtol=1e-6)
    unit = path / np.linalg.norm(path, axis=1, keepdims=True)
    angles = np.arccos((unit[1:] * unit[:-1]).sum(1))
    whole = np.arccos(unit[0] @ unit[-1])
    assert np.allclose(angles, whole / 7, atol=1e-5)
    assert np.linalg.norm(walks.linear(A, end, 3)[1]) < 0.95 * np.linalg.norm(A)  # which a line does not


def test_spherical_norms_change_evenly_where_the_ends_differ():
    path = walks.spherical(A, 3 * B, 6)
    assert np.allclose(np.diff(np.linalg.norm(path, axis=1), 2), 0, atol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 2.5, 1 + 1e-7])
def test_spherical_between_parallel_codes_is_the_line(factor):
    end = (A * factor).astype(np.float32)
    assert np.allclose(walks.spherical(A, end, 5), walks.linear(A, end, 5), atol=1e-6)


def test_spherical_between_opposite_codes_keeps_the_norm():
    path = walks.spherical(A, -A, 7)
    assert np.allclose(np.linalg.norm(path, axis=1), np.linalg.norm(A), rtol=1e-5)
    assert abs(path[3] @ A) < 1e-5


def test_spherical_from_the_origin_is_the_line():
    assert np.allclose(walks.spherical(0 * A, B, 5), walks.linear(0 * A, B, 5))


@pytest.mark.parametrize("steps", [1, 0, -3])
def test_fewer_than_two_steps_are_refused(steps):
    for mode in walks.INTERPOLATIONS:
        with pytest.raises(ConfigError, match="2 or more"):
            walks.interpolate(A, B, steps, mode)


def test_an_unknown_mode_gets_a_suggestion():
    with pytest.raises(ConfigError, match="did you mean 'spherical'"):
        walks.interpolate(A, B, 3, "sperical")


# Planes


def test_the_grid_runs_right_and_upwards():
    codes = walks.latent_grid(5, 2.0).reshape(5, 5, 2)
    assert codes[0, 0].tolist() == [-2, 2] and codes[-1, -1].tolist() == [2, -2]
    assert np.array_equal(codes[2, :, 0], [-2, -1, 0, 1, 2]) and np.array_equal(codes[:, 0, 1], [2, 1, 0, -1, -2])


@pytest.mark.parametrize("side", [1, 2, 9, 20])
def test_quantile_cells_have_equal_probability(plane, side):
    values = quantile_grid(plane, side).reshape(side, side, 2)[0, :, 0].astype(np.float64)
    shares = Normal(0, 1).cdf(torch.from_numpy(values)).numpy()
    assert np.allclose(shares, (np.arange(side) + 0.5) / side, atol=1e-6)


def test_a_grid_of_another_dimension_is_refused(model, plane):
    require_plane(plane)
    with pytest.raises(ConfigError, match="2 dimensions but this model has 4"):
        require_plane(model)


# Along dimensions and vectors


def test_a_traversal_holds_the_other_dimensions():
    values = np.linspace(-3, 3, 9)
    codes = walks.traverse(A, 4, values)
    assert np.allclose(codes[:, 4], values)
    others = np.delete(np.arange(7), 4)
    assert (codes[:, others] == A[others]).all()


@pytest.mark.parametrize("dim", [-1, 7, 100])
def test_a_dimension_that_is_not_there_is_refused(dim):
    with pytest.raises(ConfigError, match=f"dimension {dim} does not exist; this model has 0 to 6"):
        walks.traverse(A, dim, np.zeros(2))


def test_traversal_values_are_in_standard_deviations():
    assert np.allclose(walks.traversal_values(1.0, 2.0, 3, 1.5), [-2, 1, 4])


def test_most_used_falls_and_does_not_depend_on_the_others():
    kl = np.array([0.3, 2.0, 0.3, 5.0, 0.0])
    assert walks.most_used(kl, 5) == [3, 1, 0, 2, 4]
    assert walks.most_used(kl, 2) == [3, 1]


def test_plus_what_is_taken_away_gives_the_base():
    terms = list(RNG.standard_normal((5, 7)).astype(np.float32))
    assert np.allclose(walks.arithmetic(A, terms, terms[::-1]), A, atol=1e-6)
    assert np.array_equal(walks.arithmetic(A, [], []), A)
    assert np.allclose(walks.arithmetic(A, [B], [A]), B, atol=1e-6)


def test_an_attribute_vector_leads_from_those_without_to_those_with():
    labels = np.array([0, 1, 1, 2, 1, 0])
    codes = RNG.standard_normal((6, 3)).astype(np.float32)
    vector = walks.attribute_vector(codes, labels, 1)
    assert np.allclose(codes[[0, 3, 5]].mean(0) + vector, walks.class_mean(codes, labels, 1), atol=1e-6)
    assert np.allclose(walks.attribute_vector(codes + 5, labels, 1), vector, atol=1e-5)


@pytest.mark.parametrize(("labels", "words"), [(None, "no labels"), ([0, 0, 0], "class 1"), ([1, 1, 1], "without")])
def test_labels_that_say_nothing_are_refused(labels, words):
    codes = np.zeros((3, 2), np.float32)
    with pytest.raises(DataError, match=words):
        walks.attribute_vector(codes, None if labels is None else np.array(labels), 1)


# Neighbours


@pytest.mark.parametrize("chunk", [1, 30, 10**9])
def test_neighbours_are_the_sorted_distances(monkeypatch, chunk):
    monkeypatch.setattr(walks, "DISTANCES_AT_ONCE", chunk)
    codes, queries = RNG.standard_normal((50, 4)), RNG.standard_normal((3, 4))
    found = walks.nearest(queries, codes, 6)
    whole = np.linalg.norm(codes[None] - queries[:, None], axis=2)
    assert np.array_equal(found.indices, np.argsort(whole, axis=1)[:, :6])
    assert np.allclose(found.distances, np.sort(whole, axis=1)[:, :6])


def test_an_image_of_the_set_is_its_own_nearest_neighbour(model, data):
    codes = encode_dataset(model, data)
    found = walks.nearest(codes[[3, 17]], codes, 2)
    assert found.indices[:, 0].tolist() == [3, 17] and (found.distances[:, 0] == 0).all()
    loose = model.encode(data.images[17, 0].numpy())
    alone = walks.nearest(loose, codes, 1)
    assert alone.indices[0, 0] == 17 and alone.distances[0, 0] < 1e-5


def test_standardised_neighbours_do_not_depend_on_the_units_of_a_dimension():
    codes = RNG.standard_normal((40, 3))
    units = np.array([1.0, 1000.0, 0.01])
    plain = walks.nearest(codes[:2], codes, 5, scale=codes.std(0))
    scaled = walks.nearest(codes[:2] * units, codes * units, 5, scale=(codes * units).std(0))
    assert np.array_equal(plain.indices, scaled.indices) and np.allclose(plain.distances, scaled.distances)


# From images


def test_posterior_codes_follow_the_posterior(model, data):
    images = data.images[:2]
    codes = posterior_codes(model, Dataset(images), 4000, seed=1)
    q = model.model.q(model.pixels.of_loose_images(images))
    error = q.stddev.detach().numpy() / np.sqrt(4000)
    assert (np.abs(codes.mean(1) - q.mean.detach().numpy()) < 5 * error).all()
    assert np.allclose(codes.std(1), q.stddev.detach().numpy(), rtol=0.06)


def test_posterior_codes_at_temperature_0_are_the_mean_and_2_is_twice_as_far(model, data):
    images = data.images[:5]
    mean = model.encode(list(images[:, 0].numpy()))
    assert np.allclose(posterior_codes(model, Dataset(images), 3, temperature=0), mean[:, None], atol=1e-5)
    one, two = (posterior_codes(model, Dataset(images), 3, temperature=t, seed=2) - mean[:, None] for t in (1, 2))
    assert np.allclose(2 * one, two, atol=1e-5)


def test_batch_size_changes_no_code(model, data, monkeypatch):
    images = data.images[:9]
    codes, means = posterior_codes(model, Dataset(images), 2), encode_dataset(model, data)
    monkeypatch.setattr("vaekit.trained.codes.BATCH", 4)
    assert np.allclose(posterior_codes(model, Dataset(images), 2), codes, atol=1e-5)
    assert np.allclose(encode_dataset(model, data), means, atol=1e-5)


def test_codes_near_lie_around_the_centre_by_the_scale():
    codes = walks.codes_near(A, 20_000, scale=0.3, seed=3)
    assert np.allclose(codes.mean(0), A, atol=5 * 0.3 / np.sqrt(20_000))
    assert np.allclose(codes.std(0), 0.3, rtol=0.05)
    assert np.array_equal(walks.codes_near(A, 5, scale=0.3, seed=3), codes[:5])
    assert np.array_equal(walks.codes_near(A, 2, scale=0)[1], A)


def test_some_rows_are_a_function_of_the_seed_and_rise():
    rows = some_rows(1000, 50, seed=1)
    assert torch.equal(rows, some_rows(1000, 50, seed=1))
    assert not torch.equal(rows, some_rows(1000, 50, seed=2))
    assert len(rows.unique()) == 50 and bool((rows.diff() > 0).all())
    assert torch.equal(some_rows(7, None), torch.arange(7))
