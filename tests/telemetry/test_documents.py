"""Dashboard and configuration of Prometheus; `test_campaign.py` says whether the metrics they name exist."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy" / "observability"


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    panels = json.loads((DEPLOY / "grafana/caligo.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)


def test_what_prometheus_reads_fits_together() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    assert [job["job_name"] for job in config["scrape_configs"]] == [
        "orchestrator",
        "sampler",
        "simulator",
        "surrogate",
    ]
    for name in config["rule_files"]:
        assert (DEPLOY / name).is_file()
    source = yaml.safe_load((DEPLOY / "grafana/datasource.yml").read_text())["datasources"][0]
    panels = json.loads((DEPLOY / "grafana/caligo.json").read_text())["panels"]
    assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}
