"""The site of the course: templates, results and pictures to pages, and the check of built pages.

The texts are data (`content/`); code only fills in numbers and draws. Every number of a page is an
expression of `numbers`, and `course.json` beside the pages lists them all with the hashes of the
result files, which is what `check` compares.
"""

from __future__ import annotations

import html
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, Literal

import yaml

from multistride.course.figures import DRAWINGS, chinese_font
from multistride.course.numbers import PLACEHOLDER, MissingResult, Results
from multistride.errors import DataError, MissingExtraError, UsageError
from multistride.files import replacing_file
from multistride.report.drawing import check_drawing, drawing, svg_text
from multistride.version import __version__

try:
    from markdown_it import MarkdownIt
except ImportError:  # `_renderer` says so
    MarkdownIt = None  # type: ignore[assignment,misc]

logger = logging.getLogger(__name__)

Language = Literal["zh", "en"]
LANGUAGES: dict[Language, str] = {"zh": "中文", "en": "English"}
"""Each language by its own name."""

OTHER: dict[Language, Language] = {"zh": "en", "en": "zh"}
"""The language that pages of each link to."""

MANIFEST = "course.json"
CONTENT = files("multistride.course") / "content"
_TYPED = re.compile(r"(?<![\w.:/-])\d+(?:\.\d+)+(?!\.?\d*\))|\d\s?%")
"""Decimal numbers and percentages, which no template may hold: they come from results."""


@dataclass(frozen=True)
class Chapter:
    """One page: its name, and what `content/chapters.yaml` says of it."""

    name: str
    facts: dict[str, Any]

    def template(self, language: Language) -> str:
        """Return the text of the page with its placeholders."""
        return (CONTENT / language / f"{self.name}.md").read_text(encoding="utf-8")

    def reads(self, result: str) -> bool:
        """Return whether a number, a table or the picture of the page is of this result."""
        texts = [self.template("zh"), self.template("en"), str(self.facts)]
        return bool(re.search(rf"(?<![\w-]){result}\.", " ".join(texts)))

    def said(self, key: str, language: Language) -> str:
        """Return a text of `chapters.yaml` in a language."""
        return str(self.facts[key][language])


def course() -> tuple[list[Chapter], dict[str, Any]]:
    """Return the chapters in order, and the words that pictures and tables share."""
    tree = yaml.safe_load((CONTENT / "chapters.yaml").read_text(encoding="utf-8"))
    return [Chapter(name, facts or {}) for name, facts in tree["chapters"].items()], tree


def chosen_chapters(only: tuple[str, ...]) -> list[Chapter]:
    """Return the chapters of these names or numbers, or all. Raises `UsageError` for others."""
    chapters, _ = course()
    requested = tuple(f"{int(name):02}" if name.isdecimal() else name for name in only)
    for name in requested:
        if not any(name in (chapter.name, chapter.name[:2]) for chapter in chapters):
            raise UsageError(
                f"chapter {name} was asked for; there are {', '.join(c.name for c in chapters)}: "
                "choose one"
            )
    return [
        chapter
        for chapter in chapters
        if not requested or chapter.name in requested or chapter.name[:2] in requested
    ]


def check_ready(language: Language) -> str:
    """Return the font of a language's pictures.

    Raises `MissingExtraError` if something that builds pages is not installed.
    """
    check_drawing()
    if MarkdownIt is None:
        raise MissingExtraError(
            "the course needs markdown-it-py, which is not installed: pip install "
            "'multistride[report]'"
        )
    return chinese_font() if language == "zh" else "DejaVu Sans"


