"""What the panel says: progress, the line under it, a model's card, why an installation failed. `_` translates."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ASCONDenoiseLib.imaging.number_tables import Translate
from ASCONDenoiseLib.imaging.strength import NoiseByStrength
from ASCONDenoiseLib.models.card import ModelCard, Scope


def remaining(seconds: float | None, _: Translate = str) -> str:
    """ "4 s left", "3 min left", or "" where nobody knows."""
    if seconds is None:
        return ""
    if seconds < 100:
        return _("{seconds} s left").format(seconds=round(seconds))
    return _("{minutes} min left").format(minutes=round(seconds / 60))


def progress(event: Mapping[str, Any], _: Translate = str, *, slices: bool = True) -> str:
    """Say how far the worker is: "slice 120 of 300, 4 s left"; for other work that takes long, a few words.

    Args:
        event: of the worker.
        _: translates.
        slices: False says "step 120 of 328, 4 s left", where the worker counts other things, too.
    """
    if event["event"] == "stage":
        stages = {
            "torch": _("starting PyTorch"),
            "model": _("loading the model"),
            "embedding": _("laying out the t-SNE plot"),
        }
        return stages.get(event["stage"], "")
    if event["event"] != "progress":
        return ""
    template = _("slice {done} of {total}") if slices else _("step {done} of {total}")
    done = template.format(done=event["done"], total=event["total"])
    return ", ".join(part for part in (done, remaining(event["seconds_left"], _)) if part)


def outcome(facts: Mapping[str, Any], strength: float, _: Translate = str) -> str:
    """Make the line after a run: notes, then model, device, time and strength.

    Args:
        facts: the worker's result of `denoise`.
        strength: of the image on show.
        _: translates.
    """
    notes = "".join(f"{note[:1].upper()}{note[1:].rstrip('.')}. " for note in facts["notes"])
    how = _("{model} {version} on {device}, {seconds} s, strength {percent}\N{NO-BREAK SPACE}%").format(
        model=facts["model"]["name"],
        version=facts["model"]["version"],
        device=facts["device"],
        seconds=f"{facts['seconds']:.1f}",
        percent=f"{100 * strength:.0f}",
    )
    return notes + _("Done: {how}").format(how=how)


def noise_at(strength: float, noise: NoiseByStrength, _: Translate = str) -> str:
    """Say what a strength (0 to 1) means: "75 %: 31 to 19 HU of noise"."""
    text = _("{percent}\N{NO-BREAK SPACE}%: {before} \N{RIGHTWARDS ARROW} {after} HU of noise in soft tissue")
    before, after = (f"{noise.at(s):.0f}" for s in (0.0, strength))
    return text.format(percent=f"{100 * strength:.0f}", before=before, after=after)


def reading(suggested: str, _: Translate = str) -> str:
    """Translate what a cluster is suggested to be, a text of `clustering.suggested_reading`."""
    names = {
        "air": _("air"),
        "lung": _("lung"),
        "edge of lung or gas": _("edge of lung or gas"),
        "fat": _("fat"),
        "fluid or edge of fat": _("fluid or edge of fat"),
        "soft tissue": _("soft tissue"),
        "contrast or spongy bone": _("contrast or spongy bone"),
        "bone": _("bone"),
    }
    parts = [names.get(name, name) for name in suggested.removeprefix("mixed: ").split(", ")]
    return (_("mixed: {names}") if suggested.startswith("mixed: ") else "{names}").format(names=", ".join(parts))


def segment_name(cluster: Mapping[str, Any], _: Translate = str) -> str:
    """ "4 fat (suggested)" """
    return _("{number} {reading} (suggested)").format(number=cluster["label"], reading=reading(cluster["reading"], _))


def cluster_rows(clusters: Sequence[Mapping[str, Any]], _: Translate = str) -> list[tuple[str, ...]]:
    """Make rows of text of clusters, the header first. Mean ± standard deviation, over each cluster."""
    rows: list[tuple[str, ...]] = [(_("Suggested"), _("ml"), _("Before [HU]"), _("After [HU]"), _("Removed [HU]"))]
    for c in clusters:
        name = f"{c['label']} {reading(c['reading'], _)}"
        hu = [f"{c[f'mean_{when}_hu']:.0f} ± {c[f'sd_{when}_hu']:.0f}" for when in ("before", "after")]
        rows.append((name, f"{c['volume_ml']:.1f}", *hu, f"{c['noise_removed_hu']:.1f}"))
    return rows


def separation(numbers: Mapping[str, float] | None, _: Translate = str) -> str:
    """Say how well the clusters part; without numbers, that there is one cluster only."""
    if numbers is None:
        return _("There is one cluster only.")
    text = _(
        "Silhouette {silhouette} (higher is better), Davies-Bouldin {davies_bouldin} and intra/inter {intra_inter} "
        "(lower is better)."
    )
    return text.format(**{name: f"{value:.2f}" for name, value in numbers.items()})


def scope_lines(scope: Scope, _: Translate = str) -> list[str]:
    """Say what a model has seen in training, a line for each thing that is known; empty where nothing is."""
    lines = []
    if scope.slice_mm is not None:
        lines.append(_("slices of {mm} mm").format(mm=_range(scope.slice_mm, _)))
    if scope.doses is not None:
        lines.append(_("{part} of the normal dose").format(part=_range(scope.doses, _)))
    if scope.kernels:
        lines.append(_("kernels: {names}").format(names=", ".join(scope.kernels)))
    if scope.sharp_kernels is not None:
        lines.append(_("kernels for lung or bone too") if scope.sharp_kernels else _("no kernels for lung or bone"))
    if scope.sharp_kernel_shift_hu:
        shifts = ", ".join(f"{_(tissue)} {hu:+.1f} HU" for tissue, hu in scope.sharp_kernel_shift_hu.items())
        lines.append(_("on such a kernel it shifted, at full strength: {shifts}").format(shifts=shifts))
    if scope.body_parts:
        lines.append(_("parts of the body: {names}").format(names=", ".join(scope.body_parts)))
    return lines


def _range(ends: tuple[float, float], _: Translate) -> str:
    low, high = ends
    return f"{low:g}" if low == high else _("{low:g} to {high:g}").format(low=low, high=high)


def card_html(card: ModelCard, _: Translate = str) -> str:
    """Write a model's card for people: what it is for and its limits first."""
    seen = scope_lines(card.scope, _)
    rows = [
        (_("Version"), f"{card.version} ({card.date})"),
        (_("For"), card.intended_use),
        (_("Limits"), card.limits),
        *([(_("Seen in training"), seen)] if seen else []),
        (_("Trained on"), card.training_data),
        (_("Dose"), card.dose),
        (_("Network"), f"{card.architecture}, {card.preset}"),
        (
            _("Measured"),
            [_("(at strength 100 %)"), *(f"{name}: {_figure(value)}" for name, value in card.metrics.items())],
        ),
        (_("Licence"), card.licence),
        ("SHA-256", card.sha256),
    ]
    lines = []
    for title, value in rows:
        items = [value] if isinstance(value, str) else value
        text = "<br>".join(html.escape(str(item)) for item in items) or "-"
        lines.append(f'<tr><td style="padding-right: 8px"><b>{html.escape(title)}</b></td><td>{text}</td></tr>')
    return f"<b>{html.escape(card.name)}</b><table>{''.join(lines)}</table>"


