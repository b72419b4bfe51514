"""The files of examples/serve fit the server."""

import json
import re
import runpy
from pathlib import Path

import httpx

EXAMPLES = Path(__file__).parents[2] / "examples/serve"


def test_the_dashboard_asks_for_metrics_that_exist(server):
    # Guards: a metric renamed, which a dashboard shows as no data.
    httpx.post(server.url + "/v1/completions", json={"prompt": "The", "model": "generator"})
    exact = {"prompt": "The", "model": "generator", "mode": "exact", "group_size": 2}
    httpx.post(server.url + "/v1/completions", json=exact)
    present = httpx.get(server.url + "/metrics").text
    asked = set(re.findall(r"multistride_\w+", (EXAMPLES / "grafana.json").read_text()))
    assert len(asked) >= 10
    assert not [name for name in asked if f"\n{name}{{" not in present]
    panels = json.loads((EXAMPLES / "grafana.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    [read] = re.findall(r'prompt_tokens_total{model="generator"} (\S+)', present)
    assert float(read) >= 2


def test_the_python_client_runs(server, capsys):
    client = runpy.run_path(str(EXAMPLES / "client.py"))
    client["main"](server.url)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("translator: ")
    assert "│" in said[1]
    assert said[2].startswith("refused: ")
