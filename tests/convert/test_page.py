"""docs/convert.md: its tables are those of results/convert-parity.json, its commands exist, its
Python runs."""

import json
import re
from pathlib import Path

import pytest
import torch
import typer

from multistride.cli import app
from multistride.data.vocab import train_vocabulary
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer
from multistride.model.weights import save_model

ROOT = Path(__file__).parents[2]
RESULT = json.loads((ROOT / "results/convert-parity.json").read_text())
PAGE = (ROOT / "docs/convert.md").read_text()
COMMANDS = re.findall(
    r"multistride (\w+)((?:[^\n`]|\\\n)*)",
    "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)),
)


def rows():
    for line in RESULT["layouts"]:
        cells = (
            line["layout"],
            f"`{line['class']}`",
            f"{line['largest_logit_difference']:.1e}",
            f"{line['identical_continuations']} of {line['prompts']}",
        )
        yield "| " + " | ".join(cells) + " |"


def test_the_page_says_what_was_measured():
    table = re.search(r"<!-- parity -->\n(.*?)<!-- end -->", PAGE, re.DOTALL)
    assert table is not None
    assert table[1].splitlines()[2:] == list(rows())


@pytest.mark.parametrize("line", RESULT["layouts"], ids=lambda line: line["layout"])
def test_what_was_measured_is_good_enough(line):
    assert line["largest_logit_difference"] <= 1e-4
    assert line["identical_continuations"] == line["prompts"] == RESULT["settings"]["prompts"]
    assert line["identical_after_round_trip"]


@pytest.mark.parametrize(("verb", "rest"), COMMANDS)
def test_commands_and_options_exist(verb, rest):
    """An option that was renamed while the page was not."""
    command = typer.main.get_command(app).commands[verb]
    known = {name for parameter in command.params for name in parameter.opts}
    assert set(re.findall(r"--[\w-]+", rest)) <= known


def test_its_python_runs(tmp_path):
    """The last block of the page, with a small model of ours."""
    block = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[-1]
    vocabulary = train_vocabulary(["Where is the station? Wo ist der Bahnhof?"], 300, "bpe")
    sizes = {
        "hidden_size": 16,
        "feedforward_size": 16,
        "heads": 2,
        "encoder_layers": 1,
        "decoder_layers": 1,
    }
    config = TransformerConfig(
        vocabulary_size=len(vocabulary), max_positions=24, group_sizes=(1, 2, 4), **sizes
    )
    torch.manual_seed(1)
    save_model(tmp_path / "model", Transformer(config), vocabulary, {}, "# card\n")
    names = {"directory": str(tmp_path / "model")}
    exec(block.replace('"again"', repr(str(tmp_path / "again"))), names)
    assert names["written"].shape[0] == 1
    assert (tmp_path / "again" / "tokenizer.json").is_file()