def build(
    output: Path,
    results: Results,
    language: Language = "zh",
    only: tuple[str, ...] = (),
    other: Language | None = None,
) -> Path:
    """Write the course in one language to OUTPUT/LANGUAGE, as HTML and as Markdown.

    `only` names chapters, by name or number; without it, chapters whose results are missing are
    left out with a warning. Chapters that OUTPUT has already stay. Each HTML page links to the
    same page in the language `other`, for those who build both. Nothing is replaced unless
    everything can be written. Raises `DataError` for results that are missing or of another
    version, `MissingExtraError` without matplotlib or a Chinese font, and what
    `chapters_that_stay` raises.
    """
    font = check_ready(language)
    chosen = chosen_chapters(only)
    all_chapters, shared = course()
    words = {key: said[language] for key, said in shared["words"].items()}
    builder = _Builder(results, language, words, shared, font, other)
    pages: dict[str, str] = {}
    missing: list[tuple[Chapter, MissingResult]] = []
    for chapter in chosen:
        try:
            pages[chapter.name] = builder.page(chapter)
        except MissingResult as error:
            if only:
                raise
            builder.forget(chapter)
            missing.append((chapter, error))
    chosen = [chapter for chapter in chosen if chapter.name in pages]
    if missing and not any("figure" in chapter.facts for chapter in chosen):
        raise missing[0][1]  # no result at all: the directory is wrong
    for chapter, reason in missing:
        logger.warning(f"chapter {chapter.name} is left out: {reason}")
    place = output / language
    own = results.experiments.resolve() == (output / "results").resolve()
    staying = chapters_that_stay(output, language, chosen, own)
    used = dict(results.used)
    if staying:
        builder.numbers += _kept(place, staying, pages, builder.pictures)
        used = _manifest(place)["results"] | used
        chosen = [chapter for chapter in all_chapters if chapter.name in pages]
    built = {f"{name}.md": text for name, text in pages.items()}
    for chapter in chosen:
        built[f"{chapter.name}.html"] = builder.html(chapter, pages[chapter.name], chosen)
    built["index.html"] = builder.index(chosen)
    built |= {f"{name}.svg": text for name, text in builder.pictures.items()}
    manifest = {
        "multistride": __version__,
        "language": language,
        "own_results": own,
        "numbers": builder.numbers,
        "results": dict(sorted(used.items())),
        "pages": {name: sha256(text.encode()).hexdigest() for name, text in built.items()},
    }
    place.mkdir(parents=True, exist_ok=True)
    for name, text in built.items():
        _write(place / name, text)
    _write(place / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return place


def chapters_that_stay(
    output: Path, language: Language, chosen: list[Chapter], own_results: bool
) -> list[Chapter]:
    """Return the chapters of a built course that are not built again now.

    Raises `UsageError` if they came from another profile or version: one course holds results of
    one kind.
    """
    place = output / language
    if not (place / MANIFEST).is_file():
        return []
    manifest, building = _manifest(place), {chapter.name for chapter in chosen}
    all_chapters, _ = course()
    names = {name.removesuffix(".md") for name in manifest["pages"]} - building
    staying = [chapter for chapter in all_chapters if chapter.name in names]
    if not staying:
        return []
    if manifest["multistride"] != __version__:
        made = f"of multistride {manifest['multistride']}"
    elif manifest.get("own_results", False) != own_results:
        made = "of its own experiments" if not own_results else "of recorded results"
    else:
        return staying
    raise UsageError(
        f"{place} holds other chapters {made}, which do not fit those that are built now: choose "
        "another directory with --output"
    )


def _kept(
    place: Path, staying: list[Chapter], pages: dict[str, str], pictures: dict[str, str]
) -> list[dict[str, str]]:
    """Add the pages and pictures of chapters that stay, and return their numbers.

    Raises `DataError` if a file is missing or was changed.
    """
    manifest = _manifest(place)

    def text(name: str) -> str:
        content = (place / name).read_bytes() if (place / name).is_file() else b""
        if sha256(content).hexdigest() != manifest["pages"].get(name):
            raise DataError(
                f"{place / name} was changed after it was built: build the whole course again, "
                "without --chapter"
            )
        return content.decode()

    for chapter in staying:
        pages[chapter.name] = text(f"{chapter.name}.md")
        if "figure" in chapter.facts:
            pictures[chapter.facts["figure"]] = text(f"{chapter.facts['figure']}.svg")
    names = {f"{chapter.name}.html" for chapter in staying}
    return [number for number in manifest["numbers"] if number["page"] in names]


def _write(path: Path, text: str) -> None:
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check(output: Path, results: Results) -> list[str]:
    """Return what differs between built pages and their results; empty if nothing does.

    Raises `DataError` if `output` holds no built course or a result is missing.
    """
    places = sorted(path.parent for path in output.glob(f"*/{MANIFEST}"))
    if not places:
        raise DataError(f"{output} holds no course: make it with multistride course build")
    return [line for place in places for line in _differences(place, results)]


def has_own_results(output: Path) -> bool:
    """Return whether the course in a directory was built from experiments that lie beside it."""
    places = [path.parent for path in output.glob(f"*/{MANIFEST}")]
    return any(_manifest(place).get("own_results", False) for place in places)


def pages_of(place: Path) -> tuple[str, ...]:
    """Return the names of the chapters that a built course has."""
    pages = [Path(name) for name in _manifest(place)["pages"]]
    return tuple(page.stem for page in pages if page.suffix == ".md")


def _manifest(place: Path) -> dict[str, Any]:
    path = place / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        manifest["multistride"], manifest["pages"], manifest["numbers"], manifest["results"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} does not describe a course ({error!r}): build it again with multistride "
            "course build"
        ) from error
    return manifest


