"""Tables of text against rows that are written out."""

import numpy as np

from ASCONDenoiseLib.imaging.image_quality import quality
from ASCONDenoiseLib.imaging.metrics import ABDOMEN, PAPER, compare
from ASCONDenoiseLib.reports.text_table import aligned, metrics_text, quality_tables


def test_the_table_names_window_range_and_every_number():
    reference = np.zeros((1, 16, 16), np.int16)
    both = [compare(reference, reference + 30, scale, name="LDCT") for scale in (PAPER, ABDOMEN)]
    paper, abdomen = metrics_text(both).split("\n\n")
    assert paper.splitlines()[0].startswith("paper units: window [-1000, 2000] HU, data range 1, both clipped")
    assert paper.splitlines()[1].split("  ")[-1] == "RMSE [HU]"
    assert paper.splitlines()[2].split() == ["LDCT", "40.00", f"{100 * both[0].rows[0].ssim:.2f}", "1.000", "30.00"]
    assert abdomen.startswith("abdomen units: window [-160, 240] HU, data range 400 HU")
    assert abdomen.splitlines()[2].split()[1:] == ["22.50", f"{100 * both[1].rows[0].ssim:.2f}", "30.00"]
    per_slice = metrics_text(both[:1], per_slice=True).splitlines()
    assert per_slice[2].startswith("LDCT, slice 1") and per_slice[3].startswith("LDCT ")


def test_rows_are_aligned_and_remarks_may_be_long():
    rows = [("", "ab", "c"), ("row", "1", "22"), ("no", "a remark of any length")]
    assert aligned(rows).splitlines() == ["     ab  c", "row  1   22", "no   a remark of any length"]
    assert aligned(rows, numbers=True).splitlines() == ["     ab   c", "row   1  22", "no   a remark of any length"]


def test_quality_tables_say_the_numbers(a_quality):
    noise, shifts = quality_tables(a_quality)
    assert noise.rows[0] == ("Measure", "LDCT", "Denoised", "NDCT")
    assert noise.rows[1][1:] == ("25.0", "10.0", "12.5")
    assert noise.rows[2][1:] == ("", "60", "")
    assert noise.rows[3][1:] == ("0.31", "0.27", "0.31")
    assert noise.rows[4][1:] == ("8.0", "6.3", "4.0")
    assert noise.rows[5][1:] == ("3.0", "6.2", "not measured")
    assert noise.rows[6][1:] == ("", "0.04", "")
    assert "812 windows in 40 slices" in noise.note and "23 regions" in noise.note
    assert shifts.rows[0] == ("", "NDCT [HU]", "HU shift from NDCT", "voxels")
    assert list(shifts.rows[1:]) == [("fat", "-100.0", "+0.12", "12,345"), ("bone", "612.3", "-1.50", "77")]


def test_quality_tables_without_reference_or_tissue():
    air = np.full((2, 24, 24), -1000, np.int16)
    noise, shifts = quality_tables(quality(air, air, (0.8, 0.8, 3.0)))
    assert all(len(row) == 3 for row in noise.rows)
    assert noise.rows[1] == ("Noise in soft tissue, SD [HU]", "not measured", "not measured")
    assert "No noise figure" in noise.note
    assert shifts.rows[0][1:3] == ("LDCT [HU]", "HU shift from LDCT") and shifts.rows[1][:3] == (
        "air",
        "-1000.0",
        "0.00",
    )
