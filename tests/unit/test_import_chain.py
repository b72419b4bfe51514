"""The longest chain of imports between files, which is how much of the library one must know."""

import ast
from functools import lru_cache
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "src"
LONGEST = 16


def module_of(path):
    return ".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in (SOURCES / "multistride").rglob("*.py")}


def imported(module):
    """Return the modules of ours that a file imports, inside functions and for types as well."""
    names = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in MODULES else node.module)
    return (names & MODULES.keys()) - {module}


@lru_cache
def chain(module):
    """Return the longest chain that begins with a module. Circles would never end."""
    return max(
        ([module, *chain(other)] for other in sorted(imported(module))), key=len, default=[module]
    )


def test_the_longest_import_chain():
    # Guards: a type beside what needs most, and middle rooms that open models (docs/log/house.md).
    longest = max(map(chain, MODULES), key=len)
    assert len(longest) <= LONGEST, " > ".join(longest)
