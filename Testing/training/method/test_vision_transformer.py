"""The vision transformer of ALDEN, on a small random one with the layout of DINOv2's files."""

from __future__ import annotations

import pytest
import torch
from objective_fixtures import seeded
from safetensors.torch import save_file
from torch.nn import functional as F

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.method.vision_transformer import (
    VisionTransformer,
    VisionTransformerFeatures,
    as_photograph,
    load_vision_transformer,
)

BLOCK = """norm1.weight norm1.bias attn.qkv.weight attn.qkv.bias attn.proj.weight attn.proj.bias ls1.gamma norm2.weight
norm2.bias mlp.fc1.weight mlp.fc1.bias mlp.fc2.weight mlp.fc2.bias ls2.gamma""".split()
"""The names of a block's tensors in the public state dicts."""


def a_state(width: int = 128, depth: int = 4, grid: int = 5) -> dict[str, torch.Tensor]:
    """Random tensors under the names of the public state dicts, the mask token that is of no use here included."""
    names = ["cls_token", "pos_embed", "mask_token", "patch_embed.proj.weight", "patch_embed.proj.bias"]
    names += [f"blocks.{n}.{name}" for n in range(depth) for name in BLOCK] + ["norm.weight", "norm.bias"]
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + grid**2, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "attn.qkv.weight": (3 * width, width),
        "attn.qkv.bias": (3 * width,),
        "attn.proj.weight": (width, width),
        "mlp.fc1.weight": (4 * width, width),
        "mlp.fc1.bias": (4 * width,),
        "mlp.fc2.weight": (width, 4 * width),
    }
    random = seeded(3)
    return {
        name: 0.2 * torch.randn(shapes.get(name, shapes.get(name.split(".", 2)[-1], (width,))), generator=random)
        for name in names
    }


@pytest.fixture
def a_file(tmp_path):
    save_file(a_state(), tmp_path / "vit.safetensors")
    return tmp_path / "vit.safetensors"


def by_hand(state, x, depths):
    """Token by token and head by head."""
    count, _, height, width = x.shape
    rows, columns = height // 14, width // 14
    kernel = state["patch_embed.proj.weight"].flatten(1)
    places = state["pos_embed"][:, 1:].reshape(1, 5, 5, -1).permute(0, 3, 1, 2)
    places = F.interpolate(places, size=(rows, columns), mode="bicubic", align_corners=False)
    y = torch.zeros(count, 1 + rows * columns, kernel.shape[0])
    y[:, 0] = state["cls_token"][0] + state["pos_embed"][:, 0]
    for r in range(rows):
        for c in range(columns):
            patch = x[:, :, 14 * r : 14 * r + 14, 14 * c : 14 * c + 14].flatten(1)
            y[:, 1 + r * columns + c] = patch @ kernel.T + state["patch_embed.proj.bias"] + places[0, :, r, c]

    def normal(y, name):
        mean, variance = y.mean(-1, keepdim=True), y.var(-1, keepdim=True, unbiased=False)
        return (y - mean) / (variance + 1e-6).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(y, name):
        return y @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    seen = []
    for n in range(4):
        b = f"blocks.{n}"
        q, k, v = linear(normal(y, f"{b}.norm1"), f"{b}.attn.qkv").chunk(3, -1)
        attended = torch.zeros_like(q)
        for head in range(2):
            part = slice(64 * head, 64 * head + 64)
            weights = (q[..., part] @ k[..., part].mT / 8).softmax(-1)
            attended[..., part] = weights @ v[..., part]
        y = y + state[f"{b}.ls1.gamma"] * linear(attended, f"{b}.attn.proj")
        hidden = linear(normal(y, f"{b}.norm2"), f"{b}.mlp.fc1")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        y = y + state[f"{b}.ls2.gamma"] * linear(hidden, f"{b}.mlp.fc2")
        if n + 1 in depths:
            seen.append(normal(y, "norm")[:, 1:])
    return seen


@pytest.mark.parametrize("sides", [(70, 70), (42, 84)])
def test_tokens_are_those_of_its_layers_one_by_one(a_file, sides):
    vit = load_vision_transformer(a_file)
    x = torch.randn(2, 3, *sides, generator=seeded())
    tokens = vit.tokens(x, (1 / 2, 3 / 4, 1.0))
    for got, wanted in zip(tokens, by_hand(a_state(), x, (2, 3, 4)), strict=True):
        assert got.shape == (2, sides[0] * sides[1] // 196, 128)
        assert torch.allclose(got, wanted, atol=1e-4)
    assert not any(p.requires_grad for p in vit.parameters())


def test_the_small_one_of_dinov2_has_as_many_parameters_as_published():
    """22,056,576 with the mask token of its training; 12 blocks, 384 channels, 37 x 37 places."""
    with torch.device("meta"):
        vit = VisionTransformer(384, 12, 1536, 14, 37)
    assert sum(p.numel() for p in vit.parameters()) == 22_056_576 - 384


def test_what_it_sees_is_the_soft_tissue_window_as_a_photograph():
    """In ImageNet's mean and deviation, clipped, with the sides of the next multiple of 14."""
    hu = torch.tensor([-1000.0, -160.0, 40.0, 240.0, 2000.0])
    images = ((hu + 1000) / 3000)[:, None, None, None].expand(-1, 1, 128, 30)
    shown = as_photograph(images, 14)
    assert shown.shape == (5, 3, 140, 42)
    for channel, (mean, sd) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        wanted = (torch.tensor([0, 0, 0.5, 1, 1]) - mean) / sd
        assert torch.allclose(shown[:, channel, 70, 20], wanted, atol=1e-5)


def test_features_have_the_gradient_of_the_image_under_autocast_too(a_file):
    features = VisionTransformerFeatures(load_vision_transformer(a_file))
    image = torch.rand(1, 1, 56, 56, generator=seeded()) / 20 + 0.32
    with torch.autocast("cpu", torch.bfloat16):
        tokens = features(image.requires_grad_())
    assert features.widths == (128, 128, 128) and [t.dtype for t in tokens] == [torch.float32] * 3
    tokens[-1][..., 0].square().sum().backward()
    assert image.grad.abs().sum() > 0


def test_a_file_without_a_transformer_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match="There is no file .*none.pth with vision transformer weights"):
        load_vision_transformer(tmp_path / "none.pth")
    state = a_state()
    cut = {name: tensor for name, tensor in state.items() if name != "blocks.2.ls2.gamma"}
    others = [cut, state | {"register_tokens": torch.zeros(1, 4, 128)}, {"a": torch.zeros(1)}, [torch.zeros(1)]]
    others.append(state | {"blocks.0.mlp.fc2.bias": torch.zeros(5)})
    for other in others:
        torch.save(other, tmp_path / "other.pth")
        with pytest.raises(InputError, match="does not hold a vision transformer with DINOv2's names"):
            load_vision_transformer(tmp_path / "other.pth")


def test_a_state_dict_of_pytorch_is_read_too(tmp_path, a_file):
    torch.save(a_state(), tmp_path / "vit.pth")
    ours = load_vision_transformer(tmp_path / "vit.pth").state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in a_state().items() if name != "mask_token")
