"""Pages of metrics, read with the parser of `prometheus_client`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families


def parse(page: str) -> dict[str, Metric]:
    """Return the metrics of a page under their full names; none occurs twice."""
    found: dict[str, Metric] = {}
    for metric in text_string_to_metric_families(page):
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        assert metric.type in ("counter", "gauge", "histogram")
        assert name not in found
        found[name] = metric
    return found


def value(page: Mapping[str, Metric], name: str, **labels: str) -> float:
    """Return the value of one sample; 0 if its metric has no sample with these labels."""
    metric = page.get(name) or page[re.sub(r"_(bucket|sum|count)$", "", name)]
    return sum(sample.value for sample in metric.samples if (sample.name, sample.labels) == (name, labels))
