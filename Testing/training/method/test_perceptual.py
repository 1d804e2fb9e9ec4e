"""VGG-19 features: layers, weight files, the loss."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.method.perceptual import VGG19, load_vgg19, perceptual_loss


@pytest.fixture(scope="module")
def a_vgg():
    torch.manual_seed(0)
    return VGG19()


def test_the_layers_are_those_of_vgg_19(a_vgg):
    """Names as weight files have them; 20,024,384 parameters in the 16 convolutions."""
    names = [f"features.{n}" for n in (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)]
    assert list(a_vgg.state_dict()) == [f"{name}.{what}" for name in names for what in ("weight", "bias")]
    assert sum(p.numel() for p in a_vgg.parameters()) == 20_024_384
    assert not any(p.requires_grad for p in a_vgg.parameters())


def test_features_are_those_of_its_convolutions_one_by_one(a_vgg):
    x = torch.rand(1, 1, 32, 48)
    y = torch.cat([(x - mean) / sd for mean, sd in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))], 1)
    tensors, maps = iter(a_vgg.state_dict().values()), a_vgg(x)
    for convolutions, found in zip((2, 2, 4, 4, 4), maps, strict=True):
        for _ in range(convolutions):
            y = F.conv2d(y, next(tensors), next(tensors), padding=1).relu()
        assert torch.allclose(found, y, atol=1e-6) and (found > 0).any()
        y = F.max_pool2d(y, 2)
    assert [m.shape[1:] for m in maps] == [(64, 32, 48), (128, 16, 24), (256, 8, 12), (512, 4, 6), (512, 2, 3)]


def test_the_loss_is_the_sum_of_the_mean_squares_of_five_maps_and_moves_only_the_denoised(a_vgg):
    denoised, ndct = (x.requires_grad_() for x in torch.rand(2, 1, 1, 32, 32).unbind())
    loss = perceptual_loss(a_vgg, denoised, ndct)
    by_hand = [((a - b) ** 2).mean().item() for a, b in zip(a_vgg(denoised), a_vgg(ndct), strict=True)]
    assert loss.item() == pytest.approx(sum(by_hand), rel=1e-5) and len(by_hand) == 5
    assert perceptual_loss(a_vgg, ndct, ndct).item() == 0
    loss.backward()
    assert denoised.grad.abs().sum() > 0 and ndct.grad is None


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_come_from_a_file_with_or_without_its_classifier(tmp_path, a_vgg, suffix):
    path = tmp_path / f"vgg19{suffix}"
    state = {**a_vgg.state_dict(), "classifier.0.bias": torch.zeros(3)}
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    loaded = load_vgg19(path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in a_vgg.state_dict().items())


class Trap:
    def __reduce__(self):
        return print, ("this ran",)


def test_files_that_are_none_are_refused_in_a_sentence(tmp_path, a_vgg, capsys):
    with pytest.raises(InputError, match="There is no file .*none.pth"):
        load_vgg19(tmp_path / "none.pth")
    path = tmp_path / "text.safetensors"
    path.write_text("not tensors")
    with pytest.raises(InputError, match="text.safetensors cannot be read"):
        load_vgg19(path)
    torch.save({"features.0.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(InputError, match="trap.pth cannot be read"):
        load_vgg19(tmp_path / "trap.pth")
    assert "this ran" not in capsys.readouterr().out
    for other in ({"features.0.weight": torch.zeros(64, 3, 3, 3)}, [torch.zeros(1)]):
        torch.save(other, tmp_path / "other.pth")
        with pytest.raises(InputError, match="does not hold the convolutions of a VGG-19"):
            load_vgg19(tmp_path / "other.pth")