def _differences(place: Path, results: Results) -> Iterator[str]:
    manifest = _manifest(place)
    if manifest["multistride"] != __version__:
        yield f"{place}: built by multistride {manifest['multistride']}, this is {__version__}"
    for name, digest in manifest["pages"].items():
        path = place / name
        if not path.is_file():
            yield f"{path}: it is missing"
        elif sha256(path.read_bytes()).hexdigest() != digest:
            yield f"{path}: it was changed after it was built"
    for number in manifest["numbers"]:
        now = results.shown(number["expression"])
        if now != number["text"]:
            page, text = place / number["page"], number["text"]
            yield f"{page}: {text} is now {now} ({number['expression']})"
    for name, digest in manifest["results"].items():
        results.tree(name)
        if results.used[name] != digest:
            yield f"{results.path(name)}: it changed after the course was built"
    for name in {number["page"].removesuffix(".html") for number in manifest["numbers"]}:
        path = place / f"{name}.html"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for number in manifest["numbers"]:
            if (
                number["page"] == path.name
                and _marked(number["expression"], number["text"]) not in text
            ):
                yield f"{path}: it does not show {number['text']} ({number['expression']})"


def _marked(expression: str, text: str) -> str:
    source = html.escape(expression, quote=True).replace("|", "&#124;")
    return (
        f'<data value="{html.escape(text, quote=True)}" title="{source}">{html.escape(text)}</data>'
    )


