"""Table nodes, and the rows of numbers in them."""

from __future__ import annotations

import pytest

pytest.importorskip("slicer", reason="needs slicer-core, or Slicer itself")

from ASCONDenoiseLib.scene.tables import number_rows, rows_as_text, text_table  # noqa: E402


def measured(reference: bool = True) -> dict:
    return {
        "quality": {
            "noise_before": {"sd_hu": 24.96, "windows": 200},
            "noise_after": {"sd_hu": 10.04, "windows": 200},
            "noise_reference": {"sd_hu": 12.5, "windows": 200} if reference else None,
            "noise_reduction_percent": 59.8,
            "texture_before": {"mean_frequency": 0.284, "coarse_hu": 7.96, "disc_detectability": 3.14},
            "texture_after": None,
            "texture_reference": None,
            "hu_shift": [
                {"tissue": "fat", "voxels": 10, "reference_hu": -100.0, "shift_hu": 1.26},
                {"tissue": "bone", "voxels": 10, "reference_hu": 500.0, "shift_hu": -0.04},
            ],
            "has_reference": reference,
        },
        "strength": 0.75,
        "metrics": [
            {
                "name": "LDCT",
                "mean": {"psnr_db": 29.256, "ssim": 0.8549, "rmse_hu": 103.2},
                "sd": {"psnr_db": 0.5, "ssim": 0.01, "rmse_hu": 2.0},
            },
            {
                "name": "denoised",
                "mean": {"psnr_db": None, "ssim": 1.0, "rmse_hu": 0.0},
                "sd": {"psnr_db": None, "ssim": None, "rmse_hu": None},
            },
        ]
        if reference
        else [],
    }


def test_numbers_with_a_reference():
    assert number_rows(measured()) == [
        ("Measure", "LDCT", "Denoised, 75 %", "NDCT"),
        ("Noise in soft tissue, SD [HU]", "25.0", "10.0", "12.5"),
        ("Noise removed [%]", "", "60", ""),
        ("Noise frequency [1/mm]", "0.28", "", ""),
        ("Coarse noise, below 0.15/mm, SD [HU]", "8.0", "", ""),
        ("Detectability of a disc of 6 mm and 20 HU, d'", "3.1", "", ""),
        ("PSNR [dB]", "29.26 ± 0.50", "inf", ""),
        ("SSIM x100", "85.49 ± 1.00", "100.00", ""),
        ("RMSE [HU]", "103.20 ± 2.00", "0.00", ""),
        ("HU shift from NDCT: fat", "", "+1.3", ""),
        ("HU shift from NDCT: bone", "", "0.0", ""),
    ]


def test_numbers_without_a_reference_and_in_another_language():
    words = {"Noise removed [%]": "Rauschen entfernt [%]", "fat": "Fett"}
    rows = number_rows(measured(reference=False), lambda text: words.get(text, text))
    assert rows[0] == ("Measure", "LDCT", "Denoised, 75 %")
    assert ("Rauschen entfernt [%]", "", "60") in rows and ("HU shift from LDCT: Fett", "", "+1.3") in rows
    assert not [row for row in rows if "PSNR" in row[0]]


def test_numbers_fill_a_table_node_that_can_be_exported(a_scene, tmp_path):
    rows = number_rows(measured())
    table = text_table(a_scene, "ASCON numbers", rows)
    assert (table.GetNumberOfRows(), table.GetNumberOfColumns()) == (10, 4)
    assert [table.GetColumnName(i) for i in range(4)] == list(rows[0])
    assert [tuple(table.GetCellText(r, c) for c in range(4)) for r in range(10)] == rows[1:]
    assert text_table(a_scene, "", rows[:3], table) is table and table.GetNumberOfRows() == 2
    table.AddDefaultStorageNode()
    storage = table.GetStorageNode()
    storage.SetFileName(str(tmp_path / "numbers.csv"))
    assert storage.WriteData(table)
    assert "25.0" in (tmp_path / "numbers.csv").read_text()


def test_rows_go_to_the_clipboard_with_tabs():
    assert rows_as_text([("a", "b"), ("1 ± 2", "")]) == "a\tb\n1 ± 2\t\n"
