"""M²UNet: shapes, the hierarchy, patches that vote, and its bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.domain import Training
from inference.errors import BundleError
from inference.lung_crop import CropParameters
from inference.m2unet.bundle import load_m2unet, make_untrained_m2unet
from inference.m2unet.network import M2UNet, M2UNetParameters, PatchFeatures
from inference.m2unet.patches import LobeVotes, make_patch, patch_corners
from inference.system_bundle import ONE_WINDOW

SMALL = M2UNetParameters(base_channels=4, patch_px=32, stride_px=16, hidden=8)


@pytest.fixture(scope="module")
def net() -> M2UNet:
    torch.manual_seed(1)
    return M2UNet(SMALL).eval()


def test_the_default_has_unets_own_channels():
    assert M2UNetParameters().channels == (64, 128, 256, 512, 1024)
    with torch.device("meta"):
        whole = M2UNet()
        logits, found = whole(torch.zeros(2, 4, 64, 64))
    assert logits.shape == (2, 6, 64, 64)
    assert found.by_lobe.shape == (2, 5, 1024)
    assert found.share.shape == (2, 5)


def test_a_patch_gives_a_label_for_each_pixel_and_features_for_each_lobe(net):
    logits, found = net(torch.rand(3, 4, 32, 32))
    assert logits.shape == (3, 6, 32, 32)
    assert found.by_lobe.shape == (3, 5, 64)
    assert float(found.share.sum(dim=1).max().detach()) < 1.0


def test_severity_does_not_depend_on_the_order_of_patches_or_names_of_slices(net):
    _, found = net(torch.rand(6, 4, 32, 32))
    first = net.assess(found, torch.tensor([0, 0, 1, 1, 2, 2]))
    turned = PatchFeatures(found.by_lobe.flip(0), found.share.flip(0))
    again = net.assess(turned, torch.tensor([9, 9, 5, 5, 3, 3]))
    torch.testing.assert_close(first, again)


def test_a_patient_without_a_lobe_is_read_and_the_lobe_counts_nothing(net):
    _, found = net(torch.rand(4, 4, 32, 32))
    share = found.share.clone()
    share[:, 2] = 0
    one = net.assess(PatchFeatures(found.by_lobe, share), torch.arange(4))
    other = found.by_lobe.clone()
    other[:, 2] = 99.0
    two = net.assess(PatchFeatures(other, share), torch.arange(4))
    torch.testing.assert_close(one, two)
    nothing = net.assess(PatchFeatures(found.by_lobe, 0 * share), torch.arange(4))
    assert bool(torch.isfinite(nothing).all())


def test_severity_teaches_the_encoder_through_the_lobes(net):
    net.zero_grad()
    _, found = net(torch.rand(2, 4, 32, 32))
    net.assess(found, torch.arange(2))[1].backward()
    assert float(net.lobes.weight.grad.abs().sum()) > 0
    assert float(net.encoder[0][0].weight.grad.abs().sum()) > 0


def test_the_flat_reading_has_no_hierarchy():
    torch.manual_seed(0)
    flat = M2UNet(M2UNetParameters(4, 32, 16, hidden=8, hierarchy="flat")).eval()
    _, found = flat(torch.rand(4, 4, 32, 32))
    one = flat.assess(found, torch.tensor([0, 0, 0, 0]))
    torch.testing.assert_close(one, flat.assess(found, torch.tensor([0, 1, 2, 3])))


@pytest.mark.parametrize("size", [32, 40, 64, 100])
def test_patches_cover_the_whole_crop(size):
    seen = np.zeros((size, size), int)
    for top, left in patch_corners(size, SMALL):
        assert 0 <= top <= size - 32
        seen[top : top + 32, left : left + 32] += 1
    assert seen.min() >= 1


def test_a_patch_knows_where_it_lies():
    crop = np.full((64, 64), -500, np.int16)
    patch = make_patch(crop, (32, 0), 0.75, SMALL, ONE_WINDOW)
    assert patch.shape == (4, 32, 32)
    assert patch[0] == pytest.approx(0.5)
    assert patch[1].min() == -1
    assert patch[1].max() < 0
    assert patch[2].max() == 1
    assert patch[2].min() > 0
    assert patch[3] == pytest.approx(0.5)


def test_the_majority_of_overlaps_wins_and_a_tie_goes_to_the_surer_side():
    votes = LobeVotes(2)

    def say(label: int, sure: float) -> np.ndarray:
        said = np.full((6, 2, 2), (1 - sure) / 5, np.float32)
        said[label] = sure
        return said

    for label, sure in ((1, 0.5), (1, 0.5), (2, 0.99)):
        votes.add(say(label, sure), (0, 0))
    assert (votes.result()[0] == 1).all()
    votes.add(say(2, 0.99), (0, 0))
    labels, certainty = votes.result()
    assert (labels == 2).all()
    assert certainty == pytest.approx((2 * 0.1 + 2 * 0.99) / 4)


def test_a_bundle_is_read_back_and_guarded(tmp_path: Path):
    crop = CropParameters(input_size=64)
    made = make_untrained_m2unet(tmp_path / "m", 3, architecture=SMALL, crop=crop)
    loaded = load_m2unet(tmp_path / "m")
    assert loaded.manifest == made
    assert loaded.identity.training is Training.UNTRAINED
    assert not loaded.net.training
    again = make_untrained_m2unet(tmp_path / "again", 3, architecture=SMALL, crop=crop)
    assert again.weights == made.weights
    path = tmp_path / "m" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["reading"]["severe"] = 0.6
    path.write_text(json.dumps(manifest))
    assert load_m2unet(tmp_path / "m").identity.sha256 != loaded.identity.sha256
    (tmp_path / "m" / "net.safetensors").write_bytes(b"x")
    with pytest.raises(BundleError, match="altered"):
        load_m2unet(tmp_path / "m")


def test_a_bundle_whose_crop_holds_no_patch_is_refused(tmp_path: Path):
    with pytest.raises(BundleError, match="smaller than a patch"):
        make_untrained_m2unet(tmp_path, architecture=SMALL, crop=CropParameters(input_size=16))
