"""What a node tells Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ASCONDenoiseLib.node.ledger import WAITING
from ASCONDenoiseLib.node.service import Node


def exposition(node: Node) -> bytes:
    """The text format of Prometheus."""
    registry = CollectorRegistry()
    registry.register(_Metrics(node))
    return generate_latest(registry)


class _Metrics:
    """A collector: looks when it is asked."""

    def __init__(self, node: Node):
        self._node = node

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        node = self._node
        series = GaugeMetricFamily("ascon_node_series", "Series in the node's ledger, by state.", labels=["state"])
        for state, count in node.ledger.counts().items():
            series.add_metric([state.replace(" ", "_")], count)
        yield series
        waiting = GaugeMetricFamily("ascon_node_deliveries_waiting", "Results to be sent.", labels=["destination"])
        for one in node.config.destinations:
            waiting.add_metric([one.name], len([d for d in node.ledger.deliveries(one.name) if d.state == WAITING]))
        yield waiting
        yield CounterMetricFamily("ascon_node_objects", "Objects taken since the start.", value=node.intake.taken)
        yield GaugeMetricFamily("ascon_node_associations", "Open associations.", value=node.open_associations())
        yield GaugeMetricFamily(
            "ascon_node_free_bytes", "Free on the disk of the node.", value=node.intake.free_bytes()
        )
        yield GaugeMetricFamily("ascon_node_slices_per_second", "Of the last denoised series.", value=node.speed())
        yield CounterMetricFamily(
            "ascon_node_up_seconds", "That nodes have run on this ledger.", value=node.ledger.up_s()
        )