class _Builder:
    """Fills in one language; keeps every number it writes, and every picture."""

    def __init__(
        self,
        results: Results,
        language: Language,
        words: dict[str, str],
        shared: dict[str, Any],
        font: str,
        other: Language | None,
    ) -> None:
        self._results, self._language, self._words = results, language, words
        self._shared, self._font, self._other = shared, font, other
        self.numbers: list[dict[str, str]] = []
        self.pictures: dict[str, str] = {}
        self._page = ""
        self._markdown = MarkdownIt("commonmark", {"html": True}).enable("table")

    def page(self, chapter: Chapter) -> str:
        """Return the Markdown of a page, numbers marked as HTML `data` elements."""
        self._page = f"{chapter.name}.html"
        template = chapter.template(self._language)
        typed = _TYPED.search(
            re.sub(r"`[^`]*`|\(http[^)]*\)|arXiv[ :]*[\d.]+", "", PLACEHOLDER.sub("", template))
        )
        if typed:
            raise DataError(
                f"the template of {chapter.name} ({self._language}) holds the number "
                f"{typed.group()!r}: numbers come from results, as {{{{ file.way:format }}}}"
            )
        self._results.touched.clear()
        text = PLACEHOLDER.sub(lambda found: self._filled(chapter, found.group(1)), template)
        if self._results.small(self._results.touched):
            title, _, rest = text.partition("\n")
            text = f"{title}\n\n> {self._words['small']}\n{rest}"
        return text.rstrip() + "\n" + self._sources(sorted(self._results.touched))

    def forget(self, chapter: Chapter) -> None:
        """Drop the numbers and the picture of a page that could not be finished."""
        page = f"{chapter.name}.html"
        self.numbers = [number for number in self.numbers if number["page"] != page]
        self.pictures.pop(str(chapter.facts.get("figure")), None)

    def _filled(self, chapter: Chapter, what: str) -> str:
        if what == "figure":
            return self._figure(chapter)
        if what.startswith("table"):
            return self._table(chapter.facts["tables"][int(what[5:] or 1) - 1])
        if what == "run":
            return "```sh\n" + str(chapter.facts["run"]).strip() + "\n```"
        return self._number(what)

    def _number(self, expression: str) -> str:
        text = self._results.shown(expression)
        self.numbers.append({"page": self._page, "expression": expression, "text": text})
        return _marked(expression, text)

    def _figure(self, chapter: Chapter) -> str:
        name = str(chapter.facts["figure"])
        width, height, draw = DRAWINGS[name]
        with drawing(width, height) as figure:
            import_rc(self._font)
            draw(figure, self._results, self._words)
            figure.tight_layout()
            self.pictures[name] = svg_text(figure)
        alternative = chapter.said("alternative", self._language)
        return f"![{alternative}]({name}.svg)"

    def _table(self, table: dict[str, Any]) -> str:
        rows = self._results.value(table["rows"]) if "rows" in table else table["entries"]
        columns = table["columns"]
        lines = [
            "| " + " | ".join(column[self._language] for column in columns) + " |",
            "| "
            + " | ".join(
                "--:" if "value" in each or each.get("right") else ":--" for each in columns
            )
            + " |",
        ]
        for index, row in enumerate(rows):
            where = table.get("where", {})
            if any(
                str(row.get(key)) not in map(str, _listed(value)) for key, value in where.items()
            ):
                continue
            cells = [self._cell(table, column, row, index) for column in columns]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def _cell(self, table: dict[str, Any], column: dict[str, Any], row: Any, index: int) -> str:
        if "label" in column:
            label = row[column["label"]]
            if isinstance(label, dict):
                return self._inline(str(label[self._language]))
            label = f"{column.get('of', '')}{label}"
            return str(self._words.get(label, label))
        if "text" in column:
            found = row.get(column["text"], "")
            found = found[self._language] if isinstance(found, dict) else found
            return self._inline(str(found))
        before = index - column.get("before", 0)
        way = f"{table['rows']}[{before}].{column['value']}"
        if "less" in column:
            way = f"{way} - {table['rows']}[{index - column['less']}].{column['value']}"
        if "over" in column:
            way = f"{way} / {table['rows']}[{column['over']}].{column['value']}"
        return self._number(f"{way}:{column['form']}")

    def _inline(self, text: str) -> str:
        return PLACEHOLDER.sub(lambda found: self._number(found.group(1)), text)

    def _sources(self, names: list[str]) -> str:
        """Return the results behind a page and what made them, alike ones in one line."""
        if not names:
            return ""
        words = self._words
        made: dict[str, list[str]] = {}
        for name in names:
            facts = self._results.provenance(name)
            command = facts["command"]
            if command == "–":
                commands = self._shared["commands"].items()
                command = next((by for start, by in commands if name.startswith(start)), "–")
            known = [f"`{command}`"] if command != "–" else []
            for key in ("commit", "machine", "seed"):
                if facts[key] != "–":
                    known.append(f"{words[key]} {facts[key]}")
            made.setdefault(words["and"].join(known), []).append(name)
        lines = [
            f"- {words['list'].join(_folded(files))}" + (words["made"].format(by) if by else "")
            for by, files in made.items()
        ]
        return "\n".join(["", f"## {words['sources']}", "", *lines]) + "\n"

    def html(self, chapter: Chapter, text: str, chapters: list[Chapter]) -> str:
        """Return a page as one HTML file without links to other hosts' scripts, fonts or styles."""
        body = self._markdown.render(text)
        body = re.sub(r'<img src="([a-z]+)\.svg" alt="([^"]*)" ?/?>', self._inlined, body)
        body = re.sub(r"<td([^>]*)>((?:(?!</td>).)+)</td>", _sized, body)
        body = re.sub(r"<(th|pre)\b.*?</\1>", _unbroken, body, flags=re.DOTALL)
        body = body.replace("<table>", '<div class="wide"><table>').replace(
            "</table>", "</table></div>"
        )
        place = chapters.index(chapter)
        ways = [
            f'<a rel="{rel}" href="{other.name}.html">{mark(self._title(other))}</a>'
            for rel, other, mark in (
                ("prev", chapters[place - 1] if place else None, "← {}".format),
                ("next", chapters[place + 1] if place + 1 < len(chapters) else None, "{} →".format),
            )
            if other is not None
        ]
        return self._whole(chapter.name, self._title(chapter), body, " ".join(ways))

    def _title(self, chapter: Chapter) -> str:
        return chapter.said("title", self._language)

    def _inlined(self, found: re.Match[str]) -> str:
        picture = self.pictures[found.group(1)]
        picture = picture.replace("<svg ", f'<svg role="img" aria-label="{found.group(2)}" ', 1)
        return f"<figure>{picture}<figcaption>{found.group(2)}</figcaption></figure>"

    def index(self, chapters: list[Chapter]) -> str:
        """Return the page of contents."""
        entries = "".join(
            f'<li><a href="{chapter.name}.html">{html.escape(self._title(chapter))}</a></li>'
            for chapter in chapters
        )
        words = self._words
        body = f"<h1>{words['course']}</h1><p>{words['about']}</p><ol class=contents>{entries}</ol>"
        return self._whole("index", words["course"], body, "")

    def _whole(self, name: str, title: str, body: str, ways: str) -> str:
        other = self._other
        page = Template((CONTENT / "page.html").read_text(encoding="utf-8"))
        return page.substitute(
            language=_tag(self._language),
            other=""
            if other is None
            else f'<a lang="{_tag(other)}" hreflang="{_tag(other)}" '
            f'href="../{other}/{name}.html">{LANGUAGES[other]}</a>',
            title=html.escape(title),
            course=html.escape(self._words["course"]),
            body=body,
            ways=ways,
            swipe=self._words["swipe"],
        )


