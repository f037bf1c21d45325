"""The slice network, layer by layer against arithmetic by hand."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18, resnet50

from inference.domain import BoundingBox
from inference.errors import BundleError
from inference.lesion_map import location_map, to_source_grid
from inference.slice_net import (
    SliceNet,
    SliceNetParameters,
    coordinate_maps,
    load_imagenet_weights,
)
from inference.windowing import apply_window


@pytest.fixture
def net() -> SliceNet:
    torch.manual_seed(0)
    made = SliceNet(SliceNetParameters(backbone="resnet18")).eval()
    for module in made.modules():  # statistics that folding must respect
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return made


def test_the_papers_shapes():
    net = SliceNet().eval()
    assert net.layer4[0].conv1.in_channels == 1028
    assert net.lesion_head.weight.shape == (2, 1024)
    assert net.class_head.weight.shape == (4, 2048)
    with torch.inference_mode():
        out = net(torch.zeros(1, 3, 512, 512))
    assert out.features.shape == (1, 3072)
    assert out.lesion_logits.shape == (1, 2)
    assert out.class_logits.shape == (1, 4)
    assert out.location.shape == (1, 1, 32, 32)


def test_forward_step_by_step(net):
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        out = net(x)
        f3 = net.layer3(net.layer2(net.layer1(net.stem(x))))
        weight, bias = net.lesion_head.weight, net.lesion_head.bias
        scores = np.einsum("bdhw,kd->bkhw", f3.numpy(), weight.numpy())
        scores += bias.numpy()[None, :, None, None]
        lesion = np.exp(scores[:, 1]) / np.exp(scores).sum(axis=1)
        grid = np.linspace(-1, 1, 4)
        y, x_ = np.meshgrid(grid, grid, indexing="ij")
        coordinates = np.stack([x_, y, np.hypot(x_, y)])[None].repeat(2, axis=0)
        joined = torch.cat(
            [f3, torch.from_numpy(lesion)[:, None], torch.from_numpy(coordinates).float()], dim=1
        )
        f4 = net.layer4(joined)
        features = torch.cat([f3.mean((2, 3)), f4.mean((2, 3))], dim=1)
    assert np.allclose(out.location[:, 0], lesion, atol=1e-6)
    assert torch.allclose(out.features, features, atol=1e-6)
    assert torch.allclose(out.class_logits, net.class_head(f4.mean((2, 3))), atol=1e-6)
    # linear scores: their mean over all locations is the head's own logit
    assert np.allclose(scores.mean(axis=(2, 3)), out.lesion_logits.detach(), atol=1e-5)


def test_predicted_mode_is_cosine_similarity_to_the_predicted_prototype():
    torch.manual_seed(0)
    feature, weight, bias = torch.rand(3, 8, 2, 2), torch.randn(2, 8), torch.randn(2)
    got = location_map(feature, weight, bias, "predicted").numpy()
    for item in range(3):
        f = feature[item].numpy()
        logits = weight.numpy() @ f.mean(axis=(1, 2)) + bias.numpy()
        prototype = weight.numpy()[np.argmax(logits)]
        for row, column in itertools.product(range(2), range(2)):
            vector = f[:, row, column]
            cosine = vector @ prototype / np.linalg.norm(vector) / np.linalg.norm(prototype)
            assert got[item, 0, row, column] == pytest.approx((cosine + 1) / 2, abs=1e-6)


def test_a_slice_without_lesion_stays_dark_in_lesion_mode_and_lights_up_in_predicted():
    weight = torch.tensor([[4.0, 0.0], [0.0, 4.0]])  # first feature healthy, second lesion
    healthy = torch.tensor([1.0, 0.0])[None, :, None, None].expand(1, 2, 3, 3)
    bias = torch.zeros(2)
    assert location_map(healthy, weight, bias, "lesion").max() < 0.02
    assert location_map(healthy, weight, bias, "predicted").min() > 0.99


def test_coordinates_are_x_y_and_distance():
    maps = coordinate_maps(torch.zeros(2, 5, 3, 5))[1]
    assert maps[0, 0].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert maps[1, :, 0].tolist() == [-1, 0, 1]
    assert maps[2, 0, 0] == pytest.approx(2**0.5)
    assert maps[2, 1, 2] == 0


@pytest.mark.parametrize(
    ("multitask", "attention", "coordinates", "extra"),
    [(False, False, False, 0), (True, False, False, 0), (True, True, False, 1),
     (True, False, True, 3), (True, True, True, 4), (False, False, True, 3)],
)  # fmt: skip
def test_the_ablations_can_be_built(multitask, attention, coordinates, extra):
    net = SliceNet(SliceNetParameters("resnet18", multitask, attention, coordinates)).eval()
    assert net.layer4[0].conv1.in_channels == 256 + extra
    out = net(torch.zeros(1, 3, 64, 64))
    assert (out.lesion_logits is not None) == multitask
    assert out.class_logits.shape == (1, 4)


def test_attention_needs_the_lesion_head():
    with pytest.raises(ValueError, match="multitask"):
        SliceNetParameters(multitask=False)


def test_the_class_loss_teaches_the_prototypes_through_the_attention(net):
    net.train()
    net(torch.randn(2, 3, 64, 64)).class_logits.sum().backward()
    assert net.lesion_head.weight.grad.abs().sum() > 0


# --- ImageNet weights


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_imagenet_weights_start_the_network_as_imagenets(tmp_path, suffix):
    torch.manual_seed(1)
    source = resnet18(weights=None).eval()
    path = tmp_path / f"resnet18{suffix}"
    if suffix == ".pth":
        torch.save(source.state_dict(), path)
    else:
        save_file(source.state_dict(), path)
    net = SliceNet(SliceNetParameters(backbone="resnet18")).eval()
    load_imagenet_weights(net, path, hashlib.sha256(path.read_bytes()).hexdigest())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        y = source.maxpool(source.relu(source.bn1(source.conv1(x))))
        y = source.layer4(source.layer3(source.layer2(source.layer1(y))))
        assert torch.allclose(net(x).features[:, 256:], y.mean((2, 3)), atol=1e-5)


def test_a_file_of_another_network_changes_nothing(tmp_path):
    path = tmp_path / "resnet50.pth"
    torch.save(resnet50(weights=None).state_dict(), path)
    net = SliceNet(SliceNetParameters(backbone="resnet18"))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(BundleError, match=r"resnet50\.pth"):
        load_imagenet_weights(net, path)
    assert all(torch.equal(before[n], v) for n, v in net.state_dict().items())


def test_an_altered_or_missing_file_is_refused(tmp_path):
    path = tmp_path / "w.pth"
    with pytest.raises(BundleError, match=r"w\.pth cannot be read"):
        load_imagenet_weights(SliceNet(SliceNetParameters(backbone="resnet18")), path)
    path.write_bytes(b"weights")
    with pytest.raises(BundleError, match="sha256"):
        load_imagenet_weights(SliceNet(SliceNetParameters(backbone="resnet18")), path, "0" * 64)


class _Evil:
    def __reduce__(self):
        return (print, ("code of a weights file ran",))


def test_a_pickle_with_code_is_refused(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    torch.save({"conv1.weight": _Evil()}, path)
    with pytest.raises(BundleError, match=r"evil\.pth"):
        load_imagenet_weights(SliceNet(SliceNetParameters(backbone="resnet18")), path)
    assert "ran" not in capsys.readouterr().out


# --- windows


def test_the_window_is_affine_and_clipped():
    hu = np.array([-1300, -1200, -600, 0, 100], dtype=np.int16)
    assert apply_window(hu, -600, 1200).tolist() == [0, 0, 0.5, 1, 1]
    assert apply_window(np.array([-700]), -700, 1200).tolist() == [0.5]


# --- back on the slice


def test_maps_come_back_inside_their_boxes():
    maps = np.zeros((2, 4, 4), dtype=np.float32)
    maps[0, 0, 0] = 1.0  # top left corner of the crop
    maps[1] = 0.25
    out = np.zeros((2, 50, 60), dtype=np.float16)
    boxes = [BoundingBox(10, 20, 30, 60), BoundingBox(0, 0, 8, 8)]
    to_source_grid(maps, boxes, list(out))
    assert out[0, 10, 20] == 1.0
    assert out[0, 29, 59] == 0.0
    assert out[0, :10].max() == 0
    assert out[0, :, :20].max() == 0
    assert np.all(out[1, :8, :8] == 0.25)
    assert out[1].sum() == pytest.approx(64 * 0.25)
    # the middle of the first cell of 5 x 10 pixels is the middle of its block
    assert out[0, 10:12, 20:24].min() > 0.9
