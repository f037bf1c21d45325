"""The patient network against attention written out in numpy."""

from __future__ import annotations

import math
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.patient_net import (
    Aggregation,
    PatientNet,
    PatientNetParameters,
    Refinement,
    split_evenly,
)

SMALL = {"feature_size": 12, "reduced_size": 8, "heads": 2, "head_dim": 3}


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def linear(layer: torch.nn.Linear, x: np.ndarray) -> np.ndarray:
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def refine(layer: Refinement, f: np.ndarray) -> np.ndarray:
    """One volume, shape (N, D), head by head."""
    d = layer.head_dim
    f1, f2, f3 = (linear(fc, f) for fc in (layer.fc1, layer.fc2, layer.fc3))
    heads = []
    for head in range(layer.heads):
        a, b, c = (x[:, head * d : (head + 1) * d] for x in (f1, f2, f3))
        if layer.attention == "slice":
            heads.append(softmax(a @ b.T / math.sqrt(d)) @ c)  # H: N x N
        else:
            heads.append(c @ softmax(a.T @ b / len(f)))  # H: d x d
    return f + linear(layer.fc4, np.concatenate(heads, axis=1))


def aggregate(layer: Aggregation, f: np.ndarray) -> np.ndarray:
    f2, f3 = linear(layer.fc2, f), linear(layer.fc3, f)
    k = layer.k.detach().numpy()
    return (softmax(k @ f2.T / math.sqrt(f2.shape[1])) @ f3)[0]


def whole_network(net: PatientNet, f: np.ndarray) -> np.ndarray:
    results = []
    for s in net.parameters_.scales:
        n = len(f)
        for part in range(s):
            start = part * n // s
            piece = f[start : max((part + 1) * n // s, start + 1)]
            for layer in net.refinements:
                piece = refine(layer, piece)
            results.append(aggregate(net.aggregation, piece))
    patient = np.maximum(linear(net.reduce, np.concatenate(results)), 0)
    return linear(net.class_head, patient)


@pytest.mark.parametrize("attention", ["slice", "feature"])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 24])
def test_agrees_with_numpy(attention, n):
    torch.manual_seed(n)
    net = PatientNet(PatientNetParameters(**SMALL, attention=attention)).eval()
    f = torch.randn(1, n, 12)
    with torch.no_grad():
        got = net(f)[0].numpy()
    assert np.allclose(got, whole_network(net, f[0].numpy()), atol=1e-5)


@pytest.mark.parametrize("attention", ["slice", "feature"])
@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_padding_a_batch_changes_nothing(attention, lengths):
    torch.manual_seed(0)
    net = PatientNet(PatientNetParameters(**SMALL, attention=attention)).eval()
    volumes = [torch.randn(n, 12) for n in lengths]
    batch = torch.full((len(lengths), max(lengths), 12), 1e3)  # padding that would be noticed
    valid = torch.zeros(batch.shape[:2], dtype=torch.bool)
    for row, volume in enumerate(volumes):
        batch[row, : len(volume)] = volume
        valid[row, : len(volume)] = True
    with torch.no_grad():
        together = net(batch, valid)
        alone = torch.cat([net(volume[None]) for volume in volumes])
    assert torch.allclose(together, alone, atol=1e-4)


@given(n=st.integers(1, 500), s=st.integers(1, 4))
def test_parts_are_even_in_order_and_leave_nothing_out(n, s):
    index, valid = split_evenly(torch.tensor([n]), s)
    parts = [index[0, i][valid[0, i]].tolist() for i in range(s)]
    sizes = [len(part) for part in parts]
    assert min(sizes) >= 1
    joined = list(chain.from_iterable(parts))
    if n >= s:
        assert joined == list(range(n))
        assert max(sizes) - min(sizes) <= 1
    else:
        assert set(joined) == set(range(n))
        assert joined == sorted(joined)


def test_order_of_slices_matters_through_the_scales_only():
    torch.manual_seed(0)
    f = torch.randn(1, 24, 12)
    one = PatientNet(PatientNetParameters(**SMALL, scales=(1,))).eval()
    four = PatientNet(PatientNetParameters(**SMALL)).eval()
    with torch.no_grad():
        assert torch.allclose(one(f), one(f.flip(1)), atol=1e-5)
        assert not torch.allclose(four(f), four(f.flip(1)), atol=1e-5)


def test_the_default_splits_512_into_8_heads_of_64():
    net = PatientNet()
    assert net.refinements[0].fc1.weight.shape == (512, 3072)
    assert net.refinements[0].fc4.weight.shape == (3072, 512)
    assert net.aggregation.k.shape == (1, 512)
    assert net.reduce.weight.shape == (512, 10 * 512)
    assert len(net.refinements) == 2
    with torch.no_grad():
        assert net(torch.zeros(2, 7, 3072)).shape == (2, 4)


def test_the_literal_reading_has_12_heads_of_512():
    parameters = PatientNetParameters(heads=12, head_dim=512, refinement_layers=1)
    with torch.device("meta"):
        net = PatientNet(parameters)
    assert net.refinements[0].fc1.weight.shape == (12 * 512, 3072)


def test_the_aggregation_alone_is_possible():
    net = PatientNet(PatientNetParameters(**SMALL, refinement_layers=0, scales=(3,)))
    assert net(torch.zeros(1, 9, 12)).shape == (1, 4)


def test_every_parameter_learns():
    net = PatientNet(PatientNetParameters(**SMALL))
    torch.nn.functional.cross_entropy(net(torch.randn(4, 9, 12)), torch.arange(4)).backward()
    assert all(p.grad is not None for p in net.parameters())
    assert net.aggregation.k.grad.abs().sum() > 0
