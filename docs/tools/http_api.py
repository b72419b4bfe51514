"""Make docs/api.md: the reference of the HTTP routes, read from the server's OpenAPI schema."""

from __future__ import annotations

import json
from typing import Any

from multistride.serve.app import Limits, application
from multistride.serve.metrics import Metrics
from multistride.serve.protocol import MOST_SEED
from multistride.serve.served import Served

_INTRODUCTION = """\
# HTTP API

This page is generated from the server's OpenAPI schema (`python docs/tools/pages.py`), and a test
checks that it is up to date. A running server shows the same at `/docs`, and the schema at
`/openapi.json`. [Serving](serving.md) explains how to start one, and what the fields of events
mean.

Unknown fields are refused, and so is every value that would be ignored. Fields of OpenAI's API that
have one harmless value, such as `presence_penalty`, accept that value alone.
"""

_ORDER = ("OpenAI", "Translation", "LibreTranslate", "State")


def reference() -> str:
    """Return the page."""
    schema = application(Served({}, Metrics()), Limits()).openapi()
    by_tag: dict[str, list[tuple[str, str, Any]]] = {tag: [] for tag in _ORDER}
    for path, verbs in schema["paths"].items():
        for verb, facts in verbs.items():
            by_tag[facts["tags"][0]].append((verb.upper(), path, facts))
    lines = [_INTRODUCTION, "## Errors", "", *_errors(schema)]
    for tag, routes in by_tag.items():
        lines += [f"## {tag}", ""]
        for verb, path, facts in routes:
            lines += [f"### {verb} {path}", "", *_route(facts, schema), ""]
    return "\n".join(lines).rstrip() + "\n"


def _errors(schema: Any) -> list[str]:
    responses = schema["paths"]["/v1/completions"]["post"]["responses"]
    rows = [
        f"| {status} | {facts['description']} |"
        for status, facts in sorted(responses.items())
        if status.isdigit() and int(status) >= 400
    ]
    return [
        'Routes under `/v1` answer with OpenAI\'s error body, `{"error": {message, type, param,',
        'code}}`, where `message` is one line; LibreTranslate\'s answer `{"error": message}`.',
        "",
        "| status | meaning |",
        "| --: | :-- |",
        *rows,
        "",
    ]


def _route(facts: Any, schema: Any) -> list[str]:
    lines = [" ".join(facts.get("description", facts["summary"]).split())]
    content = facts.get("requestBody", {}).get("content", {})
    if not content:
        return lines
    body = _resolved(content["application/json"]["schema"], schema)
    required = set(body.get("required", ()))
    lines += ["", "| field | type | default | meaning |", "| :-- | :-- | :-- | :-- |"]
    for name, field in body["properties"].items():
        default = "required" if name in required else f"`{json.dumps(field.get('default'))}`"
        cells = (f"`{name}`", _type(field), default, field.get("description", ""))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _resolved(part: Any, schema: Any) -> Any:
    if "$ref" not in part:
        return part
    return schema["components"]["schemas"][part["$ref"].rsplit("/", 1)[1]]


def _plural(kind: str) -> str:
    """Return the plural of a type: "integers", "lists of integers"."""
    return kind.replace("list", "lists", 1) if kind.startswith("list") else kind + "s"


def _type(field: Any) -> str:
    if "$ref" in field:
        return str(field["$ref"].rsplit("/", 1)[1])
    if "anyOf" in field:
        kinds = [_type(each) for each in field["anyOf"] if each.get("type") != "null"]
        return " or ".join(kinds)
    if "enum" in field:
        return ", ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if field.get("type") == "array":
        return f"list of {_plural(_type(field['items']))}" if field.get("items") else "list"
    bounds = [
        f"{word} {MOST_SEED if field[key] == float(MOST_SEED) else int(field[key])}"
        for key, word in (("minimum", "from"), ("maximum", "to"))
        if key in field
    ]  # the schema holds floats, which round the largest seed to one more
    return " ".join([str(field.get("type", "any")), *bounds])
