"""`python -O` removes assertions; nothing else may go with them."""

import ast
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "src"
PURE = {"all", "any", "bool", "isinstance", "keys", "len", "map", "max", "min"}


def test_assertions_only_look():
    # Guards: an assert that is kept for what the call in it does.
    found = []
    texts = {path: path.read_text(encoding="utf-8") for path in SOURCES.rglob("*.py")}
    for path in [path for path, text in texts.items() if " assert " in text]:
        for node in ast.walk(ast.parse(texts[path])):
            parts = ast.walk(node.test) if isinstance(node, ast.Assert) else ()
            for part in parts:
                call = ast.unparse(part.func) if isinstance(part, ast.Call) else ""
                if call.rpartition(".")[2] not in {"", *PURE} or isinstance(part, ast.NamedExpr):
                    found.append((path.name, node.lineno))
    assert not found
