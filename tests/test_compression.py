"""The measuring tool of compression: its files hold the very same pixels, and every byte of them is counted."""

import io

import numpy as np
import pytest
from PIL import Image
from small_runs import SIZES

from benchmarks import compression
from benchmarks.compression import FORMATS, bits_per_value, contact_sheet, file_bytes
from vaekit import evaluate, train


def images(count, height, width, channels):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("channels", [1, 3])
def test_files_are_lossless_and_their_bytes_are_all_counted(name, channels):
    (image,) = images(1, 9, 7, channels)
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, **FORMATS[name])
    assert file_bytes(image, FORMATS[name]) == len(file.getvalue())
    back = np.asarray(Image.open(file).convert("L" if channels == 1 else "RGB"))
    assert np.array_equal(back, image.squeeze())


@pytest.mark.parametrize("count", [1, 7, 12])
def test_a_contact_sheet_holds_each_image_once_in_order(count):
    given = images(count, 3, 5, 3)
    sheet = contact_sheet(given)
    columns = sheet.shape[1] // 5
    for number, image in enumerate(given):
        row, column = divmod(number, columns)
        assert np.array_equal(sheet[3 * row : 3 * row + 3, 5 * column : 5 * column + 5], image)
    assert sheet.shape[0] // 3 * columns - count < columns


@pytest.mark.parametrize("name", FORMATS)
def test_bits_are_of_the_values_given_and_one_file_spares_the_headers(name):
    given = images(20, 6, 5, 1)
    each, together = bits_per_value(given, FORMATS[name])
    assert each == pytest.approx(8 * sum(file_bytes(image, FORMATS[name]) for image in given) / (20 * 6 * 5))
    assert 8 <= together < each  # noise is not compressed


@pytest.mark.slow
def test_a_run_is_measured_on_its_test_images(tmp_path):
    grey = ("data.binarize=none", "model.likelihood={kind: discretised-logistic-mixture, bits: 4}", "data.bits=4")
    run = train("digits", *SIZES, *grey, "data.pad=12", "training.epochs=2", out=tmp_path / "run")
    table = compression.compared(run, 3)
    assert table.rows[0][1] == f"{evaluate(run, samples=3)['bits_per_dim']:.3f}"
    values = compression.described_pixels(run)
    assert values.shape[1:] == (8, 8, 1) and values.max() == 15
