"""The status page of a node: what waits, runs, is done or failed; health and metrics. For this computer, say."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pydicom

from ASCONDenoiseLib import __version__
from ASCONDenoiseLib.node import ledger as states
from ASCONDenoiseLib.node.config import Destination
from ASCONDenoiseLib.node.ledger import Series
from ASCONDenoiseLib.node.metrics import exposition
from ASCONDenoiseLib.node.ports import cannot_listen
from ASCONDenoiseLib.node.service import Node

logger = logging.getLogger(__name__)

SHOWN, PICTURES = 100, 2
"""Series in the table, and the last ones whose pictures are shown."""

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem; color: #1d2733; }
h1 { font-size: 1.3rem } h2 { font-size: 1.05rem; margin-top: 2rem } p.bad { color: #a11 }
table { border-collapse: collapse; width: 100% } th { text-align: left; font-weight: 600; color: #567 }
td, th { padding: .3rem .6rem .3rem 0; border-bottom: 1px solid #e3e8ee; vertical-align: top }
td:last-child { overflow-wrap: anywhere }
.uid { font: 11px ui-monospace, monospace; color: #789; white-space: nowrap } time { white-space: nowrap }
.counts b { font-size: 1.5rem; display: block } .counts span { display: inline-block; min-width: 7rem; color: #567 }
.state { font-weight: 600 } .failed { color: #a11 } .done { color: #177245 } .denoising, .sending { color: #1b5fa8 }
.counts .bad, .counts .bad b { color: #a11 } progress { width: 6rem }
.pictures { display: flex; gap: 1rem } figure { margin: 0; flex: 0 1 50% } figcaption { color: #567 }
img { max-width: 100% }
"""


class StatusPage:
    """Served from `start` to `stop`: /, /health, /metrics and /picture/NUMBER.png."""

    def __init__(self, node: Node):
        self._node = node
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Raises InputError where it cannot be served there."""
        page = self._node.config.page
        handler = type("_Handler", (_Handler,), {"node": self._node})
        try:
            self._server = ThreadingHTTPServer((page.address, page.port), handler)
        except (OSError, OverflowError) as error:
            raise cannot_listen("The status page", page.address, page.port, error) from None
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="page", daemon=True).start()
        logger.info("status page: http://%s:%d", page.address, page.port)

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    node: Node

    def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
        path = self.path.partition("?")[0]
        if path == "/":
            self._answer(200, "text/html; charset=utf-8", html(self.node).encode())
        elif path == "/health":
            facts = health(self.node)
            self._answer(200 if facts["ok"] else 503, "application/json", json.dumps(facts).encode())
        elif path == "/metrics":
            self._answer(200, "text/plain; version=0.0.4; charset=utf-8", exposition(self.node))
        elif match := re.fullmatch(r"/picture/(\d{1,12})\.png", path):
            self._picture(int(match[1]))
        else:
            self._answer(404, "text/plain", b"There is no such page.")

    def _picture(self, number: int) -> None:
        found = [one for one in self.node.ledger.latest(SHOWN) if one.number == number]
        try:
            self._answer(200, "image/png", self.node.picture(found[0]).read_bytes())
        except (IndexError, OSError):
            self._answer(404, "text/plain", b"There is no picture of it.")

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", "default-src 'self'; style-src 'unsafe-inline'")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing: who looks at the page is no news."""


def health(node: Node) -> dict[str, object]:
    """Facts for a machine that watches; `ok` is False where the node cannot do its work."""
    stopped, free = node.alive(), node.intake.free_bytes()
    full = free < node.config.storage.least_free_gb * 1e9
    return {
        "ok": not stopped and not full,
        "version": __version__,
        "stopped": stopped,
        "disk_full": full,
        "free_bytes": free,
        "series": node.ledger.counts(),
    }


