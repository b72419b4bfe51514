"""Self-distillation of a causal model: what it writes itself after prompts, as tokens.

A model that is trained to draft its own text should see that text (on-policy distillation: Zhou et
al. 2024, arXiv 2310.08461, section 3). Tokens, not text: the same text can be written in other
tokens than the model would.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from multistride.data.corpus import INVALID_UTF8
from multistride.decode.corpus import decode_corpus
from multistride.decode.hypothesis import Hypothesis
from multistride.decode.options import DecodeOptions
from multistride.distill.config import DistillConfig
from multistride.distill.tally import Tally
from multistride.distill.teacher import Decoded, Teacher, Translations
from multistride.engines.eager import EagerStepModel
from multistride.generator import Generator
from multistride.parts import Part

UNFIT = "no room for a text"
"""Why a line is empty, beside `INVALID_UTF8`: the prompt is too long, or blank where the model
needs one."""


class Continuer(Teacher):
    """A causal model as its own teacher: a line is a prompt, what it writes a JSON object of token
    ids.
    """

    def __init__(
        self, generator: Generator, options: DecodeOptions, precision: str = "float32"
    ) -> None:
        def decode(sources: list[list[int]], progress: Callable[[int], None]) -> list[Decoded]:
            hypotheses = decode_corpus(generator.engine, sources, options, progress)
            return [
                Decoded(_with_end(hypothesis), hypothesis.ending == "end")
                for hypothesis in hypotheses
            ]

        super().__init__(generator, decode, "eager", precision, f"torch {torch.__version__}")
        self._generator = generator

    def choices(self, config: DistillConfig) -> dict[str, Any]:
        """Return the settings that further decide what is written."""
        return {
            name: getattr(config, name) for name in ("max_tokens", "temperature", "seed", "chat")
        }

    def tally(self) -> Tally:
        """Return the counter of the parts that this teacher wrote."""
        return WrittenTally(self.translator.vocabulary)

    def translate(
        self, lines: list[bytes], progress: Callable[[int], None] = lambda count: None
    ) -> Translations:
        """Continue lines of UTF-8; the n-th object belongs to the n-th line, an empty line if there
        is none.
        """
        prompts, faults = self._prompts(lines)
        places = [place for place, fault in enumerate(faults) if fault is None]
        progress(len(lines) - len(places))
        decoded = self._decode([prompts[place] for place in places], progress)
        texts = [""] * len(lines)
        for place, each in zip(places, decoded, strict=True):
            texts[place] = json.dumps({"prompt": prompts[place], "written": each.tokens})
        empty = Counter(fault for fault in faults if fault is not None)
        return Translations(
            texts, dict(sorted(empty.items())), sum(not each.ended for each in decoded)
        )

    def _prompts(self, lines: list[bytes]) -> tuple[list[list[int]], list[str | None]]:
        """The tokens of each prompt, and why it cannot be continued (None: it can)."""
        texts: list[str] = []
        faults: list[str | None] = []
        for line in lines:
            try:
                texts.append(line.decode("utf-8"))
                faults.append(None)
            except UnicodeDecodeError:
                texts.append("")
                faults.append(INVALID_UTF8)
        prompts = self._generator.encode(texts)
        for place, tokens in enumerate(prompts):
            if faults[place] is None and self._generator.problem(tokens):
                faults[place] = UNFIT
        return prompts, faults


def _with_end(hypothesis: Hypothesis) -> list[int]:
    """All that was written, the token that ended it included: it need not be EOS."""
    return [token for group in hypothesis.groups for token in group.tokens]


class WrittenTally(Tally):
    """Counts over the parts that a causal model wrote."""

    def add(self, part: Part, sources: Sequence[bytes], targets: Sequence[bytes] | None) -> None:
        """Count one part."""
        self._count_lines(part, sources)
        for line in part.lines:
            if line:
                self._tokens["output"] += len(json.loads(line)["written"])

    def facts(self, compared: bool) -> dict[str, Any]:
        """The counts and seconds."""
        facts = super().facts(compared)
        left_out = ("length_ratio_to_source", "length_ratio_to_target", "changed_share")
        return {
            **{name: fact for name, fact in facts.items() if name not in left_out},
            **self._written(),
        }

    def _written(self) -> dict[str, Any]:
        tokens = self._tokens["output"]
        return {
            "tokens": tokens,
            "tokens_per_second": round(tokens / self._seconds, 2) if self._seconds else None,
        }


def continuer(config: DistillConfig, device: str) -> Continuer:
    """Load a causal model that continues prompts as `config` says.

    Raises `DataError` for a bad model directory, `UsageError` for a chat without a template.
    """
    generator = Generator.load(config.model, device, "eager")
    if config.precision == "bfloat16":
        generator.engine = EagerStepModel(generator.engine.model.to(torch.bfloat16))
    drawn = {"temperature": config.temperature, "seed": config.seed} if config.temperature else {}
    options = DecodeOptions.made(
        batch_size=config.batch_size, max_tokens=config.max_tokens, **drawn
    ).checked(generator.config)
    return Continuer(generator.chatting() if config.chat else generator, options, config.precision)
