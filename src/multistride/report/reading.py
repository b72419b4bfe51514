"""Reading result files: those of this version and those of all before it, by one function.

`upgrade` turns whatever an older version or a script wrote into the one form of `result.Result`;
`read_result` also says in one line what is wrong with a file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from multistride.errors import DataError
from multistride.report.result import TASK_CONDITIONS, Result
from multistride.untrusted import read_bytes

WAY_OUT = "write one with: multistride evaluate --json > result.json"

Tree = dict[str, Any]


def read_result(path: Path | str) -> Result:
    """Read a result file of any kind and version.

    Raises `DataError`, in one line, when the file is missing, is not JSON, or has another form.
    """
    text = read_bytes(path, advice=f"a result file is needed: {WAY_OUT}")
    try:
        stored = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a result: it is not JSON; {WAY_OUT}") from error
    try:
        tree = upgrade(stored)
        return Result.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        raise DataError(f"{path} is not a result: {_first_problem(error)}; {WAY_OUT}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a result: it is not JSON; {WAY_OUT}") from error
    except (AttributeError, KeyError, TypeError) as error:  # another shape under a known key
        raise DataError(f"{path} is not a result: it has another form; {WAY_OUT}") from error


def upgrade(tree: Any) -> Any:
    """Return the contents of a result file in the form that `Result` reads.

    What is no result at all is returned as it is, for `Result` to say what is missing.
    """
    if not isinstance(tree, dict):
        return tree
    if "kind" in tree:
        change = {"task": _task, "generation": _generation}.get(str(tree["kind"]), dict)
        return change(tree)
    for keys, make in _WITHOUT_KIND:
        if keys <= tree.keys():
            return make(tree)
    return tree


def _task(tree: Tree) -> Tree:
    """Tasks keep their conditions beside `settings`."""
    conditions = {name: tree[name] for name in TASK_CONDITIONS if name in tree}
    rest = {name: value for name, value in tree.items() if name not in conditions}
    return {**rest, "settings": {**conditions, **(tree.get("settings") or {})}}


def _generation(tree: Tree) -> Tree:
    """Older versions kept a prompt and the texts after it, without their groups."""
    rows = [row for row in tree.get("results") or () if isinstance(row, dict)]
    sizes = [row.get("group_size", 1) for row in rows]
    examples = [
        {
            "source": example["prompt"],
            "outputs": [
                {"group_size": size, "text": text}
                for size, text in zip(sizes, example.get("texts", ()), strict=False)
            ],
        }
        if isinstance(example, dict) and "prompt" in example
        else example
        for example in tree.get("examples", ())
    ]
    return {**tree, "examples": examples}


def _benchmark(tree: Tree) -> Tree:
    return {**tree, "kind": "benchmark"}


def _frontier(tree: Tree) -> Tree:
    """Read points as rows; what only points say is kept as details."""
    rest = {name: value for name, value in tree.items() if name != "points"}
    return {**rest, "kind": "frontier", "results": [_point(point) for point in tree["points"]]}


def _point(point: Mapping[str, Any]) -> Tree:
    known = {"group_size", "bleu", "bleu_signature", "chrf", "steps_per_sentence"}
    known |= {"repetition_rate", "length_ratio"}
    row = {name: value for name, value in point.items() if name in known}
    details = {name: value for name, value in point.items() if name not in {*known, "series"}}
    return {"name": point["series"], **row, "details": details}


def _profile(tree: Tree) -> Tree:
    rows = [
        {
            **{name: value for name, value in part.items() if name != "ms_per_sentence"},
            "metrics": part["ms_per_sentence"],
        }
        for part in tree["parts"]
    ]
    return _scripts_own(tree, "profile", "parts", rows)


def _startup(tree: Tree) -> Tree:
    return _scripts_own(tree, "startup", "startups", tree["startups"])


def _scripts_own(tree: Tree, kind: str, key: str, rows: list[Any]) -> Tree:
    rest = {name: value for name, value in tree.items() if name != key}
    return {"name": str(rest["settings"].get("model", kind)), "kind": kind, **rest, "results": rows}


def _listed(*keys: str) -> Callable[[Tree], Tree]:
    """Read a script's own form: rows are the entries under `keys`, a list or an object of names."""

    def read(tree: Tree) -> Tree:
        rows = [row for key in keys for row in _entries(tree[key])] if keys else [_numbers(tree)]
        conditions = {name: value for name, value in tree.items() if name not in keys}
        name = tree.get("name") or tree.get("task") or " and ".join(keys)
        return {"name": str(name), "kind": "other", "settings": conditions, "results": rows}

    return read


def _entries(found: Any) -> Iterator[Tree]:
    if isinstance(found, dict):
        for name, entry in found.items():
            yield {"name": str(name), **_numbers(entry)}
    else:
        for entry in found:
            yield _numbers(entry)


def _numbers(entry: Any) -> Tree:
    """Return the numbers of an entry as figures, those of inner objects under dotted names."""
    figures: dict[str, float] = {}

    def collect(value: Any, name: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                collect(inner, f"{name}.{key}" if name else str(key))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            figures[name] = value

    collect({key: value for key, value in entry.items() if key not in ("details", "settings")}, "")
    return {"metrics": figures, "details": {"entry": entry}}


_WITHOUT_KIND: tuple[tuple[set[str], Callable[[Tree], Tree]], ...] = (
    ({"results", "crossings"}, _benchmark),
    ({"name", "points"}, _frontier),
    ({"settings", "parts"}, _profile),
    ({"settings", "startups"}, _startup),
    ({"sources", "passages", "choices"}, _listed("passages", "choices")),
    ({"meetings", "questions", "results"}, _listed("results")),
    ({"classifier", "updates", "results"}, _listed("results")),
    ({"task", "folds", "results"}, _listed("results")),
    ({"task", "metrics", "details"}, _listed()),
    ({"settings", "layouts"}, _listed("layouts")),
    ({"settings", "files"}, _listed("files")),
    ({"written", "sizes", "results"}, _listed("results")),
    ({"documents", "lines", "results"}, _listed("results")),
    ({"prompts", "timed", "results"}, _listed("results")),
)
"""Files that do not say their kind, told by the keys that only they have."""


def _first_problem(error: ValidationError) -> str:
    """Return the first problem of a file on one line, and how many more there are."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    place = ".".join(str(part) for part in problems[0]["loc"])
    message = " ".join(problems[0]["msg"].split()).removeprefix("Value error, ")
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{place}: {message}{more}" if place else f"{message}{more}"