def _tag(language: Language) -> str:
    """Return the tag of a language in HTML (BCP 47)."""
    return "zh-CN" if language == "zh" else language


def _folded(names: list[str]) -> list[str]:
    """Return names of files as code; many of one directory become one pattern."""
    folders = [name.rpartition("/")[0] for name in names]
    many = {folder for folder in folders if folder and folders.count(folder) > 3}
    shown = (
        f"`{folder}/*.json`" if folder in many else f"`{name}.json`"
        for name, folder in zip(names, folders, strict=True)
    )
    return list(dict.fromkeys(shown))


def _sized(cell: re.Match[str]) -> str:
    """Mark a cell that holds a sentence: on a phone its column would be a few letters wide."""
    style, content = cell.groups()
    text = html.unescape(re.sub(r"<[^>]+>", "", content))
    wide = sum(2 if ord(letter) > 0x2E80 else 1 for letter in text) > 64
    return f"<td{' class=long' if wide else ''}{style}>{content}</td>"


def _unbroken(part: re.Match[str]) -> str:
    """Keep options (--profile) and short names (ROUGE-L) on one line."""
    return re.sub(
        r'(?<![\w<&;"=-])(--[\w-]+|[A-Za-z]{1,8}-\w{1,3})(?![\w-])',
        r"<span class=word>\1</span>",
        part.group(),
    )


def import_rc(font: str) -> None:
    """Let the picture that is being drawn use a font first."""
    import matplotlib  # noqa: PLC0415  (the module imports without it)

    matplotlib.rcParams["font.family"] = [font, "DejaVu Sans"]
    matplotlib.rcParams["axes.unicode_minus"] = False


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
