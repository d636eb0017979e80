"""Trunks for any image: shapes come back exactly, gradients reach every weight, batch rows do not mix."""

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from laws import fits, fitted

from vaekit.config.schema import ModelConfig, Part
from vaekit.errors import ConfigError
from vaekit.models.build import NETWORKS, build_model
from vaekit.networks.convolutions import ToOneChannel, TransposedConv, to_one_channel, to_one_channel_gradients
from vaekit.networks.trunks import default_widths
from vaekit.training.device import place

SHAPES = [(1, 28, 20), (3, 33, 47), (1, 8, 8), (2, 31, 32), (1, 1, 9), (4, 5, 3), (3, 64, 64)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", NETWORKS)
def test_any_shape_there_and_back_with_gradients(kind, shape):
    torch.manual_seed(0)
    if not fits(kind, shape):  # both refuse what the table says they do not take, and nothing else
        for make in (lambda: NETWORKS[kind].encoder(shape, 6), lambda: NETWORKS[kind].decoder(6, shape)):
            with pytest.raises(ConfigError, match=rf"multiples of {NETWORKS[kind].multiple}, .*; (set|choose) "):
                make()
        return
    encoder, decoder = NETWORKS[kind].encoder(shape, 6), NETWORKS[kind].decoder(6, shape)
    x = torch.rand(3, *shape)
    code = encoder(x)
    images = decoder(code)
    assert code.shape == (3, 6)
    assert images.shape == x.shape
    # twice, because the last layer of a residual block starts at zero and lets nothing through at first
    for _ in range(2):
        for p in (parameters := [*encoder.parameters(), *decoder.parameters()]):
            p.grad = None
        ((decoder(encoder(x)) - x) ** 2).sum().backward()
        with torch.no_grad():
            for p in parameters:
                assert p.grad is not None
                p -= 1e-3 * p.grad
    assert all(bool(p.grad.isfinite().all()) and bool((p.grad != 0).any()) for p in parameters)


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_pixel_of_an_odd_image_reaches_the_code(kind):
    """Nothing is cropped on the way in: changing any one pixel changes the code."""
    torch.manual_seed(0)
    shape = fitted(kind, (1, 7, 5))
    encoder = NETWORKS[kind].encoder(shape, 4).double()
    x = torch.rand(1, *shape, dtype=torch.float64, requires_grad=True)
    encoder(x).square().sum().backward()
    assert bool((x.grad != 0).all())


@pytest.mark.parametrize("kind", NETWORKS)
def test_rows_of_a_batch_do_not_mix(kind):
    torch.manual_seed(0)
    shape = fitted(kind, (1, 9, 9))
    encoder = NETWORKS[kind].encoder(shape, 4).eval()
    x = torch.rand(5, *shape)
    assert torch.allclose(encoder(x)[2:3], encoder(x[2:3]), atol=1e-5)


@pytest.mark.parametrize("kind", NETWORKS)
def test_encoder_and_decoder_take_the_same_options(kind):
    def options(factory):
        parameters = inspect.signature(factory).parameters.values()
        return {p.name: (p.annotation, p.default) for p in parameters if p.kind is p.KEYWORD_ONLY}

    assert options(NETWORKS[kind].encoder) == options(NETWORKS[kind].decoder)


def test_the_callers_widths_are_left_alone():
    widths = [16, 8]
    for kind in NETWORKS:
        if "widths" not in inspect.signature(NETWORKS[kind].encoder).parameters:
            continue
        NETWORKS[kind].encoder((1, 8, 8), 2, widths=widths)
        NETWORKS[kind].decoder(2, (1, 8, 8), widths=widths)
    assert widths == [16, 8]


def test_widths_are_used_in_order_and_mirrored():
    encoder = NETWORKS["mlp"].encoder((1, 4, 4), 2, widths=(12, 7))
    decoder = NETWORKS["mlp"].decoder(2, (1, 4, 4), widths=(12, 7))
    sizes = [m.out_features for m in encoder if isinstance(m, torch.nn.Linear)]
    mirrored = [m.out_features for m in decoder if isinstance(m, torch.nn.Linear)]
    assert sizes == [12, 7, 2]
    assert mirrored == [7, 12, 16]


def test_course_network_has_the_sizes_of_the_course():
    """1 → 32 → 64 → 128 on 32 × 32 ends at 128 · 4 · 4."""
    encoder = NETWORKS["conv"].encoder((1, 32, 32), 4, widths=(32, 64, 128))
    assert encoder[-1].in_features == 128 * 4 * 4


@pytest.mark.parametrize("block", ["plain", "residual", "gated"])
@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_options_combine(block, norm):
    x = torch.rand(4, 1, 10, 6)
    mlp = NETWORKS["mlp"].encoder((1, 10, 6), 3, widths=(8, 8), block=block)
    resnet = NETWORKS["resnet"].encoder((1, 10, 6), 3, widths=(8, 8), depth=2, norm=norm)
    conv = NETWORKS["conv"].encoder((1, 10, 6), 3, widths=(8, 8), depth=1, norm=norm)
    for network in (mlp, resnet, conv):
        assert bool(network(x).isfinite().all())


def test_default_widths_reach_about_four_pixels():
    for side in (8, 16, 28, 32, 64, 96, 128, 256):
        halvings = len(default_widths((3, side, side)))
        assert 2.5 <= side / 2**halvings <= 6


@pytest.mark.parametrize(("channels", "side"), [((6, 1), (8, 8)), ((6, 1), (7, 5)), ((3, 1), (1, 2)), ((5, 2), (4, 3))])
def test_a_transposed_convolution_is_torchs(channels, side):
    """Values and every gradient: a CPU computes one output channel by an operator of ours."""
    torch.manual_seed(0)
    layer = TransposedConv(*channels)
    x = torch.randn(3, channels[0], *side, requires_grad=True)
    results = []
    for y in (layer(x), F.conv_transpose2d(x, layer.weight, layer.bias, stride=2, padding=1)):
        results.append((y, *torch.autograd.grad(y.square().sum(), (x, layer.weight, layer.bias))))
    for ours, torchs in zip(*results, strict=True):
        assert torch.allclose(ours, torchs, rtol=1e-4, atol=1e-4)


def test_the_operators_of_one_channel_are_as_torch_wants_them():
    """A fake has the real one's shape and layout, the gradients are those of finite differences."""
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(5, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(to_one_channel, (x.detach(), weight.detach()))
    torch.library.opcheck(to_one_channel_gradients, (torch.randn(2, 1, 6, 8).double(), x.detach(), weight.detach()))
    assert torch.autograd.gradcheck(ToOneChannel.apply, (x, weight))


@pytest.mark.parametrize("name", ["conv", "resnet"])
def test_filters_laid_out_for_the_device_compute_the_same(name):
    torch.manual_seed(0)
    model = build_model(ModelConfig(latent_dim=3, network=Part(name, {"widths": (8, 16)})), (3, 12, 9))
    x = torch.rand(4, 3, 12, 9)
    plain = model.q(x).loc
    laid_out = place(copy.deepcopy(model), torch.device("cpu"))
    assert any(
        p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous() for p in laid_out.parameters()
    )
    assert torch.allclose(laid_out.q(x).loc, plain, rtol=1e-4, atol=1e-5)
