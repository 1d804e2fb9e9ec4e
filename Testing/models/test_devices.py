"""Which device a name stands for, and what is said of one that is not there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_fixtures import PointNetwork, a_noisy_volume

from ASCONDenoiseLib.models.devices import pick_device
from ASCONDenoiseLib.models.inference import denoise
from ASCONDenoiseLib.models.networks.esau_net import ESAUNet


def test_auto_without_a_gpu_is_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device() == pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cuda", "No CUDA GPU can be used"),
        ("cuda:1", "No CUDA GPU can be used"),
        ("mps", "no Apple GPU"),
        ("gpu", 'no device called "gpu"'),
        ("meta", 'no device called "meta"'),
        ("cuda:x", 'no device called "cuda:x"'),
        ("", 'no device called ""'),
    ],
)
def test_a_device_that_is_not_there_is_refused(monkeypatch, name, reason):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=reason):
        denoise(np.zeros((1, 4, 4), np.int16), PointNetwork(), device=name)


def test_a_gpu_that_fails_its_trial_is_refused_and_auto_passes_it_by(monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nand much more")

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch, "ones", fail)
    with pytest.raises(ValueError, match=r'"cuda:1" does not work with this torch \(.*no kernel image.*device\)'):
        pick_device("cuda:1")
    with pytest.raises(ValueError, match="cuda:0 to cuda:1"):
        pick_device("cuda:2")
    assert pick_device("auto") == torch.device("cpu")
    assert "no kernel image" in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_agrees_with_the_cpu():
    torch.manual_seed(0)
    network = ESAUNet()
    volume = a_noisy_volume((5, 60, 68), "float32")
    on_cpu = denoise(volume, network, device="cpu", precision="fp32")
    on_gpu = denoise(volume, network, device="cuda", precision="fp32")
    assert on_gpu.device.startswith("cuda:0 ")
    np.testing.assert_allclose(on_gpu.voxels, on_cpu.voxels, atol=0.05)
