"""Resume: bit for bit the uninterrupted training, and refused with other settings or another set."""

from __future__ import annotations

import numpy as np
import pytest
from trainer_fixtures import (
    CPU,
    differences,
    interrupt_at,
    sha256,
)
from training_fixtures import SMALL_MAC, make_set, tiny_config

from ASCONDenoiseLib.errors import Failure, InputError
from ASCONTrainingLib.trainer.run_folder import load_checkpoint
from ASCONTrainingLib.trainer.trainer import fit


@pytest.mark.parametrize("stop", [2, 3], ids=["within an epoch", "at the end of an epoch"])
@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_training_is_the_uninterrupted_one(a_set, tmp_path, stop, workers):
    config = tiny_config(ema=0.9, doses=(0.1, 0.5), workers=workers)
    fit(config, a_set, tmp_path / "straight", device=CPU)
    with pytest.raises(KeyboardInterrupt):
        fit(config, a_set, tmp_path / "resumed", device=CPU, progress=interrupt_at(stop))
    assert load_checkpoint(tmp_path / "resumed" / "last.pt")["step"] == stop
    fit(config, a_set, tmp_path / "resumed", device=CPU, resume=True)
    for name in ("last.pt", "best.pt"):
        straight, resumed = (load_checkpoint(tmp_path / run / name) for run in ("straight", "resumed"))
        assert not differences(straight, resumed)
    assert straight["step"] in (3, 6)
    model = "ascon-pixel.safetensors"
    assert sha256(tmp_path / "straight" / model) == sha256(tmp_path / "resumed" / model)


def test_resumed_training_draws_the_reconstructions_and_partners_that_it_would_have(tmp_path):
    a_set = make_set(tmp_path / "set", ("train", "train", "validation"))
    ranges = {"pixels_mm": (0.4, 1.0), "kernel_cutoffs": (0.2, 0.8), "noise_hu": (2.0, 80.0), "doses": (0.05, 1.0)}
    config = tiny_config(**ranges, noise_cutoffs=(0.2, 0.5), lesions=3.0, unpaired=True, workers=2)
    fit(config, a_set, tmp_path / "straight", device=CPU)
    with pytest.raises(KeyboardInterrupt):
        fit(config, a_set, tmp_path / "resumed", device=CPU, progress=interrupt_at(2))
    fit(config, a_set, tmp_path / "resumed", device=CPU, resume=True)
    straight, resumed = (load_checkpoint(tmp_path / run / "last.pt") for run in ("straight", "resumed"))
    assert not differences(straight, resumed)


def test_resumed_training_with_mac_net_is_the_uninterrupted_one(a_set, tmp_path):
    """MAC-Net's online and target networks, its optimiser and the queries' random state go on too."""
    config = tiny_config(mac=SMALL_MAC, precision="bf16", epochs=1, steps_per_epoch=6, batch=1, patch=64, ema=0.9)
    fit(config, a_set, tmp_path / "straight", device=CPU)
    with pytest.raises(KeyboardInterrupt):
        fit(config, a_set, tmp_path / "resumed", device=CPU, progress=interrupt_at(3))
    halfway = load_checkpoint(tmp_path / "resumed" / "last.pt")
    fit(config, a_set, tmp_path / "resumed", device=CPU, resume=True)
    straight, resumed = (load_checkpoint(tmp_path / run / "last.pt") for run in ("straight", "resumed"))
    assert not differences(straight, resumed)
    moved = differences(halfway, resumed)
    for part in ("/mac/target.trunk.enc1.0.weight", "/mac/online.trunk.enc1.0.weight", "/random/queries"):
        assert part in moved  # or equality would prove nothing
    assert any(place.startswith("/optimizer/state") for place in moved)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seed": 3}, "seed was 0 and is 3"),
        ({"mac": SMALL_MAC, "patch": 64}, "mac"),
        ({"patch": 40}, "patch was 32 and is 40"),
    ],
)
def test_resume_with_other_settings_is_refused(a_set, tmp_path, change, what):
    fit(tiny_config(epochs=1), a_set, tmp_path / "run", device=CPU)
    before = sha256(tmp_path / "run" / "last.pt")
    with pytest.raises(InputError, match=what):
        fit(tiny_config(epochs=1, **change), a_set, tmp_path / "run", device=CPU, resume=True)
    assert sha256(tmp_path / "run" / "last.pt") == before


def test_resume_may_go_on_for_more_epochs(a_set, tmp_path):
    fit(tiny_config(epochs=1), a_set, tmp_path / "run", device=CPU)
    fit(tiny_config(epochs=2), a_set, tmp_path / "run", device=CPU, resume=True)
    assert load_checkpoint(tmp_path / "run" / "last.pt")["step"] == 6


def test_a_folder_with_a_training_is_not_overwritten(a_set, tmp_path):
    fit(tiny_config(epochs=1), a_set, tmp_path / "run", device=CPU)
    with pytest.raises(InputError, match="--resume"):
        fit(tiny_config(epochs=1), a_set, tmp_path / "run", device=CPU)


def test_resume_on_another_set_is_refused(a_set, tmp_path):
    fit(tiny_config(epochs=1), a_set, tmp_path / "run", device=CPU)
    other = make_set(tmp_path / "other", slices=5)
    with pytest.raises(InputError, match="same set"):
        fit(tiny_config(epochs=1), other, tmp_path / "run", device=CPU, resume=True)
    others = make_set(tmp_path / "others")  # as many images, of another scan
    np.save(others / "P0.ndct.npy", np.load(others / "P0.ndct.npy") + np.int16(1))
    with pytest.raises(InputError, match="100 training images.*with 100, or with others: continue with the same set"):
        fit(tiny_config(epochs=1), others, tmp_path / "run", device=CPU, resume=True)


def test_resume_keeps_the_name(a_set, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_config(), a_set, tmp_path / "run", device=CPU, name="mine", progress=interrupt_at(4))
    assert fit(tiny_config(), a_set, tmp_path / "run", device=CPU, resume=True).card.name == "mine"
    assert [path.stem for path in (tmp_path / "run").glob("*.safetensors")] == ["mine"]


def test_damaged_checkpoint_is_told(a_set, tmp_path):
    fit(tiny_config(epochs=1), a_set, tmp_path / "run", device=CPU)
    last = tmp_path / "run" / "last.pt"
    last.write_bytes(last.read_bytes()[:-300])
    with pytest.raises(Failure, match=r"last\.pt cannot be read.*best\.pt"):
        fit(tiny_config(epochs=1), a_set, tmp_path / "run", device=CPU, resume=True)
