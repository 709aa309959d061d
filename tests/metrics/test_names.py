"""Each metric and label in the dashboard and in the alert rules is exported."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from deployments.metrics.exporter import Exporter
from tests.metrics.conftest import scraped

FOLDER = Path(__file__).parents[2] / "deployments" / "metrics"
_NAME = re.compile(r"\b(?:sluice|messaging)_[a-z_]+\b")
_SELECTED = re.compile(r"\b((?:sluice|messaging)_[a-z_]+)(?:\{([^}]*)\})?")
_LABEL = re.compile(r"([a-z_]+)(?:=~|!~|!=|=)\"")
_GROUPED = re.compile(r"\b(?:by|on|without|ignoring|group_left)\s*\(([^)]*)\)")
_SHOWN = re.compile(r"\{\{\s*(?:\$labels\.)?([a-z_]+)\s*\}\}")


def of_dashboard() -> Iterator[tuple[str, str]]:
    """Yield each expression of the dashboard, and the text that names its labels."""
    board = json.loads((FOLDER / "grafana.json").read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield target["expr"], target["legendFormat"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"].replace("label_values(", "").removesuffix(")"), ""


def of_rules() -> Iterator[tuple[str, str]]:
    """Yield each expression of the alert rules, and the texts that name its labels."""
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["expr"], " ".join(rule["annotations"].values())


@pytest.mark.parametrize(("expression", "text"), [*of_dashboard(), *of_rules()])
def test_metrics_and_labels_of_an_expression_are_exported(
    expression: str, text: str, filled: redis.Redis, exporter: Exporter
) -> None:
    samples = scraped(exporter)
    labels = {name: set().union(*(of.keys() for of, _ in found)) for name, found in samples.items()}
    grouped = {label.strip() for names in _GROUPED.findall(expression) for label in names.split(",") if label.strip()}
    unselected = _GROUPED.sub("", expression)
    names = [
        (name, selector)
        for name, selector in _SELECTED.findall(unselected)
        if name not in set().union(*labels.values())
    ]
    assert names
    for name, selector in names:
        assert name in samples, f"{name} is not exported; there are {sorted(samples)}"
        assert set(_LABEL.findall(selector)) <= labels[name]
    known = set().union(*(labels[name] for name, _ in names))
    assert grouped | set(_SHOWN.findall(text)) <= known


def test_every_metric_is_on_the_dashboard_or_in_an_alert(filled: redis.Redis, exporter: Exporter) -> None:
    used = {name for expression, _ in (*of_dashboard(), *of_rules()) for name in _NAME.findall(expression)}
    beside = {  # not on the dashboard
        "sluice_reading_seconds", "sluice_group_consumers", "sluice_topic_appended_bytes_total", "sluice_inlet_entries_total",
    }  # fmt: skip
    assert set(scraped(exporter)) - beside <= used


def test_panels_of_the_dashboard_have_a_place_each_and_alerts_a_name_each() -> None:
    board: dict[str, Any] = json.loads((FOLDER / "grafana.json").read_text())
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(places) == len(set(places)) > 10
    rules = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]
    names = [rule["alert"] for rule in rules]
    assert len(names) == len(set(names))
    assert {rule["labels"]["severity"] for rule in rules} == {"warning", "critical"}
