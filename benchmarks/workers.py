"""Compare two workers of one thread with one worker of two threads: sentences per second.

    python benchmarks/workers.py SOURCE [--model DIR] [--engine int8] [--group-size 4]
        [--sentences 512]

SOURCE is translated in batches. Nothing else may run: the measure is wall-clock time. Every worker
is a process that loads the model, warms up, waits for the others and translates its share.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch

from multistride.device import set_threads
from multistride.translator import Translator


def work(arguments: argparse.Namespace, texts: list[str], threads: int, ready: Barrier) -> None:
    set_threads(threads)
    translator = Translator.load(arguments.model, "cpu", arguments.engine)
    translator.translate(
        texts[: arguments.batch_size], arguments.group_size, batch_size=arguments.batch_size
    )
    ready.wait()
    translator.translate(texts, arguments.group_size, batch_size=arguments.batch_size)
    ready.wait()


def sentences_per_second(
    arguments: argparse.Namespace, texts: list[str], workers: int, threads: int
) -> float:
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(workers + 1)
    shares = [texts[place::workers] for place in range(workers)]
    processes = [
        context.Process(target=work, args=(arguments, share, threads, ready)) for share in shares
    ]
    for process in processes:
        process.start()
    ready.wait()
    began = time.perf_counter()
    ready.wait()
    seconds = time.perf_counter() - began
    for process in processes:
        process.join()
    return len(texts) / seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--engine", default="int8")
    parser.add_argument("--group-size", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--sentences", type=int, default=512)
    arguments = parser.parse_args()
    lines = arguments.source.read_text(encoding="utf-8").splitlines()
    texts = lines[:: max(len(lines) // arguments.sentences, 1)]
    found = {"torch": torch.__version__, "engine": arguments.engine, "K": arguments.group_size}
    for workers, threads in ((1, 1), (2, 1), (1, 2)):
        speed = sentences_per_second(arguments, texts, workers, threads)
        found[f"{workers} x {threads} threads, sentences/s"] = round(speed, 1)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
