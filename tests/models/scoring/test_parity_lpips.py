"""LPIPS with its real heads, on random networks: against its definition and the lpips package."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn import Conv2d, MaxPool2d, ReLU, Sequential

import brushjax
from brushjax.models.scoring.lpips import heads
from tests.support import error, nhwc
from tests.torch_reference import noise

pytestmark = pytest.mark.torch

TOLERANCE = 1e-6  # of the score; in float64 the two agree to 1e-12


class Fire(torch.nn.Module):
    """SqueezeNet's block under torchvision's names."""

    def __init__(self, width, squeezed, expanded):
        super().__init__()
        self.squeeze = Conv2d(width, squeezed, 1)
        self.expand1x1 = Conv2d(squeezed, expanded, 1)
        self.expand3x3 = Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x):
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], 1)


def alexnet(**_):
    layers = [Conv2d(3, 64, 11, 4, 2), ReLU(), MaxPool2d(3, 2), Conv2d(64, 192, 5, padding=2)]
    layers += [ReLU(), MaxPool2d(3, 2), Conv2d(192, 384, 3, padding=1), ReLU()]
    layers += [Conv2d(384, 256, 3, padding=1), ReLU(), Conv2d(256, 256, 3, padding=1), ReLU()]
    return types.SimpleNamespace(features=Sequential(*layers, MaxPool2d(3, 2)))


def squeezenet(**_):
    def pool():
        return MaxPool2d(3, 2, ceil_mode=True)

    layers = [Conv2d(3, 64, 3, 2), ReLU(), pool(), Fire(64, 16, 64), Fire(128, 16, 64), pool()]
    layers += [Fire(128, 32, 128), Fire(256, 32, 128), pool(), Fire(256, 48, 192)]
    layers += [Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)]
    return types.SimpleNamespace(features=Sequential(*layers))


def vgg16(**_):
    layers, width = [], 3
    for wanted, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [Conv2d(width, wanted, 3, padding=1), ReLU()]
            width = wanted
        layers.append(MaxPool2d(2))
    return types.SimpleNamespace(features=Sequential(*layers))


BUILDERS = {"alex": alexnet, "squeeze": squeezenet, "vgg": vgg16}
AFTER = {
    "alex": (1, 4, 7, 9, 11),
    "squeeze": (1, 4, 7, 9, 10, 11, 12),
    "vgg": (3, 8, 15, 22, 29),
}


def features(net):
    torch.manual_seed(0)
    return BUILDERS[net]().features


def distance(net, layers, a, b):
    """Equation 1 of the paper, as the package computes it: score [B] and map [B, H, W]."""
    shift = torch.tensor([-0.030, -0.088, -0.188], dtype=a.dtype)[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450], dtype=a.dtype)[:, None, None]
    x, y = (a - shift) / scale, (b - shift) / scale
    score, total, weights = 0, 0, list(heads(net))
    for number, layer in enumerate(layers[: AFTER[net][-1] + 1]):
        x, y = layer(x), layer(y)
        if number in AFTER[net]:
            one, other = (z / (z.norm(dim=1, keepdim=True) + 1e-10) for z in (x, y))
            head = torch.tensor(weights.pop(0), dtype=a.dtype)
            maps = torch.einsum("bchw,c->bhw", (one - other) ** 2, head)
            score = score + maps.mean((1, 2))
            total = (
                total
                + torch.nn.functional.interpolate(maps[:, None], a.shape[2:], mode="bilinear")[:, 0]
            )
    assert not weights
    return score, total


def load(net, layers, tmp_path):
    """Loads what torchvision publishes: a pickled state dict, with a classifier in it."""
    state = {f"features.{name}": value for name, value in layers.state_dict().items()}
    torch.save(state | {"classifier.1.weight": torch.zeros(3, 3)}, tmp_path / "net.pth")
    return brushjax.load("lpips", tmp_path / "net.pth")


@pytest.mark.parametrize("net", BUILDERS)
def test_lpips_equals_its_definition(net, tmp_path):
    layers = features(net)
    model = load(net, layers, tmp_path)
    assert model.config.net == net
    a, b = (np.clip(noise(seed, 2, 3, 40, 33), -1, 1) for seed in (0, 1))
    b[1] = a[1]
    with jax.enable_x64(True), torch.no_grad():
        nnx.update(model, jax.tree.map(lambda x: x.astype(jnp.float64), nnx.state(model)))
        ours = jax.jit(lambda model, a, b: model(a, b))(model, nhwc(a), nhwc(b))
        score, maps = distance(net, layers.double(), torch.tensor(a), torch.tensor(b))
        assert ours.score.dtype == jnp.float64
        assert error(ours.score, score) <= 1e-9
        assert error(ours.map, maps) <= 1e-9
        assert ours.score[1] == 0


@pytest.fixture
def package(monkeypatch):
    """The lpips package, with the three networks above in place of torchvision, which it imports.

    The package is no requirement: it would bring a torchvision that has to fit torch's build.
    """
    models = types.ModuleType("torchvision.models")
    models.alexnet, models.squeezenet1_1, models.vgg16 = alexnet, squeezenet, vgg16
    vision = types.ModuleType("torchvision")
    vision.models = models
    before = dict(sys.modules)
    monkeypatch.setitem(sys.modules, "torchvision", vision)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    yield pytest.importorskip("lpips", reason="pip install --no-deps lpips")
    for name in [name for name in sys.modules if name.split(".")[0] == "lpips"]:
        if name not in before:
            del sys.modules[name]


@pytest.mark.parametrize("net", BUILDERS)
def test_lpips_equals_the_package_with_its_real_heads(net, package, tmp_path):
    torch.manual_seed(0)
    reference = package.LPIPS(net=net, pnet_rand=True, verbose=False)
    slices = {}
    for part in range(1, reference.net.N_slices + 1):
        for number, module in getattr(reference.net, f"slice{part}").named_children():
            slices[number] = module
    layers = Sequential(*(slices[number] for number in sorted(slices, key=int)))
    model = load(net, layers, tmp_path)
    a, b = (np.clip(noise(seed, 1, 3, 41, 36), -1, 1).astype(np.float32) for seed in (0, 1))
    ours = jax.jit(lambda model, a, b: model(a, b).score)(model, nhwc(a), nhwc(b))
    with torch.no_grad():
        expected = reference(torch.tensor(a), torch.tensor(b)).flatten()
    np.testing.assert_allclose(ours, expected, atol=TOLERANCE, rtol=0)


def test_lpips_refuses_pictures_that_are_too_small(tmp_path):
    model = load("alex", features("alex"), tmp_path)
    small = jax.ShapeDtypeStruct((1, 9, 9, 3), jnp.float32)
    with pytest.raises(ValueError, match="32 pixels"):
        jax.eval_shape(model, small, small)


def test_lpips_refuses_another_networks_file(tmp_path):
    torch.save({"features.0.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "net.pth")
    with pytest.raises(brushjax.weights.WeightsError, match="another network"):
        brushjax.load("lpips", tmp_path / "net.pth")
