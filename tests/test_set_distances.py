"""Distances between sets of features: closed forms, identities, unbiasedness, and what each of them is for."""

import math

import pytest
import torch

from vaekit.evaluation.distances import coverage, frechet, frechet_of_moments, kernel_distance


def normal(count, dims, seed, shift=0.0):
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed)) + shift


def test_frechet_is_the_closed_form_of_two_normals():
    """Commuting covariances: |m|² + Σ (√a - √b)²; and in one rotated case, the trace of the root by eigenvalues."""
    a, b, mean = torch.tensor([1.0, 4.0, 0.0]), torch.tensor([9.0, 1.0, 2.0]), torch.tensor([1.0, -2.0, 0.5])
    expected = float(mean.square().sum() + (a.sqrt() - b.sqrt()).square().sum())
    zero = torch.zeros(3, dtype=torch.float64)
    found = frechet_of_moments(zero, a.double().diag(), mean.double(), b.double().diag())
    assert found == pytest.approx(expected, rel=1e-9)
    torch.manual_seed(0)
    x, y = torch.randn(2, 5, 5, dtype=torch.float64).unbind()
    x, y = x @ x.T, y @ y.T
    root = torch.linalg.eigvals(x @ y).real.sqrt().sum()
    direct = float(x.trace() + y.trace() - 2 * root)
    zero = torch.zeros(5, dtype=torch.float64)
    assert frechet_of_moments(zero, x, zero, y) == pytest.approx(direct, rel=1e-8)


def test_frechet_of_equal_sets_is_zero_also_where_covariances_are_singular():
    x = normal(20, 50, 0)
    assert frechet(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet(x, x.flip(0)) == pytest.approx(0, abs=1e-6)
    assert frechet(x, x + 3) == pytest.approx(50 * 9, rel=1e-5)


def test_frechet_and_kernel_agree_with_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")
    x, y = normal(60, 6, 0), 1.3 * normal(60, 6, 1, shift=0.4)
    moments = (x.double().mean(0), torch.cov(x.double().T), y.double().mean(0), torch.cov(y.double().T))
    assert frechet(x, y) == pytest.approx(float(fid._compute_fid(*moments)), rel=1e-6)
    kid = pytest.importorskip("torchmetrics.image.kid")
    assert kernel_distance(x, y).value == pytest.approx(float(kid.poly_mmd(x.double(), y.double())), rel=1e-9)


def test_kernel_distance_is_unbiased_and_knows_its_error():
    found = [kernel_distance(normal(50, 4, 2 * s), normal(50, 4, 2 * s + 1)) for s in range(200)]
    values = torch.tensor([f.value for f in found])
    assert abs(float(values.mean())) < 4 * float(values.std()) / math.sqrt(200)
    assert 0.7 < float(torch.tensor([f.se**2 for f in found]).mean().sqrt() / values.std()) < 1.4
    apart = [kernel_distance(normal(50, 4, 2 * s), normal(50, 4, 2 * s + 1, shift=0.7)) for s in range(200)]
    values = torch.tensor([f.value for f in apart])
    assert 0.7 < float(torch.tensor([f.se**2 for f in apart]).mean().sqrt() / values.std()) < 1.4


def test_kernel_distance_is_that_of_its_definition():
    x, y = normal(7, 3, 0).double(), normal(7, 3, 1).double()

    def k(a, b):
        return float((a @ b / 3 + 1) ** 3)

    same = sum(k(s[i], s[j]) for s in (x, y) for i in range(7) for j in range(7) if i != j) / 42
    across = sum(k(a, b) for a in x for b in y) / 49
    assert kernel_distance(x, y).value == pytest.approx(same - 2 * across, rel=1e-9)


def test_equal_sets_are_covered_and_disjoint_ones_are_not():
    x = normal(100, 5, 0)
    same = coverage(x, x.flip(0))
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert coverage(x, x + 1000) == (0, 0, 0, 0)


def test_density_is_one_where_the_sets_are_alike():
    found = coverage(normal(1000, 5, 0), normal(1000, 5, 1))
    assert found.density == pytest.approx(1, abs=0.1)
    assert found.coverage == pytest.approx(1 - 0.5**5, abs=0.03)  # Naeem et al. 2020, eq. 13: 1 - 2^-k for many points


def test_dropping_a_mode_lowers_recall_and_coverage_but_not_precision():
    real = torch.cat([normal(200, 4, 0), normal(200, 4, 1, shift=20)])
    whole = coverage(real, torch.cat([normal(200, 4, 2), normal(200, 4, 3, shift=20)]))
    dropped = coverage(real, normal(400, 4, 4))
    assert dropped.recall < 0.6 * whole.recall
    assert dropped.coverage < 0.6 * whole.coverage
    assert dropped.precision > 0.9 * whole.precision


def test_bad_samples_lower_precision_but_not_recall():
    real = normal(300, 4, 0)
    good = normal(300, 4, 1)
    mixed = torch.cat([good, normal(300, 4, 2, shift=50)])
    assert coverage(real, mixed).precision == pytest.approx(coverage(real, good).precision / 2, abs=0.02)
    assert coverage(real, mixed).recall == pytest.approx(coverage(real, good).recall, abs=0.05)


def test_one_far_outlier_does_not_move_coverage():
    """What density and coverage were made for: a real outlier's huge ball lets everything count as precise."""
    real, far = normal(300, 4, 0), normal(300, 4, 1, shift=6)
    outlier = torch.cat([real, torch.full((1, 4), 60.0)])
    assert coverage(outlier, far).precision > coverage(real, far).precision + 0.5
    assert coverage(outlier, far).density < 0.3
