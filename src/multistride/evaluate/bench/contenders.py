"""The contenders of a benchmark: our engines in every way, and what they are compared with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from multistride.baselines.ctranslate2 import save_ctranslate2
from multistride.decode.options import DecodeOptions
from multistride.errors import DataError, MissingExtraError, UsageError
from multistride.evaluate.bench.processes import Worker
from multistride.evaluate.bench.rounds import Entry
from multistride.evaluate.bench.workers.messages import Setup
from multistride.report.result import OWN
from multistride.translator import Translator

logger = logging.getLogger(__name__)

OTHER_MODEL = "against-model"
"""The baseline that is K=1 of another model on the same engine."""

LIBRARIES = {
    "ctranslate2-int8": "ctranslate2",
    "ctranslate2-float32": "ctranslate2",
    "transformers-float32": "transformers",
}
"""Baselines that are other programs, by name: the package each of them needs."""

BASELINES = (OWN, *LIBRARIES)
_SEVERAL = {
    "ctranslate2": ("ctranslate2-int8", "ctranslate2-float32"),
    "transformers": ("transformers-float32",),
}


def baselines(names: Sequence[str]) -> tuple[str, ...]:
    """Return the baselines of `--against`; the name of a package stands for all that it offers.

    Raises `UsageError` for an unknown one and `MissingExtraError` for one that is not installed.
    """
    found: list[str] = []
    for name in names:
        if name not in BASELINES and name not in _SEVERAL:
            raise UsageError(
                f"--against names {name!r}; allowed are {', '.join((*BASELINES, *_SEVERAL))}: "
                "choose some of them"
            )
        found.extend(_SEVERAL.get(name, (name,)))
    for name in found:
        package = LIBRARIES.get(name)
        if package and not installed(package):
            raise MissingExtraError(
                f"the baseline {name} was asked for and {package} is not installed: "
                "pip install 'multistride[bench]', or leave it out of --against"
            )
    return tuple(dict.fromkeys(found))


def installed(package: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    return find_spec(package) is not None


class Contenders:
    """Opens workers one after the other; `stack` ends them, whatever happens."""

    def __init__(
        self,
        model: Path,
        translator: Translator,
        texts: Sequence[str],
        threads: int,
        device: str,
        stack: ExitStack,
    ) -> None:
        self._translator, self._texts, self._stack = translator, texts, stack
        self._setup = Setup(
            model=model, sources=_tokens(translator, texts, model), threads=threads, device=device
        )

    @property
    def lengths(self) -> list[int]:
        """Return the number of source tokens of each sentence."""
        return [len(source) for source in self._setup.sources]

    def own(self, engine: str, ways: Sequence[DecodeOptions], compared: bool) -> list[Entry]:
        """Open one of our engines in every way.

        Where `compared`, its greedy K=1 is a baseline, be it among `ways` or not.
        """
        worker = self._opened("own", self._setup.model_copy(update={"engine": engine}))
        entries = [self._entry(worker, way, own=True) for way in ways]
        if not compared:
            return entries
        alone = next((place for place, entry in enumerate(entries) if entry.autoregressive), None)
        if alone is None:
            return [*entries, self._entry(worker, DecodeOptions(), baseline=OWN)]
        entries[alone] = self._entry(worker, entries[alone].options, own=True, baseline=OWN)
        return entries

    def other_model(self, path: Path, engine: str) -> Entry:
        """Open another model at K=1 on the same engine.

        Raises `DataError` if it cannot read the sentences.
        """
        other = Translator.load(path, "cpu", "eager")
        sources = _tokens(other, self._texts, path)
        setup = self._setup.model_copy(update={"model": path, "sources": sources, "engine": engine})
        worker = self._opened("own", setup)
        return Entry(
            worker, DecodeOptions(), other.config, other.vocabulary, ours=True, baseline=OTHER_MODEL
        )

    def libraries(self, names: Sequence[str], place: Path) -> list[Entry]:
        """Open other programs with our weights; what CTranslate2 reads is written to `place`."""
        entries = []
        converted = place / "ctranslate2"
        for name in names:
            package, _, precision = name.partition("-")
            setup = self._setup
            if package == "ctranslate2":
                if not converted.exists():
                    converted.mkdir()
                    save_ctranslate2(self._translator.engine.model, converted)
                setup = setup.model_copy(update={"converted": converted, "compute_type": precision})
            logger.info(f"opening {name}")
            worker = self._opened(package, setup)
            entries.append(self._entry(worker, DecodeOptions(), ours=False, baseline=name))
        return entries

    def _opened(self, kind: str, setup: Setup) -> Worker:
        return self._stack.enter_context(Worker(kind, setup))

    def _entry(
        self,
        worker: Worker,
        way: DecodeOptions,
        own: bool = False,
        ours: bool = True,
        baseline: str | None = None,
    ) -> Entry:
        translator = self._translator
        return Entry(
            worker,
            way,
            translator.config,
            translator.vocabulary,
            own=own,
            ours=ours,
            baseline=baseline,
        )


def _tokens(
    translator: Translator, texts: Sequence[str], model: Path
) -> tuple[tuple[int, ...], ...]:
    sources = translator.encode(texts)
    for source in sources:
        if problem := translator.problem(source):
            raise DataError(f"a sentence cannot be decoded by {model}: {problem}")
    return tuple(map(tuple, sources))
