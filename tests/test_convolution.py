"""3x3 convolutions by tiles: the same function and the same gradients as PyTorch's, where they are used."""
import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from groundwork import convolution
from groundwork.convolution import Conv3x3, convolve, kernel_gradient


def error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def made_up(batch, channels, out_channels, height, width, memory_format=torch.contiguous_format, seed=0):
    """x, and a plain convolution in float64 with its gradients: those of x, weights and bias for `gradient`."""
    generator = torch.Generator().manual_seed(seed)
    x, gradient = (torch.randn(batch, c, height, width, generator=generator).contiguous(memory_format=memory_format)
                   for c in (channels, out_channels))
    plain = nn.Conv2d(channels, out_channels, 3, padding=1).double()
    wide = x.double().requires_grad_()
    y = plain(wide)
    y.backward(gradient.double())
    return x, gradient, plain, y.detach(), wide.grad


@settings(max_examples=40, deadline=None)
@given(batch=st.integers(1, 70), channels=st.integers(1, 5), out_channels=st.integers(1, 5),
       down=st.integers(1, 5), across=st.integers(1, 150), is_last=st.booleans(), seed=st.integers(0, 99))
def test_convolution_by_tiles_is_the_convolution(batch, channels, out_channels, down, across, is_last, seed):
    batch = min(batch, max(1, 2000 // (down * across)))
    x, gradient, plain, y, x_gradient = made_up(
        batch, channels, out_channels, 4 * down, 4 * across,
        torch.channels_last if is_last else torch.contiguous_format, seed)
    weight, bias = (parameter.detach().float() for parameter in plain.parameters())
    assert error(convolve(x, weight, bias), y) < 5e-6
    assert error(convolve(gradient, weight, turned=True), x_gradient) < 5e-6
    assert error(kernel_gradient(x, gradient), plain.weight.grad) < 3e-5


@pytest.mark.parametrize("channels, batch", [(64, 2), (256, 1), (256, 8)])
def test_layers_and_their_gradients_are_those_of_pytorch(channels, batch):
    x, gradient, plain, y, x_gradient = made_up(batch, channels, channels + 16, 16, 32, torch.channels_last)
    layer = Conv3x3(channels, channels + 16)
    layer.load_state_dict(plain.state_dict())
    found = layer(x.requires_grad_())
    found.backward(gradient)
    for own, expected in ((found, y), (x.grad, x_gradient), (layer.weight.grad, plain.weight.grad),
                          (layer.bias.grad, plain.bias.grad)):
        assert error(own, expected) < 5e-6


def test_gradients_are_made_of_what_is_trained_alone():
    layer = Conv3x3(64, 64)
    layer.weight.requires_grad_(False)
    x = torch.randn(2, 64, 8, 8, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and layer.weight.grad is None and layer.bias.grad is not None


@pytest.mark.parametrize("reason, channels, size", [("few channels", 32, 8), ("no whole tiles", 64, 6),
                                                    ("dtype", 64, 8), ("autocast", 64, 8)])
def test_tiles_are_left_where_they_do_not_serve(monkeypatch, reason, channels, size):
    monkeypatch.setattr(convolution, "_tiles", None)
    layer, x = Conv3x3(channels, channels), torch.randn(1, channels, size, size)
    if reason == "dtype":
        layer, x = layer.double(), x.double()
    plain = nn.Conv2d(channels, channels, 3, padding=1).to(x.dtype)
    plain.load_state_dict(layer.state_dict())
    with torch.autocast("cpu", torch.bfloat16, enabled=reason == "autocast"):
        layer(x).float().sum().backward()
        plain(x).float().sum().backward()
    assert torch.equal(layer.weight.grad, plain.weight.grad)


def test_tiles_serve_training_and_copies(monkeypatch):
    used, made = [], convolution._tiles
    monkeypatch.setattr(convolution, "_tiles", lambda x, *rest: used.append(x) or made(x, *rest))
    layer, x = copy.deepcopy(Conv3x3(256, 256)), torch.randn(1, 256, 64, 64)
    layer(x).sum().backward()
    assert len(used) == 3       # the convolution; both factors of its weights' gradient
    with torch.no_grad():
        layer(x[:, :, :16, :16])
    assert len(used) == 3       # too few tiles
