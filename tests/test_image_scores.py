"""MS-SSIM and LPIPS: what their definitions promise, computed by hand or by another library."""

import hashlib

import pytest
import torch
import torch.nn.functional as F

from vaekit.errors import CheckpointError
from vaekit.evaluation.fidelity import SCALE_WEIGHTS, ms_ssim, ms_ssim_scales, ssim
from vaekit.networks.pretrained import lpips as lpips_module
from vaekit.networks.pretrained.lpips import HEADS, TRUNK, WIDTHS, Lpips, load_lpips, lpips_unavailable
from vaekit.networks.pretrained.weights import find_weights, read_weights


def pair(*shape, noise=0.1, seed=0):
    torch.manual_seed(seed)
    x = F.interpolate(torch.rand(shape[0], shape[1], 1 + shape[2] // 4, 1 + shape[3] // 4), shape[2:], mode="bilinear")
    return (x + noise * torch.randn_like(x)).clamp(0, 1), x


def test_ms_ssim_agrees_with_torchmetrics_scale_by_scale():
    """Theirs counts windows over a reflected border in the coarsest scale only, so that one is cut to the inside."""
    metrics = pytest.importorskip("torchmetrics.functional.image")
    y, x = pair(2, 3, 183, 200)
    expected, a, b = torch.ones(2), y, x
    for scale, weight in enumerate(SCALE_WEIGHTS):
        options = {"data_range": 1.0, "reduction": "none"}
        if scale < 4:
            _, part = metrics.structural_similarity_index_measure(a, b, return_contrast_sensitivity=True, **options)
        else:
            _, whole = metrics.structural_similarity_index_measure(a, b, return_full_image=True, **options)
            part = whole[..., 5:-5, 5:-5].mean((1, 2, 3))
        expected = expected * part**weight
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    assert ms_ssim_scales(183, 200) == 5
    assert torch.allclose(ms_ssim(y, x), expected, atol=1e-5)
    theirs = metrics.multiscale_structural_similarity_index_measure(y, x, data_range=1.0)
    assert float(ms_ssim(y, x).mean()) == pytest.approx(float(theirs), abs=0.02)


def test_ms_ssim_of_a_small_image_uses_the_scales_that_fit():
    y, x = pair(4, 1, 8, 8)
    assert torch.equal(ms_ssim(y, x), ssim(y, x))
    y, x = pair(4, 1, 28, 20)
    assert ms_ssim_scales(28, 20) == 1 and ms_ssim_scales(28, 22) == 2
    for shape in ((1, 1, 1), (3, 9, 30), (1, 28, 28), (3, 64, 48)):
        y, x = pair(3, *shape)
        assert torch.allclose(ms_ssim(x, x), torch.ones(3), atol=1e-4)
        if shape[1] > 1:
            assert torch.allclose(ms_ssim(y, x), ms_ssim(x, y), atol=1e-5)


def test_with_fewer_scales_the_weights_still_sum_to_one():
    """A darker flat image has structure 1 at every scale: only the coarsest scale's likeness counts, by its share."""
    x = torch.full((1, 1, 28, 28), 0.6)
    likeness = ssim(x / 3, x)
    share = SCALE_WEIGHTS[1] / (SCALE_WEIGHTS[0] + SCALE_WEIGHTS[1])
    assert ms_ssim_scales(28, 28) == 2
    assert torch.allclose(ms_ssim(x / 3, x), likeness**share, atol=1e-4)


def test_ms_ssim_falls_with_noise_and_forgives_it_more_than_ssim():
    scores = [float(ms_ssim(*pair(8, 1, 64, 64, noise=n)).mean()) for n in (0.02, 0.1, 0.3)]
    assert scores == sorted(scores, reverse=True)
    assert scores[1] > float(ssim(*pair(8, 1, 64, 64)).mean())  # the coarse scales average the noise away
    assert float(ms_ssim(1 - pair(2, 1, 64, 64)[1], pair(2, 1, 64, 64)[1]).max()) >= 0  # never NaN


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Random weights in the published layout."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    trunk = {f"features.{name}": value for name, value in Lpips().trunk.features.state_dict().items()}
    torch.save(trunk | {"classifier.6.bias": torch.zeros(1000)}, folder / TRUNK.name)
    heads = {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) for i, width in enumerate(WIDTHS)}
    torch.save(heads, folder / HEADS.name)
    return folder


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def lpips(files, monkeypatch):
    monkeypatch.setattr(lpips_module, "TRUNK", TRUNK._replace(sha256=sha256(files / TRUNK.name)[:8]))
    monkeypatch.setattr(lpips_module, "HEADS", HEADS._replace(sha256=sha256(files / HEADS.name)))
    return load_lpips(files)


def test_lpips_is_zero_for_equal_images_symmetric_and_grows_with_noise(lpips):
    y, x = pair(3, 3, 70, 64)
    assert torch.equal(lpips(x, x), torch.zeros(3))
    assert torch.allclose(lpips(x, y), lpips(y, x))
    distances = [float(lpips(*pair(3, 3, 64, 64, noise=n)).mean()) for n in (0.01, 0.1, 0.5)]
    assert distances == sorted(distances) and distances[0] > 0


def test_lpips_takes_grey_and_tiny_images(lpips):
    y, x = pair(2, 1, 8, 11)
    assert torch.equal(lpips(y, x), lpips(y.expand(-1, 3, -1, -1), x.expand(-1, 3, -1, -1)))
    assert bool((lpips(y, x) > 0).all())


def test_lpips_is_what_its_definition_says(lpips, files):
    """By hand, from the files: AlexNet's five rectified layers, unit length over channels, weighted squares."""
    trunk = torch.load(files / TRUNK.name, weights_only=True)
    heads = torch.load(files / HEADS.name, weights_only=True)
    y, x = pair(2, 3, 64, 80)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])

    def layers(images):
        h, found = (2 * images - 1 - shift.view(3, 1, 1)) / scale.view(3, 1, 1), []
        for index, stride, padding in ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)):
            h = F.max_pool2d(h, 3, 2) if index in (3, 6) else h
            h = F.conv2d(h, trunk[f"features.{index}.weight"], trunk[f"features.{index}.bias"], stride, padding).relu()
            found.append(h)
        return found

    total = torch.zeros(2)
    for i, (a, b) in enumerate(zip(layers(y), layers(x), strict=True)):
        difference = (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square()
        total += F.conv2d(difference, heads[f"lin{i}.model.1.weight"]).mean((1, 2, 3))
    assert torch.allclose(lpips(y, x), total, rtol=1e-4)
    assert lpips.sha256 == f"{sha256(files / HEADS.name)} {sha256(files / TRUNK.name)}"


def test_known_heads_are_the_published_ones():
    """torchmetrics carries the same file."""
    package = pytest.importorskip("torchmetrics.functional.image")
    from pathlib import Path

    path = Path(package.__file__).parent / "lpips_models" / HEADS.name
    if not path.is_file():
        pytest.skip("this torchmetrics carries no weights")
    found = read_weights(path, HEADS).tensors
    assert [found[f"lin{i}.model.1.weight"].numel() for i in range(5)] == list(WIDTHS)


def test_absent_weights_are_named_with_their_sums_and_place(tmp_path, monkeypatch):
    monkeypatch.setenv("VAEKIT_WEIGHTS", str(tmp_path))
    assert load_lpips() is None
    text = lpips_unavailable()
    assert TRUNK.url in text and HEADS.sha256 in text and "VAEKIT_WEIGHTS" in text and "\n" not in text
    (tmp_path / TRUNK.name).write_bytes(b"")
    assert TRUNK.url not in lpips_unavailable()  # only what is still missing


def test_another_file_under_the_name_is_refused(files, tmp_path):
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_lpips(files)  # random weights are not the published ones
    (tmp_path / TRUNK.name).write_bytes(b"<html>not found</html>")
    with pytest.raises(CheckpointError, match="fetch"):
        read_weights(tmp_path / TRUNK.name, TRUNK)


class Surprise:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_a_file_that_would_run_code_is_refused(tmp_path, capsys):
    torch.save({"weight": Surprise()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="no plain tensors"):
        read_weights(tmp_path / "evil.pth")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="state dict"):
        read_weights(tmp_path / "list.pth")
    assert capsys.readouterr().out == ""


def test_safetensors_stand_in_for_torch_files(files, tmp_path):
    from safetensors.torch import save_file

    save_file(torch.load(files / HEADS.name, weights_only=True), tmp_path / "alex.safetensors")
    path = find_weights(HEADS, tmp_path)
    assert path is not None
    assert torch.equal(
        read_weights(path, HEADS).tensors["lin0.model.1.weight"],
        read_weights(files / HEADS.name).tensors["lin0.model.1.weight"],
    )
