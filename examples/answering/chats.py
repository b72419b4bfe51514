"""Write records as chats: the tokens of a prompt and of its answer, one object a line.

    python chats.py MODEL RECORDS OUTPUT [COPIES]

Each question is written COPIES times (1), every time with other sentences of its passage around the
answer, so that a model learns to look for it and not where it stands. `multistride prepare
--train-written` reads the output.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

from windows import window

from multistride.files import replacing_file
from multistride.generator import Generator
from multistride.tasks.answering.question import CHAT

LONGEST = 110
"""Words of a window, about: longer ones cost time and say no more."""


def main(model: Path, source: Path, output: Path, copies: int) -> None:
    generator, chance = Generator.load(model).chatting(), random.Random(1)
    records = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    with replacing_file(output) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for record in records * copies:
            start, answer = record["start"], record["answers"][0]
            passage = window(record["passage"], start, start + len(answer), LONGEST, chance)
            [prompt] = generator.encode([CHAT.asked(record["question"], passage)])
            [written] = generator.vocabulary.encode_continuation([CHAT.written(answer)])
            file.write(
                json.dumps({"prompt": prompt, "written": [*written, generator.vocabulary.eos]})
                + "\n"
            )
    print(f"{output}: {len(records) * copies} answers", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("source", type=Path, metavar="RECORDS")
    parser.add_argument("output", type=Path, metavar="OUTPUT")
    parser.add_argument("copies", type=int, nargs="?", default=1, metavar="COPIES", help="(1)")
    main(**vars(parser.parse_args()))
