"""The training text of the model that ships, by the script that writes it."""

import lzma
from pathlib import Path
from runpy import run_path

EXAMPLE = Path(__file__).parents[2] / "examples" / "english-german"


def test_no_measured_source_is_trained_on_as_typed(tmp_path):
    # Guards: "Stop 7!" that is written again as "Stop 7.", which is a sentence of the test set.
    def write(place, lines):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        with lzma.open(tmp_path / place, "wt", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)

    exclaimed = [f"Stop {number}!\tHalt {number}!" for number in range(40)]
    write("tatoeba/train.en-de.tsv.xz", exclaimed)
    write("tatoeba/dev.en-de.tsv.xz", [pair.replace("!", ".") for pair in exclaimed])
    for name in ("suttacentral", "permissive-ui-strings"):
        for split in ("train", "dev"):
            write(f"{name}/{split}.en-de.tsv.xz", [f"{split}\tOne {split}\tEins {split}"])
    for name in ("ui", "help"):
        write(f"libreoffice/{name}.en-de.tsv.xz", [f"Open {name}\tÖffne {name}"])
    run_path(str(EXAMPLE / "corpus.py"))["main"](tmp_path, tmp_path / "text")
    text = {path.name: path.read_text().splitlines() for path in (tmp_path / "text").iterdir()}
    measured = {*text["validation.en"], *text["test-tatoeba.en"]}
    assert "Stop 7." in measured
    assert "Stop 7!" in text["train.en"]
    assert not measured & set(text["train.en"])
    assert len(text["train.en"]) == len(text["train.de"])
