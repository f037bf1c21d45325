"""JCS: shapes at every level, the explanation's scale, frozen norms, and its bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from inference.errors import BundleError
from inference.jcs.bundle import SliceReading, load_jcs, make_untrained_jcs
from inference.jcs.network import JcsNet, JcsParameters
from inference.jcs.res2net import Res2Net, Res2NetParameters
from inference.lung_crop import CropParameters

SMALL = JcsParameters(
    res2net=Res2NetParameters(blocks=(1, 1, 1, 1), stem_channels=4, width=26, scales=4),
    classifier_px=32,
    vgg_base=4,
    frozen_norms=False,
)


@pytest.fixture(scope="module")
def net() -> JcsNet:
    torch.manual_seed(1)
    return JcsNet(SMALL).eval()


def test_the_default_is_the_published_network():
    with torch.device("meta"):
        levels = Res2Net(Res2NetParameters())(torch.zeros(1, 3, 224, 224))
        whole = JcsNet()
    assert [tuple(level.shape[1:]) for level in levels] == [
        (64, 112, 112), (256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7),
    ]  # fmt: skip
    classifier = sum(p.numel() for p in whole.classifier.parameters())
    assert 42e6 < classifier < 46e6  # Res2Net-101 26w x 4s has 45 million with 1000 classes
    vgg = sum(p.numel() for p in whole.vgg.parameters())
    assert vgg == 14_723_136  # VGG-16 with batch norm, without its classifier


def test_segmentation_has_five_outputs_of_the_inputs_size(net):
    outputs = net(torch.rand(2, 3, 64, 64))
    assert [tuple(one.shape) for one in outputs] == [(2, 64, 64)] * 5


def test_levels_have_the_published_strides(net):
    x = torch.rand(1, 3, 64, 64)
    sizes = []
    for number in range(5):
        x = net.vgg.level(number, x)
        sizes.append(x.shape[-1])
    assert sizes == [64, 32, 16, 8, 8]  # the fourth pooling is skipped
    e5, e6 = net.enhance(x)
    assert (e5.shape[-1], e6.shape[-1]) == (8, 4)


def test_the_explanation_has_a_fixed_scale_and_agrees_with_the_class(net):
    logits, levels = net.classifier(torch.rand(2, 3, 64, 64))
    shown = net.classifier.explanation(levels[-1])
    assert shown.shape == (2, 1, 1)
    # One place only: its score is the slice's.
    torch.testing.assert_close(shown[:, 0, 0], logits.softmax(dim=1)[:, 1])


def test_the_parts_stand_alone_without_the_bridge():
    torch.manual_seed(0)
    alone = JcsNet(JcsParameters(SMALL.res2net, 32, 4, frozen_norms=False, joint=False))
    assert alone.bridges is None
    sum(out.sum() for out in alone(torch.rand(2, 3, 32, 32))).backward()
    assert alone.classifier.head.weight.grad is None
    joined = JcsNet(SMALL)
    missing = set(joined.state_dict()) - set(alone.state_dict())
    assert missing
    assert all(name.startswith("bridges") for name in missing)


def test_frozen_norms_stay_as_they_are():
    torch.manual_seed(0)
    frozen = JcsNet(JcsParameters(SMALL.res2net, 32, 4, frozen_norms=True)).train()
    before = frozen.vgg.levels[0][1].running_mean.clone()
    frozen(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(frozen.vgg.levels[0][1].running_mean, before)
    assert not frozen.vgg.levels[0][1].weight.requires_grad
    assert frozen.vgg.levels[0][0].weight.requires_grad


def test_a_patient_is_positive_above_eighteen_slices_or_their_share():
    reading = SliceReading()
    assert reading.allowed(192) == 18
    assert reading.allowed(384) == 36
    assert reading.allowed(24) == 2
    assert reading.allowed(1) == 0


def test_a_bundle_is_read_back_and_guarded(tmp_path: Path):
    crop = CropParameters(input_size=64)
    made = make_untrained_jcs(tmp_path / "j", 3, architecture=SMALL, crop=crop)
    loaded = load_jcs(tmp_path / "j")
    assert loaded.manifest == made
    assert loaded.identity.lesion_threshold == 0.5
    again = make_untrained_jcs(tmp_path / "again", 3, architecture=SMALL, crop=crop)
    assert again.weights == made.weights
    path = tmp_path / "j" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["system"] = "m2unet"
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="system"):
        load_jcs(tmp_path / "j")
    manifest |= {"system": "jcs", "negative": ["covid19"]}
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="positive and negative"):
        load_jcs(tmp_path / "j")
