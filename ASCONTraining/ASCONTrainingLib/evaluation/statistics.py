"""Whether one method is better than others, tested on patients.

Slices of one patient resemble each other, and a test that takes them for independent finds differences everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PairedTest:
    """The first method against another, on means of each patient: Wilcoxon's signed-rank test, two-sided.

    Attributes:
        other: name of the other method.
        patients: number of patients.
        better: patients on whom the first method has the higher mean.
        difference_db: mean over patients of first - other.
        p: nan with fewer than two patients.
        p_holm: corrected for the number of tests, as Holm does it.
        smallest_p: the smallest p that so many patients can give; nan for one.
    """

    other: str
    patients: int
    better: int
    difference_db: float
    p: float
    p_holm: float
    smallest_p: float


def paired_tests(first: Mapping[str, float], others: Mapping[str, Mapping[str, float]]) -> tuple[PairedTest, ...]:
    """Test one method against each other one, with Holm's correction.

    Args:
        first: patient -> PSNR in dB of the one method.
        others: name of each other method -> the same.
    """
    differences = {name: np.array([first[p] - theirs[p] for p in first]) for name, theirs in others.items()}
    p_values = {name: signed_rank_p(values) for name, values in differences.items()}
    corrected = holm(p_values)
    count = len(first)
    smallest_p = 2.0 ** (1 - count) if count > 1 else math.nan
    return tuple(
        PairedTest(
            name, count, int((values > 0).sum()), float(values.mean()), p_values[name], corrected[name], smallest_p
        )
        for name, values in differences.items()
    )


def signed_rank_p(differences: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; nan for fewer than two differences that are not 0."""
    from scipy.stats import wilcoxon

    if np.count_nonzero(differences) < 2:
        return math.nan
    return float(wilcoxon(differences).pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction (Scand J Stat 6:65, 1979): the k-th smallest of n times n - k + 1, never falling; nan stays."""
    known = sorted((name for name, p in p_values.items() if not math.isnan(p)), key=p_values.__getitem__)
    corrected, largest = {name: math.nan for name in p_values}, 0.0
    for k, name in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - k) * p_values[name]))
        corrected[name] = largest
    return corrected
