"""Make the documentation site: the pages of docs/, the course, the notebooks, the API reference.

    python docs/tools/site.py [--output build/docs] [--without-course]

The pages are written for a reader of the repository, so their links lead to files of it. Here they
are staged into a tree of their own: a link to another page leads to the page of the site, a link to
a source or result file to a copy that can be downloaded, a link to a directory to its first page,
if it has pages, and else becomes text.
`docs/index.md` decides what the menu holds. Sphinx then runs with warnings as errors.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "examples/notebooks"
CHINESE_NOTEBOOKS = NOTEBOOKS / "zh"

ROOT_PAGES = {
    "README.md": "readme.md",
    "README.zh.md": "readme.zh.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/serve/README.md": "serving-examples.md",
}
"""Pages outside docs/, and where the site has them."""

LANGUAGES = {"zh": "课程", "en": "The course itself"}

REFERENCE: dict[str, tuple[str, tuple[str, ...]]] = {
    "package": (
        "Loading, translating, generating",
        (
            "autofunction:: multistride.load",
            "autoclass:: multistride.Translator\n   :members:\n   :inherited-members:",
            "autoclass:: multistride.Generator\n   :members:\n   :inherited-members:",
            "autoclass:: multistride.Translation\n   :members:",
            "autoclass:: multistride.StreamedGroup\n   :members:",
        ),
    ),
    "errors": ("Errors", ("automodule:: multistride.errors\n   :members:",)),
    "options": (
        "Decoding options",
        (
            "autoclass:: multistride.decode.options.DecodeOptions",
            "autofunction:: multistride.decode.plan.plan",
            "autofunction:: multistride.decode.loop.decode",
            "autoclass:: multistride.decode.step.StepModel\n   :members:",
        ),
    ),
    "groups": ("Slots and groups", ("automodule:: multistride.groups\n   :members:",)),
    "model": (
        "The model",
        (
            "autoclass:: multistride.model.config.TransformerConfig",
            "autoclass:: multistride.model.transformer.Transformer\n   :members:",
            "autofunction:: multistride.model.weights.load_model",
        ),
    ),
    "training": (
        "Training",
        (
            "autofunction:: multistride.train.loop.train",
            "autoclass:: multistride.train.config.RunConfig",
            "autoclass:: multistride.train.config.TrainingConfig",
            "autoclass:: multistride.train.config.GroupsConfig",
        ),
    ),
}
"""Pages of the API reference: name, title, Sphinx directives."""

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_FENCED = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.DOTALL | re.MULTILINE)
_SECTION = re.compile(r"^## (.+?)$\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)


def pages() -> dict[str, str]:
    """Return the pages of the repository that the site has: path there to path here."""
    own = {
        str(path.relative_to(ROOT)): str(path.relative_to(ROOT / "docs"))
        for path in sorted((ROOT / "docs").rglob("*.md"))
    }
    both = notebooks() + notebooks(CHINESE_NOTEBOOKS)
    return own | ROOT_PAGES | {str(path.relative_to(ROOT)): _page_of(path) for path in both}


def notebooks(directory: Path = NOTEBOOKS) -> list[Path]:
    """Return the notebooks of one language in their order."""
    return sorted(directory.glob("*.ipynb"))


def _page_of(notebook: Path) -> str:
    return f"notebooks/{notebook.relative_to(NOTEBOOKS).with_suffix('.md').as_posix()}"


def sections() -> list[tuple[str, list[str]]]:
    """Return the menu: each heading of docs/index.md with the pages that stand below it."""
    known, found = pages(), []
    for heading, body in _SECTION.findall((ROOT / "docs/index.md").read_text(encoding="utf-8")):
        linked = [
            _resolved(target.partition("#")[0], "docs/index.md")
            for _, _, target in _LINK.findall(body)
        ]
        found.append((heading, [known[path] for path in dict.fromkeys(linked) if path in known]))
    return found


def stage(place: Path, built: tuple[str, ...] = ()) -> None:
    """Write everything that Sphinx reads to `place`, with the course in the languages `built`."""
    known = pages()
    for path, page in known.items():
        source = ROOT / path
        text = source.read_text(encoding="utf-8")
        if source.suffix == ".ipynb":
            text = _from_notebook(text)
        text = relinked(text, path, page, known, place)
        if source.suffix == ".ipynb":
            title, _, rest = text.partition("\n")
            text = f"{title}\n\n{_above_notebook(source, place)}\n{rest}"
        if path == "docs/index.md":
            text += _menu(built)
        elif path == "docs/log/index.md":
            themes = sorted(p.name for p in (ROOT / "docs/log").glob("*.md"))
            text += _toctree("Log", [name for name in themes if name != "index.md"])
        _write(place / page, text)
    for name in ("readme.md", "serving-examples.md"):  # linked, but not in the menu
        page = place / name
        _write(page, "---\norphan: true\n---\n\n" + page.read_text(encoding="utf-8"))
    for name, (title, directives) in REFERENCE.items():
        _write(place / f"reference/{name}.md", _reference_page(title, directives))
    entries = "\n".join(REFERENCE)
    _write(
        place / "reference/index.md",
        "# Python reference\n\nGenerated from the docstrings.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```\n",
    )


def _menu(built: tuple[str, ...]) -> str:
    """Return the hidden tables of contents from which Sphinx makes the menu."""
    blocks = [_toctree(heading, entries) for heading, entries in sections()]
    blocks.append(_toctree("Notebooks", [_page_of(path) for path in notebooks()]))
    course = {name: f"{LANGUAGES[name]} <course/{name}/index>" for name in built}
    blocks.append(_toctree("Course", [entry for name, entry in course.items() if name == "en"]))
    blocks.append(_toctree("Reference", ["reference/index.md"]))
    chinese = [entry for name, entry in course.items() if name == "zh"]
    chinese += [_page_of(path) for path in notebooks(CHINESE_NOTEBOOKS)]
    blocks.append(_toctree("中文", ["readme.zh.md", *chinese]))
    return "\n" + "".join(blocks)


def _toctree(caption: str, entries: list[str]) -> str:
    if not entries:
        return ""
    lines = "\n".join(entry.removesuffix(".md") for entry in entries)
    return f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n"


def relinked(text: str, path: str, page: str, known: dict[str, str], place: Path) -> str:
    """Return a page with its links leading to what the site has.

    Files that are no page are copied to `place`/files. Raises `FileNotFoundError` for a link that
    leads nowhere.
    """

    def changed(link: re.Match[str]) -> str:
        mark, label, target = link.groups()
        if target.startswith(("http://", "https://", "#", "mailto:")):
            return link.group()
        name, hash_sign, anchor = target.partition("#")
        resolved = _resolved(name, path)
        source = ROOT / resolved
        if not name.endswith(".md") and (inside := _first_page(resolved, known)):
            resolved = inside
        if resolved in known:
            return f"{mark}[{label}]({_relative(known[resolved], page)}{hash_sign}{anchor})"
        if source.is_dir():
            return label
        return f"{mark}[{label}]({_relative(_copied(resolved, place), page)})"

    parts, end = [], 0
    for block in _FENCED.finditer(text):  # what looks like a link in a program is none
        parts += [_LINK.sub(changed, text[end : block.start()]), block.group()]
        end = block.end()
    return "".join([*parts, _LINK.sub(changed, text[end:])])


def _first_page(directory: str, known: dict[str, str]) -> str | None:
    """Return the first page in a directory of the repository; None if it has none."""
    return min((path for path in known if path.startswith(f"{directory}/")), default=None)


def _copied(path: str, place: Path) -> str:
    """Copy a file of the repository to where readers can download it; return that path."""
    copied = f"files/{path}"
    (place / copied).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / path, place / copied)
    return copied


def _resolved(target: str, path: str) -> str:
    """Return the path in the repository of a link that stands on the page `path`."""
    return os.path.normpath((Path(path).parent / target).as_posix())


def _relative(target: str, page: str) -> str:
    return Path(os.path.relpath(target, Path(page).parent)).as_posix()


def _from_notebook(notebook: str) -> str:
    """Return a notebook as a page: its texts, and its programs as blocks of code."""
    blocks = []
    for cell in json.loads(notebook)["cells"]:
        text = "".join(cell["source"]).strip()
        blocks.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(blocks) + "\n"


def _above_notebook(notebook: Path, place: Path) -> str:
    """Return the line below the title: the page in the other language, and the file to download."""
    page = _page_of(notebook)
    copied = _relative(_copied(str(notebook.relative_to(ROOT)), place), page)
    if notebook.parent == CHINESE_NOTEBOOKS:
        other = _relative(_page_of(NOTEBOOKS / notebook.name), page)
        return f"[English]({other}) · 要运行本页的程序，请下载[笔记本文件]({copied})。"
    other = _relative(_page_of(CHINESE_NOTEBOOKS / notebook.name), page)
    return f"[中文]({other}) · To run this page, download [the notebook]({copied})."


def _reference_page(title: str, directives: tuple[str, ...]) -> str:
    blocks = "\n\n".join(f".. {directive}" for directive in directives)
    return f"# {title}\n\n```{{eval-rst}}\n{blocks}\n```\n"


def stage_course(place: Path) -> tuple[str, ...]:
    """Write the course to `place`/course in every language; return the languages."""
    # Imported late: without the course the site needs no matplotlib.
    from multistride.course import site  # noqa: PLC0415
    from multistride.course.numbers import Results  # noqa: PLC0415

    work = place.parent / "course"
    titles = {chapter.name: chapter for chapter in site.course()[0]}
    words = site.course()[1]["words"]
    for language in LANGUAGES:
        built = site.build(work, Results(ROOT / "results", ROOT / "results/course"), language)
        target = place / "course" / language
        target.mkdir(parents=True, exist_ok=True)
        names = [name for name in titles if (built / f"{name}.md").is_file()]
        for name in names:
            title, _, rest = (built / f"{name}.md").read_text(encoding="utf-8").partition("\n")
            other = site.OTHER[language]
            link = f"[{site.LANGUAGES[other]}](../{other}/{name}.md)"
            _write(target / f"{name}.md", f"{title}\n\n{link}\n{rest}")
        for picture in built.glob("*.svg"):
            shutil.copyfile(picture, target / picture.name)
        entries = "\n".join(names)
        _write(
            target / "index.md",
            f"# {words['course'][language]}\n\n{words['about'][language]}\n\n"
            f"```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```\n",
        )
    return tuple(LANGUAGES)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main() -> int:
    """Stage the site and run Sphinx; return its exit status."""
    parser = argparse.ArgumentParser(description=dedent(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "build/docs")
    parser.add_argument("--without-course", action="store_true", help="leave the course out")
    arguments = parser.parse_args()
    place = arguments.output.parent / f"{arguments.output.name}-source"
    shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(arguments.output, ignore_errors=True)
    place.mkdir(parents=True)
    stage(place, () if arguments.without_course else stage_course(place))
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
    done = subprocess.run(
        [*command, "-c", str(ROOT / "docs/site"), str(place), str(arguments.output)], check=False
    )
    if done.returncode == 0:
        print(f"written: {arguments.output / 'index.html'}")
    return done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
