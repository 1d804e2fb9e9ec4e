"""Scatter plots and tables of clusters. That a whole folder is right is tested with the command, in test_cli.py."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ASCONDenoiseLib.imaging.clustering import COLOURS
from ASCONDenoiseLib.io.volume import Geometry
from ASCONDenoiseLib.models.feature_clusters import Cluster, Points
from ASCONDenoiseLib.reports import anatomy as anatomy_report


def a_cluster(label: int, reading: str) -> Cluster:
    return Cluster(label, reading, COLOURS[label - 1], 1000, 2.5, -99.6, 20.4, -100.4, 9.5, 17.26)


CLUSTERS = (a_cluster(1, "fat"), a_cluster(2, "a < b"))


@pytest.fixture
def two_crowds() -> Points:
    """Cluster 1 to the left and below, cluster 2 to the right and above, twice as far along x as along y."""
    rng = np.random.default_rng(0)
    xy = np.concatenate([rng.uniform(0, 1, (50, 2)), rng.uniform(0, 1, (50, 2)) + (20, 10)]).astype(np.float32)
    zeros = np.zeros(100, int)
    return Points(np.stack([zeros] * 3, axis=1), np.repeat(np.uint8([1, 2]), 50), zeros, xy)


@pytest.mark.parametrize("legend", [False, True])
def test_the_scatter_plot_has_each_cluster_in_its_place_and_colour(two_crowds, legend):
    shown = anatomy_report.scatter_picture(two_crowds, CLUSTERS, legend=legend).astype(int)
    side = anatomy_report.PLOT_PX
    assert shown.shape == (side, side + legend * anatomy_report.LEGEND_PX, 3)
    middles = []
    for cluster in CLUSTERS:
        mark = abs(shown - cluster.colour).sum(axis=2) < 30
        assert mark[:, :side].sum() > 500 and mark[:, side:].sum() == legend * 14 * 14
        middles.append(np.argwhere(mark[:, :side]).mean(axis=0))
    (row_1, column_1), (row_2, column_2) = middles
    assert column_2 - column_1 == pytest.approx(0.94 * side * 20 / 21, rel=0.03)
    assert row_1 - row_2 == pytest.approx(0.94 * side * 10 / 21, rel=0.03)  # one scale, y upwards


def test_the_drawing_says_the_same(two_crowds):
    svg = anatomy_report.scatter_svg(two_crowds, CLUSTERS)
    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="[\d.]+" fill="rgb(\([\d, ]+\))"', svg)
    assert [colour for *_, colour in circles] == [str(COLOURS[0])] * 50 + [str(COLOURS[1])] * 50
    x, y = np.array([circle[:2] for circle in circles], float).T
    assert x.max() - x.min() == pytest.approx(0.94 * anatomy_report.PLOT_PX, abs=0.2)
    assert y[:50].min() > y[50:].max()
    assert "2  a &lt; b, -100 HU" in svg and svg.count(">1</text>") == 2  # on its halo


def test_ras_is_lps_turned_round():
    geometry = Geometry((2.0, 3.0, 4.0), (10.0, 20.0, 30.0), (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0))
    np.testing.assert_array_equal(anatomy_report.to_ras(np.array([[5, 7, 1]]), geometry), [[-31, -30, 26]])
