"""Pictures against what each pixel must be."""

import numpy as np
import pytest
from PIL import Image

from ASCONDenoiseLib.imaging.clustering import COLOURS
from ASCONDenoiseLib.imaging.hounsfield import to_gray
from ASCONDenoiseLib.reports import pictures
from ASCONDenoiseLib.reports.pictures import Panel, side_by_side_png

BLUE, DARK, HALF_RED, RED = np.array([(178, 219, 255), (10, 10, 10), (237, 66, 41), (255, 207, 189)])  # the panel's


@pytest.fixture
def a_slice():
    """A slice large enough to be shown pixel for pixel."""
    return np.random.default_rng(0).normal(40, 60, (400, 420)).round().astype(np.int16)


def pixels(path):
    return np.asarray(Image.open(path))


def box(mask):
    """First row, first column, height and width of what is True."""
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    return rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


def test_a_large_slice_is_shown_pixel_for_pixel(tmp_path, a_slice):
    panels = [Panel("NDCT", np.full(a_slice.shape, 5000)), Panel("LDCT", a_slice, "caption")]
    shown = pixels(side_by_side_png(panels, tmp_path / "a.png", window_hu=(-160, 240)))
    top, left, height, width = box((shown == 255).all(axis=2)[:, :440])
    assert (height, width) == a_slice.shape
    second = shown[top : top + height, left + width + pictures.GAP_PX :][:, :width]
    assert (second == to_gray(a_slice, (-160, 240))[..., None]).all()


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "shown"),
    [
        ((128, 128), (0.66, 0.66), (384, 384)),
        ((512, 512), (0.7, 0.7, 3.0), (512, 512)),
        ((400, 400), (0.5, 1.25), (1000, 400)),  # rows two and a half times as far apart as columns
        ((100, 50), (1.0, 2.0), (400, 100)),  # both
        ((1, 1), (1.0, 1.0), (384, 384)),
    ],
)
def test_proportions_and_magnification(tmp_path, shape, spacing_mm, shown):
    path = side_by_side_png([Panel("", np.full(shape, 999))], tmp_path / "a.png", spacing_mm=spacing_mm)
    assert box((pixels(path) == 255).all(axis=2))[2:] == shown


def test_difference_colours_are_symmetric_and_clipped(tmp_path):
    difference = np.zeros((400, 400))
    difference[:100], difference[100:200], difference[200:300] = 250, -250, 30
    panels = [Panel("", np.full((400, 400), 5000)), Panel("difference", difference, difference=True)]
    shown = pixels(side_by_side_png(panels, tmp_path / "a.png", difference_hu=60))
    top, left, height, width = box((shown == 255).all(axis=2)[:, :430])
    column = shown[top : top + height, left + width + pictures.GAP_PX + 200].astype(int)
    assert (column[0] == RED).all()  # beyond +60
    assert (column[199] == BLUE).all()  # beyond -60
    assert (column[399] == DARK).all()  # zero
    assert (abs(column[250] - HALF_RED) <= 1).all()  # +30 HU
    bar = shown[top : top + height, left + 2 * (width + pictures.GAP_PX) + 3]
    assert (bar[0] == RED).all() and (bar[-1] == BLUE).all()
    assert (abs(bar[height // 2].astype(int) - DARK) <= 3).all()


def test_clusters_are_painted_in_their_colours(tmp_path):
    labels = np.zeros((400, 400), np.uint8)
    labels[100:200], labels[200:] = 1, 7
    image = np.full((400, 400), 240)
    panels = [Panel("", image, labels=labels), Panel("", image, labels=labels, opacity=0.25)]
    shown = pixels(side_by_side_png(panels, tmp_path / "a.png", window_hu=(-160, 240)))
    top, left, *_ = box((shown == 255).all(axis=2))
    solid, faint = (shown[top : top + 400, left + offset] for offset in (200, 200 + 400 + pictures.GAP_PX))
    for rows, label in ((slice(0, 100), 0), (slice(100, 200), 1), (slice(200, 400), 7)):
        colour = np.array(COLOURS[label - 1]) if label else np.array([255, 255, 255])
        assert (solid[rows] == colour).all()
        assert (abs(faint[rows] - (255 + 0.25 * (colour - 255.0))) <= 0.5).all()


def test_rows_of_panels_and_a_drawing_that_is_fitted_in(tmp_path):
    white, drawing = np.full((400, 500), 999), np.full((50, 100, 3), (255, 0, 0), np.uint8)
    panels = [Panel("", white), Panel("", white), Panel("", white), Panel("", drawing)]
    shown = pixels(side_by_side_png(panels, tmp_path / "a.png", columns=2))
    top, left, height, width = box((shown == 255).all(axis=2))
    assert width == 2 * 500 + pictures.GAP_PX and height > 2 * 400
    right, below = left + 500 + pictures.GAP_PX, top + height - 400
    assert box((shown == (255, 0, 0)).all(axis=2)) == (below + 75, right, 250, 500)  # twice as wide as high, centred
    assert (shown[below : below + 400, left : left + 500] == 255).all()


def test_a_long_title_stays_over_its_own_panel(tmp_path):
    image = np.full((400, 400), -2000)
    panels = [Panel("a title " * 30, image, "a caption " * 30), Panel("", image)]
    shown = pixels(side_by_side_png(panels, tmp_path / "a.png"))
    top = box(shown[..., 0] > 60)[0]
    left = pictures.MARGIN_PX + 400
    assert shown[top : top + 400, :left].any() and not shown[: top + 430, left + 1 :].any()


def test_pictures_of_other_shapes_are_refused(tmp_path):
    a, b = Panel("", np.zeros((8, 8))), Panel("", np.zeros((8, 9)))
    for panels in ([a, b], [], [Panel("", np.zeros((2, 8, 8)))]):
        with pytest.raises(ValueError, match="one shape"):
            side_by_side_png(panels, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