def html(node: Node) -> str:
    """The page."""
    latest, counts, facts = node.ledger.latest(SHOWN), node.ledger.counts(), health(node)
    listen = node.config.listen
    bad = ' class="bad"' if counts[states.FAILED] else ""
    counted = "".join(
        f"<span{bad if state == states.FAILED else ''}><b>{counts[state]}</b>{state}</span>" for state in states.STATES
    )
    trouble = [f"A part of the node has stopped: {', '.join(node.alive())}."] if facts["stopped"] else []
    trouble += ["The disk is full: senders are told so."] if facts["disk_full"] else []
    speed = node.speed()
    pictures = "".join(_figure(one) for one in [one for one in latest if node.picture(one).is_file()][:PICTURES])
    parts = [
        f"<h1>ASCON node {escape(listen.ae_title)} at port {listen.port}</h1>",
        *(f'<p class="bad">{escape(sentence)}</p>' for sentence in trouble),
        f'<p class="counts">{counted}</p>',
        f"<p>{node.intake.free_bytes() / 1e9:.1f} GB free, {node.open_associations()} open associations"
        + (f", {speed:.2g} slices a second" if speed else "")
        + f". Version {__version__}. For research only, not for diagnosis.</p>",
        "<h2>Destinations</h2>",
        _table(
            ("name", "AE title", "series waiting", "last fault"), [_row(node, one) for one in node.config.destinations]
        ),
        *(["<h2>Last pictures</h2>", f'<div class="pictures">{pictures}</div>'] if pictures else []),
        f"<h2>Series{f', the last {SHOWN}' if len(latest) == SHOWN else ''}</h2>",
        _series_table(node, latest),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">'
        f"<title>ASCON node</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )


def _row(node: Node, destination: Destination) -> list[str]:
    waiting = node.ledger.deliveries(destination.name)
    fault = next((one.note for one in waiting if one.note), "")
    place = f"{destination.ae_title} at {destination.host}:{destination.port}{' with TLS' if destination.tls else ''}"
    return [escape(destination.name), escape(place), str(len(waiting)), escape(fault)]


def _series_table(node: Node, latest: list[Series]) -> str:
    heads = ["no.", "came", "series", "from", "images", "state", ""]
    rows = []
    for one in latest:
        description = one.facts.known.get("series_description", "")
        state = f'<span class="state {one.state.replace(" ", "-")}">{one.state}</span>'
        if node.progress is not None and node.progress[0] == one.series_uid:
            _, done, total = node.progress
            state += f' <progress value="{done}" max="{total}"></progress> {done}/{total}'
        rows.append(
            [
                str(one.number),
                f"<time>{time.strftime('%Y-%m-%d %H:%M', time.localtime(one.came_at))}</time>",
                f'{escape(description)}<br><span class="uid">{escape(one.series_uid)}</span>',
                escape(one.facts.sender),
                str(one.objects or one.record.get("slices", 0)),
                state,
                escape(_told(node, one).replace(f"{one.series_uid} ", "")),  # it stands in the row already
            ]
        )
        if node.config.page.patient_names:
            rows[-1].insert(2, escape(_patient(node, one)))
    if node.config.page.patient_names:
        heads.insert(2, "patient")
    return _table(heads, rows)


def _told(node: Node, one: Series) -> str:
    """What must be said of a series."""
    if one.state == states.SENDING:
        notes = [f"{d.destination}: {d.sent} sent. {d.note}" for d in node.ledger.all_deliveries(one.series_uid)]
        return " ".join([one.note, *notes]).strip()
    if one.state == states.DONE and one.record:
        seconds = one.record.get("seconds", 0)
        return f"{one.record['model']}, strength {one.strength:g}, {seconds:.1f} s. {one.note}".strip()
    return one.note


def _patient(node: Node, one: Series) -> str:
    try:
        file = next(node.intake.originals(one.series_uid).glob("*.dcm"))
        return str(pydicom.dcmread(file, specific_tags=["PatientName"], stop_before_pixels=True).PatientName)
    except Exception:  # gone, or without a name that can be read
        return ""


def _figure(one: Series) -> str:
    caption = f"no. {one.number}, {escape(one.facts.known.get('series_description', ''))}, strength {one.strength:g}"
    picture = f"/picture/{one.number}.png"
    shown = f'<a href="{picture}"><img src="{picture}" alt="before, after, difference"></a>'
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def _table(heads: list[str] | tuple[str, ...], rows: list[list[str]]) -> str:
    """Cells are HTML."""
    head = "".join(f"<th>{head}</th>" for head in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
