"""Write 20 Newsgroups (bydate) as records, without headers.

    python newsgroups.py DATA DIRECTORY

DATA has train.jsonl.xz and test.jsonl.xz with `label` and `text`. DIRECTORY gets train, validation
and test.jsonl; the validation split is taken from the training documents.
"""

import argparse
import json
import lzma
import random
import sys
from collections.abc import Iterator
from pathlib import Path

VALIDATION_SHARE = 0.1


def records(path: Path) -> Iterator[dict[str, str]]:
    """The documents of one file without their headers, which end at the first blank line.

    That is what scikit-learn's `remove=("headers",)` does. Quotations and signatures stay.
    """
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            yield {"text": record["text"].partition("\n\n")[2].strip(), "label": record["label"]}


def write(path: Path, chosen: list[dict[str, str]]) -> None:
    """Write records that have a text; says how many had none."""
    kept = [record for record in chosen if record["text"]]
    path.write_text(
        "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept), encoding="utf-8"
    )
    print(
        f"{path}: {len(kept)} records, {len(chosen) - len(kept)} without text left out",
        file=sys.stderr,
    )


def main(data: Path, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    training = list(records(data / "train.jsonl.xz"))
    random.Random(1).shuffle(training)
    held_out = int(len(training) * VALIDATION_SHARE)
    write(directory / "validation.jsonl", training[:held_out])
    write(directory / "train.jsonl", training[held_out:])
    write(directory / "test.jsonl", list(records(data / "test.jsonl.xz")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    main(**vars(parser.parse_args()))
