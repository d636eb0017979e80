"""The sprites: every image is another one, whole, where its factors say; factors stay with their images."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vaekit.config.schema import DataConfig
from vaekit.data.augment import binarize, to_float
from vaekit.data.dataset import Dataset, Factors
from vaekit.data.splits import load_splits
from vaekit.data.sprites import sprites


@pytest.fixture(scope="module")
def data():
    return sprites()


def pixels(data):
    return data.images.numpy()[:, 0] > 0


def test_no_two_images_are_equal(data):
    packed = np.packbits(pixels(data).reshape(len(data), -1), axis=1)
    assert len({image.tobytes() for image in packed}) == len(data) == 3 * 4 * 10 * 12 * 12


def test_every_combination_of_factors_comes_once_and_the_class_is_the_shape(data):
    values = data.factors.values
    assert len(values.unique(dim=0)) == len(data) == np.prod(data.factors.sizes)
    assert values.amin(0).tolist() == [0] * 5
    assert (values.amax(0) + 1).tolist() == list(data.factors.sizes) == [3, 4, 10, 12, 12]
    assert data.labels.equal(values[:, data.factors.names.index("shape")])
    assert data.class_names == ("square", "ellipse", "heart") and data.factors.ordered == (False, *[True] * 4)


def test_pixels_are_0_or_1_so_that_binarising_changes_none(data):
    some = to_float(data.images[::97])
    assert set(some.unique().tolist()) == {0.0, 1.0}
    assert binarize(some, "threshold").equal(some)


def test_x_moves_to_the_right_and_y_down_by_one_pixel_and_no_sprite_is_cut(data):
    grid = pixels(data).reshape(120, 12, 12, 32, 32)
    assert np.array_equal(grid[:, 1:, :, :, 1:], grid[:, :-1, :, :, :-1])
    assert np.array_equal(grid[:, :, 1:, 1:, :], grid[:, :, :-1, :-1, :])
    assert not grid[:, :, :, [0, -1]].any() and not grid[..., [0, -1]].any()


def test_a_larger_scale_has_more_pixels_and_a_turn_keeps_about_as_many(data):
    areas = pixels(data).reshape(3, 4, 10, 144, 1024).sum(-1)[..., 0]
    assert (np.diff(areas, axis=1) > 0).all()
    assert (areas.std(2) < 0.1 * areas.mean(2)).all()


def test_a_square_turned_by_90_degrees_would_be_itself_and_the_ellipse_and_heart_would_not(data):
    upright = pixels(data).reshape(3, 4, 10, 12, 12, 32, 32)[:, 3, 0, 6, 6]
    same = [np.array_equal(np.rot90(image[6:27, 6:27]), image[6:27, 6:27]) for image in upright]
    assert same == [True, False, False]


def test_factors_follow_their_images_through_splits_limits_and_sizes(data):
    """Every image of a split is found in the grid at the place that its factors name."""
    position = np.ravel_multi_index
    splits = load_splits(DataConfig(source="sprites", binarize="threshold", limit=500, seed=3))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (500, 864, 3456)
    for part in (splits.train, splits.validation, splits.test):
        rows = position(part.factors.values.numpy().T, part.factors.sizes)
        assert np.array_equal(part.images.numpy(), data.images.numpy()[rows])
    halved = load_splits(DataConfig(source="sprites", limit=500, seed=3, size=16, validation=10, test=10)).train
    assert halved.shape == (1, 16, 16) and len(halved.factors.values) == 500


def test_a_subset_takes_the_factors_of_its_images():
    values = torch.arange(12).view(6, 2)
    data = Dataset(
        torch.zeros(6, 1, 2, 2, dtype=torch.uint8), factors=Factors(values, ("a", "b"), (12, 12), (True,) * 2)
    )
    assert data.subset(torch.tensor([4, 0])).factors.values.tolist() == [[8, 9], [0, 1]]
    assert data.subset(torch.arange(1, 3)).factors.names == ("a", "b")
    assert replace(data, factors=None).subset(torch.arange(2)).factors is None
