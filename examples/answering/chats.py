"""Records as what a chat model would have written: the tokens of a prompt and of its answer, one
object a line.

usage: chats.py MODEL RECORDS OUTPUT [COPIES]

Each question is written COPIES times (1), every time with other sentences of its passage around the
answer, so that a model learns to look for it and not where it stands. `multistride prepare
--train-written` reads the output.
"""

from __future__ import annotations

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


def main() -> None:
    model, source, output = map(Path, sys.argv[1:4])
    copies = int(sys.argv[4]) if len(sys.argv) > 4 else 1
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
    main()
