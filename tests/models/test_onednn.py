"""Convolutions by oneDNN's operator are PyTorch's own, wherever their weights lie."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skinml.models.onednn import WITHIN, OneDnnConv2d, knows, packed


def images_of(count, channels=8, size=20, dtype=torch.float32):
    generator = torch.Generator().manual_seed(count)
    drawn = 3 * torch.randn((count, channels, size, size), generator=generator)
    return drawn.to(dtype, memory_format=torch.channels_last)


def drawn(conv):
    generator = torch.Generator().manual_seed(0)
    for each in conv.parameters():
        nn.init.normal_(each, generator=generator)
    return conv.eval().requires_grad_(False).to(memory_format=torch.channels_last)


CONVOLUTIONS = {
    "one pixel": lambda: nn.Conv2d(8, 24, 1),
    "no bias": lambda: nn.Conv2d(8, 24, 3, padding=1, bias=False),
    "stride": lambda: nn.Conv2d(8, 5, 3, stride=2, padding=(1, 2)),
    "dilation": lambda: nn.Conv2d(8, 8, 3, dilation=2),
    "channels alone": lambda: nn.Conv2d(8, 8, 5, padding=2, groups=8),
    "groups": lambda: nn.Conv2d(8, 12, 3, groups=4),
}


@pytest.mark.parametrize("what", CONVOLUTIONS)
@pytest.mark.parametrize("count", [1, 3, 16])
def test_packed_weights_convolve_any_number_of_images_as_plain_ones_do(what, count):
    conv = drawn(CONVOLUTIONS[what]())
    images = images_of(count)
    with torch.inference_mode():
        expected = conv(images)
        for found in (OneDnnConv2d(conv), packed(conv, (2, 8, 20, 20))):
            torch.testing.assert_close(found(images), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("activation", WITHIN)
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_an_activation_stays_within_when_weights_are_packed(activation, dtype, most):
    conv = drawn(nn.Conv2d(8, 24, 3, padding=1)).to(dtype)
    images = images_of(2, dtype=dtype)
    before = conv.weight.clone()
    with torch.inference_mode():
        expected = activation()(conv(images))
        got = packed(OneDnnConv2d(conv, activation), images.shape)(images)
    assert got.dtype == dtype
    torch.testing.assert_close(got, expected, rtol=0.02, atol=most)
    assert torch.equal(conv.weight, before)


@pytest.mark.parametrize("what", CONVOLUTIONS)
def test_a_result_is_added_to_what_lies_there(what):
    conv = drawn(CONVOLUTIONS[what]())
    images = images_of(3)
    with torch.inference_mode():
        onto = torch.ones_like(conv(images))
        expected = 1 + conv(images)
        for found in (OneDnnConv2d(conv), packed(conv, (2, 8, 20, 20))):
            there = onto.clone()
            got = found(images, there)
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)
            assert got.data_ptr() == there.data_ptr()


def test_who_pads_otherwise_than_with_zeros_by_pixels_is_not_known():
    assert knows(nn.Conv2d(3, 3, 3, padding=1))
    assert not knows(nn.Conv2d(3, 3, 3, padding="same"))
    assert not knows(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"))
