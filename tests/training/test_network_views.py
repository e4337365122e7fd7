"""Random views: the image's own values, drawn from the patient's own stream."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skinml.training.augment import random_views


def images(count=1, height=16, width=16, seed=0):
    return torch.randn((count, 3, height, width), generator=torch.Generator().manual_seed(seed))


def views(count, *, height=16, width=16, seed=0):
    one = images(1, height, width)
    return random_views(one.expand(count, -1, -1, -1), np.random.default_rng(seed))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 24), (7, 7), (64, 64)])
def test_a_view_has_the_images_shape_and_values(height, width):
    made = views(20, height=height, width=width)
    assert made.shape == (20, 3, height, width)
    assert torch.isin(made, images(1, height, width)).all()


def test_the_stream_decides_and_nothing_else():
    state = torch.get_rng_state()
    assert torch.equal(views(5, seed=3), views(5, seed=3))
    assert not torch.equal(views(5, seed=3), views(5, seed=4))
    assert torch.equal(torch.get_rng_state(), state)


def test_every_turn_and_flip_occurs_and_the_middle_stays_in_the_picture():
    spot = torch.zeros((1, 3, 16, 16))
    spot[0, :, 7:9, 7:9] = 1.0
    made = random_views(spot.expand(400, -1, -1, -1), np.random.default_rng(0))
    assert (made.sum(dim=(1, 2, 3)) == 12).all()
    corner = torch.arange(256.0).reshape(1, 1, 16, 16).expand(400, 3, -1, -1)
    drawn = random_views(corner, np.random.default_rng(0))
    steps = {
        (round(float(v[0, 8, 9] - v[0, 8, 8])), round(float(v[0, 9, 8] - v[0, 8, 8])))
        for v in drawn
    }
    assert steps == {(a, b) for s in (1, -1) for t in (16, -16) for a, b in ((s, t), (t, s))}


def test_the_images_themselves_stay_as_they_are():
    given = images(3)
    before = given.clone()
    random_views(given, np.random.default_rng(0))
    assert torch.equal(given, before)
