"""Images: named sources, downloads, a decoded store, splits, and batches on the device.

`load_splits(config)` is the way in; `Batches` feeds a training loop, `vaekit.data.augment` works on its batches.
"""

from vaekit.data.batches import Batches, in_order
from vaekit.data.dataset import Dataset
from vaekit.data.sources import SOURCES
from vaekit.data.splits import Splits, load_splits

__all__ = ["SOURCES", "Batches", "Dataset", "Splits", "in_order", "load_splits"]