def _figure(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_figure(part)}" for name, part in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def installation_failure(text: str, _: Translate = str) -> str:
    """Say why packages could not be installed and what to do, from what the installer said."""
    reasons = [
        (
            r"declined",
            _("The packages were not installed, and ASCON needs them. Click again to be asked again."),
        ),
        (
            r"WinError 206|too long|MAX_PATH",
            _(
                "The installation failed because a path is too long for Windows. Switch on long paths "
                "(LongPathsEnabled), or install Slicer in a folder with a short name, then try again."
            ),
        ),
        (
            r"No space left|disk full|WinError 112",
            _("The installation failed because the disk is full. Make room (PyTorch takes some GB), then try again."),
        ),
        (
            r"proxy|\b407\b",
            _(
                "The installation failed at the proxy. Set HTTPS_PROXY to the proxy of your network (ask its "
                "administrator), restart Slicer, then try again."
            ),
        ),
        (
            r"CERTIFICATE_VERIFY_FAILED|SSLError|SSL:",
            _(
                "The installation failed because the package server's certificate could not be checked, as happens "
                "behind some firewalls. Ask the administrator of your network, then try again."
            ),
        ),
        (
            r"name resolution|getaddrinfo|not known|Max retries|[Tt]imed out|unreachable|ConnectionError|"
            r"NewConnection|No matching distribution",
            _("The installation failed because the package server was not reached. Go online, then try again."),
        ),
        (
            r"WinError (5|32)\b|[Aa]ccess is denied|used by another process|restart|already (loaded|imported)",
            _("The installation needs a restart of Slicer: files it replaces are in use. Restart, then try again."),
        ),
    ]
    for pattern, sentence in reasons:
        if re.search(pattern, text, re.IGNORECASE):
            return sentence
    return _("The installation failed ({reason}). Slicer's log has the details.").format(
        reason=(text.strip().splitlines() or ["?"])[-1].rstrip(".")
    )
