"""Tables that are as high as their rows: the panel scrolls, not the table in it."""

from __future__ import annotations

from collections.abc import Sequence

import qt


def fillTable(
    table: qt.QTableWidget, rows: Sequence[Sequence[str]], colors: Sequence[Sequence[float]] | None = None
) -> None:
    """Shows rows of text; hides the table where there are none.

    Args:
        table: the widget.
        rows: the header first.
        colors: RGB, 0 to 1, of each row but the header.
    """
    table.visible = bool(rows)
    if not rows:
        return
    table.setRowCount(len(rows) - 1)
    table.setColumnCount(len(rows[0]))
    table.setHorizontalHeaderLabels(list(rows[0]))
    for r, row in enumerate(rows[1:]):
        for c, text in enumerate(row):
            table.setItem(r, c, qt.QTableWidgetItem(text))
        if colors:
            table.item(r, 0).setIcon(_patch(colors[r]))
    table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
    table.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
    qt.QTimer.singleShot(0, lambda: _fitHeight(table))  # when the columns have their widths


def _fitHeight(table: qt.QTableWidget) -> None:
    if not table:  # closed in the meantime
        return
    table.resizeRowsToContents()
    table.setFixedHeight(table.verticalHeader().length() + table.horizontalHeader().height + 4)


def _patch(color: Sequence[float]) -> qt.QIcon:
    pixmap = qt.QPixmap(14, 14)
    pixmap.fill(qt.QColor(*(round(255 * value) for value in color)))
    return qt.QIcon(pixmap)
