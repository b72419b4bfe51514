"""The pages are true: generated parts, commands, links, drawings, and the Python of the READMEs."""

import contextlib
import importlib.util
import io
import json
import re
from pathlib import Path

import pytest
import torch
import typer
import yaml

import multistride
from multistride.cli import app
from multistride.groups import equal_sizes, teacher_forced, visibility
from multistride.train.config import RunConfig

ROOT = Path(__file__).parents[2]
READMES = ("README.md", "README.zh.md")
PAGES = [ROOT / name for name in (*READMES, "CONTRIBUTING.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
START = 100

specification = importlib.util.spec_from_file_location("pages", ROOT / "docs/tools/pages.py")
tool = importlib.util.module_from_spec(specification)
specification.loader.exec_module(tool)
GENERATED = tool.pages()


def text_of(path):
    return path.read_text(encoding="utf-8")


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(path), re.DOTALL | re.MULTILINE)


def named(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", GENERATED, ids=named)
def test_generated_parts_are_up_to_date(path):
    # Guards: a number that no recorded run supports, an option that a page does not know.
    assert text_of(path) == GENERATED[path], "run: python docs/tools/pages.py"


@pytest.mark.parametrize("name", READMES)
def test_a_table_of_the_readme_has_four_columns_and_rows(name):
    # Guards: the check above passing because it found nothing to check.
    [table] = re.findall(
        r"<!-- columns .*? -->\n(.*?)<!-- end -->", text_of(ROOT / name), re.DOTALL
    )
    lines = table.splitlines()
    assert len(lines) >= 5
    assert all(line.count("|") == 5 for line in lines)


def commands():
    for path in PAGES:
        text = "\n".join(blocks(path, "sh")).replace("\\\n", " ")
        for verb, rest in re.findall(r"\bmultistride ([a-z]+)((?: [^\n|`;&]*)?)", text):
            yield pytest.param(verb, rest, id=f"{named(path)}: {verb}{rest}"[:90])


@pytest.mark.parametrize(("verb", "rest"), list(commands()))
def test_commands_and_options_exist(verb, rest):
    # Guards: an option that was renamed while a page was not.
    command = typer.main.get_command(app).commands[verb]
    known = {name for parameter in command.params for name in parameter.opts}
    assert set(re.findall(r"(?<=\s)--[\w-]+", rest.partition("#")[0])) <= known


def anchors(path):
    for heading in re.findall(r"^#+ (.+)$", text_of(path), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", heading.lower())
        yield plain.replace(" ", "-")


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_links_lead_somewhere(path):
    # Guards: a page that was moved or a heading that was reworded.
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(path)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        linked = (path.parent / name).resolve() if name else path
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_named_files_exist(path):
    # Guards: a page that speaks of results, scripts or code that nobody has.
    pattern = r"`((?:results|examples|benchmarks|configs|src|tests)/[\w./-]+\.\w+)(?:::\w+)?`"
    for name in re.findall(pattern, text_of(path)):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("name", READMES)
def test_the_python_of_the_readme_runs(name):
    # Guards: the first three lines that a reader tries.
    [block] = blocks(ROOT / name, "python")
    with contextlib.redirect_stdout(io.StringIO()) as written:
        exec(compile(block, name, "exec"), {})
    assert "Bahnhof" in written.getvalue()


def test_the_python_of_the_page_on_decoding_runs(capsys):
    # Guards: an example that no longer fits the interface.
    names = {}
    for block in blocks(ROOT / "docs/decoding.md", "python"):
        exec(compile(block, "docs/decoding.md", "exec"), names)
    assert "".join(capsys.readouterr().out.split()).endswith("WoistderBahnhof?")
    assert names["copied"].text in "Der Bahnhof ist dort, wo er war."


def test_the_short_table_of_speeds_is_measured():
    # Guards: a summary of ratios that its result files no longer support.
    files = {
        "Transformer-base": "base",
        "shape of Marian, random weights": "marian",
        "small": "small",
    }
    page = text_of(ROOT / "docs/speed.md")
    section = page.partition("## In short")[2].partition("\n## ")[0]
    rows_of_page = [line for line in section.splitlines() if line.startswith("|")]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in rows_of_page[2:]]
    for name, batch, *ratios in lines:
        file = files[name.partition(" (")[0]]
        rows = json.loads(text_of(ROOT / f"results/bench-{file}.json"))["results"]
        measured = {
            row["group_size"]: row["ratio_to"]["ctranslate2-int8"]
            for row in rows
            if row["batch_size"] == int(batch)
        }
        for size, ratio in zip((1, 2, 4, 8), ratios, strict=True):
            assert not ratio or float(ratio) == round(measured[size], 2), (
                name,
                batch,
                size,
            )
    assert len(lines) == 9


@pytest.mark.parametrize(("name", "fast", "digits"), [("small", 4, 1), ("base", 8, 0)])
def test_the_readme_gives_times_of_int8_that_were_measured(name, fast, digits):
    # Guards: milliseconds that their result files do not support.
    result = json.loads(text_of(ROOT / f"results/bench-{name}.json"))
    alone = {
        (row["engine"], row["group_size"]): f"{row['ms_per_sentence']:.{digits}f}"
        for row in [*result["results"], *result["baselines"]]
        if row["batch_size"] == 1
    }
    one, many, rival = alone["int8", 1], alone["int8", fast], alone["ctranslate2-int8", 1]
    english = f"takes {one} ms at K=1 and {many} at K={fast}, with CTranslate2 {rival}"
    assert english in text_of(ROOT / "README.md")
    chinese = f"K=1 每句 {one} 毫秒，K={fast} 每句 {many} 毫秒，CTranslate2 要 {rival} 毫秒"
    assert chinese in text_of(ROOT / "README.zh.md")


def test_exact_mode_is_as_fast_as_the_page_says():
    # Guards: ratios of exact mode to K=1 that its result files no longer support.
    section = " ".join(text_of(ROOT / "docs/speed.md").partition("## In short")[2].split())
    for name in ("base", "small"):
        rows = json.loads(text_of(ROOT / f"results/exact-pays-{name}.json"))["results"]
        ratios = (f"{row['metrics']['times_k1']:.2f}" for row in rows)
        assert f"{name} {', '.join(ratios)}" in section


def test_the_teacher_keeps_what_the_page_says():
    # Guards: a share of the teacher's quality that its result files no longer support.
    [teacher] = json.loads(text_of(ROOT / "results/multi30k-adapted-teacher.json"))["results"]
    rows = json.loads(text_of(ROOT / "results/multi30k-adapted.json"))["results"]
    kept = " | ".join(f"{100 * row['bleu'] / teacher['bleu']:.1f}" for row in rows)
    for name in ("docs/results.md", "docs/training.md", "docs/log/training.md"):
        assert f"| {kept} |" in text_of(ROOT / name), name


def drawn(group_size):
    target, lengths = torch.arange(6)[None], torch.tensor([6])
    slots = teacher_forced(target, lengths, equal_sizes(lengths, group_size), START)[0]
    seen = visibility(slots.group, slots.group)[0].tolist()
    for token, position, row in zip(
        slots.token[0].tolist(), slots.position[0].tolist(), seen, strict=True
    ):
        marks = " ".join("■" if visible else "·" for visible in row)
        yield f"{'S' if token == START else f'y{token}':6}{f'y{position}':9}{marks}"


@pytest.mark.parametrize("name", READMES)
def test_the_masks_of_the_readme_are_true(name):
    # Guards: a first page that shows another mask than the code uses.
    for one, three in zip(drawn(1), drawn(3), strict=True):
        assert f"{one:38}{three}\n" in text_of(ROOT / name)


def configurations():
    for path in PAGES:
        for number, block in enumerate(blocks(path, "yaml")):
            yield pytest.param(block, id=f"{named(path)}-{number}")


@pytest.mark.parametrize("block", list(configurations()))
def test_training_configurations_are_valid(block):
    # Guards: a field that was renamed while a page was not.
    RunConfig.model_validate(yaml.safe_load(block))


def test_the_english_and_the_chinese_readme_say_the_same():
    # Guards: a section, command or link that is in one language only.
    english, chinese = (text_of(ROOT / name) for name in READMES)
    for pattern in (r"^##? ", r"^- \*\*", r"\]\(docs/[\w./]+\)", r"^(?:make|pip) \S+"):
        found = [re.findall(pattern, text, re.MULTILINE) for text in (english, chinese)]
        assert sorted(found[0]) == sorted(x for x in found[1] if "glossary" not in x), pattern
    assert all(len(text.splitlines()) <= 90 for text in (english, chinese))


def test_the_picture_of_attention_is_of_the_model_that_ships():
    # Guards: a picture of weights that are no longer there, in which a word is missing.
    drawn = re.findall(r"<!-- (.*?) -->", text_of(ROOT / "docs/pictures/attention.svg"))
    [found] = multistride.load().translate(
        ["I have never seen such a beautiful garden."], group_size=4
    )
    assert found.text in "".join(drawn).replace("␣", " ")
