"""The documentation site: its menu and links fit the pages, before Sphinx ever runs."""

import importlib.util
import re
from pathlib import Path

import multistride

ROOT = Path(__file__).parents[2]

specification = importlib.util.spec_from_file_location("site_tool", ROOT / "docs/tools/site.py")
site = importlib.util.module_from_spec(specification)
specification.loader.exec_module(site)


def test_the_menu_holds_every_page():
    # Guards: a new page that nobody finds, a page in the menu that was removed.
    listed = [page for _, entries in site.sections() for page in entries]
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert {page for page in listed if "/" not in page} == pages | {
        "contributing.md",
        "changelog.md",
    }
    assert len(listed) == len(set(listed))


def test_staged_links_and_tables_of_contents_lead_to_files(tmp_path):
    # Guards: a link that works in the repository and is broken on the site.
    site.stage(tmp_path)
    staged = sorted(page for page in tmp_path.rglob("*.md") if "files" not in page.parts)
    assert len(staged) > 30
    for page in staged:
        text = site._FENCED.sub("", page.read_text(encoding="utf-8"))
        for _, _, target in site._LINK.findall(text):
            if not target.startswith(("http", "#", "mailto:")):
                assert (page.parent / target.partition("#")[0]).is_file(), (page, target)
    for page in staged:
        for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.DOTALL):
            for entry in block.splitlines():
                if entry and not entry.startswith(":"):
                    assert (page.parent / f"{entry}.md").is_file(), (page, entry)


def test_what_looks_like_a_link_in_a_program_stays(tmp_path):
    text = "[a](docs/training.md)\n\n```python\nrows[0](docs/training.md)\n```\n"
    staged = site.relinked(text, "README.md", "readme.md", site.pages(), tmp_path)
    assert staged == text.replace("[a](docs/training.md)", "[a](training.md)")


def test_the_reference_names_what_is_public():
    # Guards: a public name without a page, a page about something renamed.
    directives = " ".join(line for _, lines in site.REFERENCE.values() for line in lines)
    named = re.findall(r"auto(?:class|function):: ([\w.]+)", directives)
    for name in named:
        module, _, attribute = name.rpartition(".")
        if module == "multistride":
            module = multistride._HOMES[attribute]
        source = (ROOT / "src" / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        assert re.search(rf"^(def|class) {attribute}\b", source, re.MULTILINE), name
    public = {f"multistride.{name}" for name in multistride.__all__}
    assert public - set(named) == {"multistride.__version__", "multistride.UserError"}
    assert "automodule:: multistride.errors" in directives
