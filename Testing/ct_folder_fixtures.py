"""Folders of CT that imitate Mayo-2016, Mayo-2020 and others, and what is in a set that was made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from dicom_fixtures import make_ct_series

SHAPE = (5, 16, 24)


def some_pair(seed: int, shape=SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """(ndct, ldct) int16 HU: no two slices are alike."""
    random = np.random.default_rng(seed)
    ndct = random.integers(-1000, 1500, shape).astype(np.int16)
    return ndct, ndct + random.integers(-20, 21, shape).astype(np.int16)


def arrays_of(out: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    return np.load(out / f"{name}.ndct.npy"), np.load(out / f"{name}.ldct.npy")


def assert_holds(out: Path, name: str, ndct: np.ndarray, ldct: np.ndarray) -> None:
    for got, expected in zip(arrays_of(out, name), (ndct, ldct), strict=True):
        assert got.dtype == np.int16 and np.array_equal(got, expected)


DATES = {"full": "2015.12.22.18.09.40.840353", "quarter": "2015.12.22.18.10.55.420810"}


def as_in_the_challenge(kernel: str, thickness_mm: float, seed: int):
    """What its headers hold and lack: no patient, no description, numbers that do not follow the position."""
    numbers = np.random.default_rng(seed).permutation(100)

    def edit(dataset, k):
        dataset.PatientID = dataset.PatientName = "Anonymous"
        dataset.Manufacturer, dataset.ManufacturerModelName = "SIEMENS", "SOMATOM Definition AS+"
        dataset.ConvolutionKernel, dataset.SliceThickness = kernel, f"{thickness_mm}"
        dataset.InstanceNumber = int(numbers[k])
        del dataset.SeriesDescription

    return edit


def mayo_2016_series(folder: Path, patient: str, dose: str, voxels: np.ndarray, *, mm=1, kernel="B30f", **settings):
    """One series with the names, tags and rescale of its dose: reversed and signed at quarter dose."""
    short, sharp = {"full": "FD", "quarter": "QD"}[dose], "SHARP_" if kernel.startswith("D45") else ""
    full = dose == "full"
    settings = {"edit": as_in_the_challenge(kernel, mm, len(voxels)), "spacing_mm": (0.75, 0.75, 0.8 * mm)} | settings
    make_ct_series(
        folder,
        voxels_hu=voxels,
        file_name=f"{patient}_{short}_{mm}_{sharp}1.CT.0001.{{:04d}}.{DATES[dose]}.358074219.IMA",
        file_order=range(len(voxels)) if full else range(len(voxels))[::-1],
        signed=not full,
        intercept=-1024 if full else 0,
        bits_stored=12 if full else 16,
        **settings,
    )


def mayo_2016_tree(root: Path, patients=("L067", "L310", "L333"), reconstructions=((1, "B30f"),), shape=SHAPE) -> dict:
    """The unpacked archives; returns {(patient, mm, kernel): (ndct, ldct)}."""
    pairs = {}
    for mm, kernel in reconstructions:
        sharp = "_sharp" if kernel.startswith("D45") else ""
        base = root / "Training_Image_Data" / f"{mm}mm {kernel[:3]}"
        for patient in patients:
            seed = int(patient[1:]) * 10 + mm + len(sharp)
            pairs[patient, mm, kernel] = some_pair(seed, shape)
            for dose, voxels in zip(("full", "quarter"), pairs[patient, mm, kernel], strict=True):
                name = f"{dose}_{mm}mm{sharp}"
                mayo_2016_series(base / name / patient / name, patient, dose, voxels, mm=mm, kernel=kernel)
    projections = root / "Training_Projection_Data" / patients[0] / "DICOM-CT-PD_FD"
    projections.mkdir(parents=True)
    (projections / "L067_4L_100kv_fulldose.1.00001.dcm").write_bytes(b"no image of a slice, and never read")
    (root / "readme.txt").write_text("As delivered.")
    return pairs


FOUR = ((1, "B30f"), (1, "D45f"), (3, "B30f"), (3, "D45f"))


def as_in_the_archive(patient: str):
    def edit(dataset, k):
        dataset.PatientID = dataset.PatientName = patient
        dataset.Manufacturer = "SIEMENS"
        dataset.ConvolutionKernel, dataset.SliceThickness = ["I30f", "3"], "3"
        dataset.InstanceNumber = 500 - k

    return edit


def mayo_2020_tree(root: Path, patients=("L107", "L193", "L110"), classic=False, shape=SHAPE) -> dict:
    """What the NBIA Data Retriever writes, descriptive folder names or UIDs; returns {patient: (ndct, ldct)}."""
    collection = root / "manifest-1648648375084" / "LDCT-and-Projection-data"
    pairs = {}
    for patient in patients:
        pairs[patient] = some_pair(int(patient[1:]), shape)
        for dose, voxels in zip(("Full", "Low"), pairs[patient], strict=True):
            names = ["12-23-2021-NA-NA-62464", f"1.000000-{dose} Dose Images-{2 * int(patient[1:])}9882"]
            names = ["1.2.840.1.17", f"1.2.840.1.{len(dose)}.{patient[1:]}"] if classic else names
            make_ct_series(
                collection.joinpath(patient, *names),
                voxels_hu=voxels,
                spacing_mm=(0.8, 0.8, 3.0),
                series_description=f"{dose} Dose Images",
                intercept=-1024 if dose == "Full" else -8192,
                file_name="1-{:03d}.dcm",
                file_order=np.random.default_rng(len(dose)).permutation(len(voxels)).tolist(),
                edit=as_in_the_archive(patient),
            )
        name = "1.2.840.1.99" if classic else "1.000000-Full dose projections-24362"
        make_ct_series(
            collection / patient / "08-21-2018-10971" / name,
            shape=(1, 4, 4),
            series_description="Full dose projections",
            file_name="1-{:05d}.dcm",
            edit=as_in_the_archive(patient),
        )
    (root / "manifest-1648648375084" / "metadata.csv").write_text("Series UID,Collection\n")
    (collection / "LICENSE").write_text("Limited access.")
    return pairs
