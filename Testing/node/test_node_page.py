"""The status page: what it says, to people, machines and Prometheus; and what it does not say."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from dicom_fixtures import make_ct_series
from node_fixtures import free_port, need, storescu, wait_for
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from ASCONDenoiseLib.node.page import StatusPage
from ASCONDenoiseLib.node.service import Node


@pytest.fixture(scope="module")
def a_page(a_node_for_all, tmp_path_factory):
    """Of a node with a series that is done, one that failed, and one with markup in its description."""
    node = a_node_for_all(page_port=str(free_port()))
    page = StatusPage(node)
    page.start()
    folder = tmp_path_factory.mktemp("series")
    make_ct_series(folder / "a", shape=(4, 32, 32), series_description="Abdomen <script>alert(1)</script>")
    gap = make_ct_series(folder / "b", shape=(4, 32, 32))
    storescu(node.config.listen.port, folder / "a", *gap[:1], *gap[2:])
    wait_for(lambda: node.ledger.counts()["done"] and node.ledger.counts()["failed"])
    yield node
    page.stop()


@contextmanager
def changed(settings: object, **values: object) -> Iterator[None]:
    """Settings of a running node with other values, for a while."""
    before = {name: getattr(settings, name) for name in values}
    for name, value in values.items():
        object.__setattr__(settings, name, value)
    yield
    for name, value in before.items():
        object.__setattr__(settings, name, value)


def get(node: Node, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{node.config.page.port}{path}", timeout=10) as answer:
        return bytes(answer.read())


def test_people_see_what_is_done_and_what_failed_and_why(a_page):
    page = get(a_page, "/").decode()
    assert "lacks 1 slice" in page and "tiny, strength 0.5" in page
    assert "<script>" not in page and "Abdomen &lt;script&gt;" in page
    assert "Phantom" not in page and "PHANTOM-1" not in page
    with changed(a_page.config.page, patient_names=True):
        assert "Phantom^Test" in get(a_page, "/").decode()


def test_machines_see_whether_it_works(a_page):
    told = json.loads(get(a_page, "/health"))
    assert told["ok"] and told["series"]["done"] == 1 and told["series"]["failed"] == 1
    with changed(a_page.config.storage, least_free_gb=1e9):
        with pytest.raises(urllib.error.HTTPError) as error:
            get(a_page, "/health")
        assert error.value.code == 503 and json.loads(error.value.read())["disk_full"]
        assert "The disk is full" in get(a_page, "/").decode()
    assert json.loads(get(a_page, "/health"))["ok"]


def test_prometheus_reads_the_metrics(a_page):
    families = {family.name: family for family in text_string_to_metric_families(get(a_page, "/metrics").decode())}
    states = {sample.labels["state"]: sample.value for sample in families["ascon_node_series"].samples}
    assert states["done"] == 1 and states["failed"] == 1 and states["left_alone"] == 0
    assert families["ascon_node_objects"].samples[0].value == 7
    assert families["ascon_node_slices_per_second"].samples[0].value > 0
    assert b"Phantom" not in get(a_page, "/metrics")


def test_pictures_and_nothing_else_can_be_fetched(a_page, tmp_path):
    number = next(one.number for one in a_page.ledger.latest(9) if one.state == "done")
    (tmp_path / "p.png").write_bytes(get(a_page, f"/picture/{number}.png"))
    assert Image.open(tmp_path / "p.png").width > 1000
    for path in ("/picture/99.png", "/picture/../node.sqlite", "/node.sqlite", "/picture/1.png/../../node.toml"):
        with pytest.raises(urllib.error.HTTPError) as error:
            get(a_page, path)
        assert error.value.code == 404


def test_it_is_a_page_in_chromium(a_page, tmp_path):
    """Rendered headless: the DOM after loading has the rows, and the pictures have come."""
    tool = need("chromium", "chromium")
    url = f"http://127.0.0.1:{a_page.config.page.port}/"
    common = [tool, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    common += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1300,1100", "--virtual-time-budget=3000"]
    shot = tmp_path / "page.png"
    done = subprocess.run([*common, f"--screenshot={shot}", url], capture_output=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    pixels = Image.open(shot).convert("L")
    assert pixels.width == 1300
    dark = sum(pixels.point(lambda grey: grey < 30 and 255).histogram()[255:])
    assert dark > 20_000  # the pictures are on black; without them there are only letters


def test_a_port_that_is_taken_is_said(a_node):
    from ASCONDenoiseLib.errors import InputError

    node = a_node(page_port=str(free_port()), start=False)
    page = StatusPage(node)
    page.start()
    with pytest.raises(InputError, match="choose another port"):
        StatusPage(node).start()
    page.stop()
