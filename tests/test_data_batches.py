"""Which images a step sees is a function of (seed, step); an evaluation sees each image once."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from vaekit.data.batches import Batches, in_order
from vaekit.data.dataset import Dataset
from vaekit.data.feed import Feed
from vaekit.data.pixels import Pixels
from vaekit.data.store import map_images
from vaekit.errors import DataError


def numbered(count: int) -> Dataset:
    return Dataset(torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous())


@pytest.mark.parametrize(("count", "batch_size"), [(100, 10), (103, 10), (10, 10), (7, 10), (1, 1)])
def test_an_epoch_visits_no_image_twice_and_drops_only_a_remainder(count: int, batch_size: int) -> None:
    batches = Batches(numbered(count), batch_size, seed=0)
    assert batches.steps_per_epoch == max(1, count // batch_size)
    for epoch in (0, 5):
        start = epoch * batches.steps_per_epoch
        seen = torch.cat([batches.indices(start + step) for step in range(batches.steps_per_epoch)]).tolist()
        assert len(set(seen)) == len(seen) == batches.steps_per_epoch * min(batch_size, count)


def test_order_is_a_permutation_of_seed_and_epoch() -> None:
    orders = {(seed, epoch): Batches(numbered(50), 8, seed).order(epoch) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert all(order.sort().values.tolist() == list(range(50)) for order in orders.values())
    assert len({tuple(order.tolist()) for order in orders.values()}) == len(orders)
    batches = Batches(numbered(50), 16, 1)  # another batch size, and epochs asked for out of turn
    for epoch in (2, 0, 1, 0):
        assert batches.order(epoch).equal(orders[1, epoch])


def test_the_order_never_changes_between_versions() -> None:
    assert Batches(numbered(8), 4, seed=5).order(3).tolist() == [0, 6, 1, 3, 4, 5, 2, 7]


def test_every_image_comes_first_equally_often() -> None:
    epochs, count = 1500, 10
    batches = Batches(numbered(count), 1, seed=0)
    first = torch.stack([batches.order(epoch)[[0, -1]] for epoch in range(epochs)])
    error = (0.1 * 0.9 / epochs) ** 0.5
    for column in first.T:
        assert ((column.bincount(minlength=count) / epochs - 0.1).abs() < 4 * error).all()


@pytest.mark.parametrize("step", [0, 1, 9, 10, 37])
def test_resuming_at_any_step_gives_the_same_batches(step: int) -> None:
    whole = Batches(numbered(103), 10, seed=2)
    straight = [whole.gather(whole.indices(i)) for i in range(45)]
    resumed = Batches(numbered(103), 10, seed=2)
    assert all(resumed.gather(resumed.indices(i)).equal(straight[i]) for i in range(step, 45))
    assert whole.epoch(step) == step // 10


def test_gather_takes_the_images_that_were_asked_for() -> None:
    batches = Batches(numbered(20), 4, seed=0)
    assert batches.gather(torch.tensor([7, 0, 7]))[:, 0, 1, 1].tolist() == [7, 0, 7]


@pytest.mark.parametrize("batch_size", [1, 4, 10, 100])
def test_an_evaluation_sees_every_image_once_in_order(batch_size: int) -> None:
    seen = list(in_order(numbered(10), batch_size))
    assert [start for start, _ in seen] == list(range(0, 10, batch_size))
    assert torch.cat([batch for _, batch in seen]).equal(numbered(10).images)


def test_training_on_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="no training images"):
        Batches(numbered(0), 4, seed=0)


def test_the_hot_path_needs_only_torch_and_numpy() -> None:
    heavy = "{'PIL', 'pooch', 'sklearn', 'requests', 'pydantic', 'yaml'}"
    code = f"import sys, vaekit.data; sys.exit(str({heavy} & set(sys.modules)) if {heavy} & set(sys.modules) else 0)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


# The feed


def feed_of(data, *, resident, pixels=None):
    pixels = pixels or Pixels(binarization="fixed", flip=True, shift=1)
    return Feed(Batches(data, 16, seed=3, resident=resident), pixels, seed=5)


def test_images_fetched_ahead_are_those_of_a_resident_set_in_any_order_of_steps():
    """Forwards over two epochs, back, twice the same, far ahead: a wrong guess costs a fetch and nothing else."""
    data = Dataset(torch.randint(0, 256, (50, 3, 5, 4), dtype=torch.uint8))
    resident, ahead = feed_of(data, resident=True), feed_of(data, resident=False)
    assert resident._ahead is None and ahead._ahead is not None
    for step in [*range(7), 2, 3, 3, 0, 100, 101, 5]:
        assert torch.equal(ahead.at(step), resident.at(step)), step
        assert torch.equal(ahead.indices, resident.indices)


def test_a_step_is_augmented_by_its_own_epoch():
    data = Dataset(torch.randint(0, 256, (50, 1, 5, 4), dtype=torch.uint8))
    feed = feed_of(data, resident=True)
    for step in (0, 4, 9):
        images, indices = data.images[feed.batches.indices(step)], feed.batches.indices(step)
        epoch = torch.tensor(feed.batches.epoch(step))
        assert torch.equal(feed.at(step), feed.pixels.for_training(images, indices, epoch, 5)), step


def test_the_next_batch_is_fetched_while_this_one_is_used():
    data = Dataset(torch.randint(0, 256, (64, 1, 4, 4), dtype=torch.uint8))
    feed = feed_of(data, resident=False)
    asked = []
    plain = feed.batches.indices
    feed.batches.indices = lambda step: (asked.append(step), plain(step))[1]
    feed.load(0)
    feed._ahead._next[1].result()
    assert asked == [0, 1]
    feed.load(1)
    feed._ahead._next[1].result()
    assert asked == [0, 1, 2]


def test_a_feed_of_a_memory_mapped_file_leaves_it_on_the_disk(tmp_path):
    """Its batches come from the file, and no copy of the whole set is made."""
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (300, 1, 8, 8), dtype=np.uint8))
    mapped = map_images(path)
    feed = feed_of(Dataset(mapped), resident=False, pixels=Pixels())
    assert feed.batches.images.data_ptr() == mapped.data_ptr()
    images = feed.at(4)
    assert torch.equal((images * 255).round().to(torch.uint8), mapped[feed.batches.indices(4)])


def test_a_failure_of_the_reading_thread_reaches_the_caller():
    feed = feed_of(Dataset(torch.zeros(64, 1, 4, 4, dtype=torch.uint8)), resident=False)
    feed.load(0)
    feed._ahead._next[1].result()

    def fail(step):
        raise OSError("the disk went away")

    feed.batches.indices = fail
    feed.load(1)
    with pytest.raises(OSError, match="the disk went away"):
        feed.load(2)
