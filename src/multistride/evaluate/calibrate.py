"""`multistride calibrate`: how often tokens of a group are right, against their confidence.

A model is led along a known text: at every border it proposes a group, which is judged and
forgotten, and the known tokens are read instead. In the lookahead layout every token of the text is
such a border, in the paper's layout every K-th.

Shapes: R rows still running, K tokens of a group, N groups.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from multistride.decode.accept import confident_prefix
from multistride.decode.choosing.calibration import (
    THRESHOLDS,
    Calibration,
    KeptShares,
    PlaceCalibration,
    Scale,
    corrector,
    fitted,
)
from multistride.decode.corpus import decode_corpus, source_batch
from multistride.decode.ending import EndingRule
from multistride.decode.markov import greedy_for
from multistride.decode.options import DecodeOptions
from multistride.decode.pick import Picked
from multistride.decode.prefix import read_prefix
from multistride.decode.state import DecodeState
from multistride.decode.step import M, StepModel
from multistride.errors import DataError
from multistride.evaluate.sentences import read_texts
from multistride.files import sha256
from multistride.metrics.calibration import calibration_error
from multistride.model.config import Layout
from multistride.model.directory import weights_digest
from multistride.text_model import TextModel

logger = logging.getLogger(__name__)

MOST_SENTENCES = 2000
"""Lines that are read; more would not change a temperature that matters."""

LEAST_SENTENCES = 10


class Judged(NamedTuple):
    """Proposed groups: log-probabilities [N, K], which tokens are right, which exist, sentences."""

    log_probabilities: NDArray[np.float64]
    right: NDArray[np.bool_]
    there: NDArray[np.bool_]
    sentence: NDArray[np.int64]


def calibrate(
    translator: TextModel,
    directory: Path,
    source: Path,
    reference: Path | None = None,
) -> Calibration:
    """Measure the confidence of a model; right is the reference, or what K=1 writes.

    Temperatures and shifts are fitted on every other sentence and judged on the rest. Raises
    `DataError` for files that cannot be read, do not align, or hold fewer than 10 sentences that
    fit the model.
    """
    sources, targets = _text(translator, source, reference)
    if not targets:
        logger.info(f"decoding {len(sources)} sentences at K=1")
        hypotheses = decode_corpus(translator.engine, sources, DecodeOptions())
        targets = [
            [token for group in each.groups for token in group.tokens] for each in hypotheses
        ]
    config = translator.config
    layouts: list[Layout] = ["sat", "lookahead"] if config.lookahead else ["sat"]
    places: list[PlaceCalibration] = []
    kept: list[KeptShares] = []
    for layout in layouts:
        for size in (size for size in config.group_sizes if size > 1):
            logger.info(f"judging groups of {size} in the layout {layout}")
            judged = judge(translator.engine, sources, targets, layout, size)
            rows = fit(judged, layout, size)
            places += rows
            kept += kept_shares(
                judged, layout, size, [(row.temperature, row.shift) for row in rows]
            )
    return Calibration(
        model_sha256=weights_digest(directory),
        truth="own-k1" if reference is None else "reference",
        sentences=len(sources),
        source_sha256=sha256(source),
        places=tuple(places),
        kept=tuple(kept),
    )


def judge(
    model: StepModel[M],
    sources: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    layout: Layout,
    group_size: int,
    batch_size: int = 32,
) -> Judged:
    """Propose groups along the `targets` (EOS included) and compare them with the true tokens."""
    by_length = sorted(range(len(sources)), key=lambda place: (len(targets[place]), place))
    parts = []
    for first in range(0, len(by_length), batch_size):
        rows = by_length[first : first + batch_size]
        batch = [sources[row] for row in rows], [targets[row] for row in rows]
        parts += list(_led(model, *batch, layout, group_size, rows))
    return Judged(*(np.concatenate(part) for part in zip(*parts, strict=True)))


@torch.inference_mode()
def _led(
    model: StepModel[M],
    sources: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    layout: Layout,
    group_size: int,
    sentences: Sequence[int],
) -> Iterator[Judged]:
    """Yield the groups of one batch, a step at a time; a forced first token is in none of them."""
    config, pick = model.config, greedy_for(model.config, model.markov)
    memory = model.start(*source_batch(sources, config))
    state = DecodeState([len(target) for target in targets], config.start_token, EndingRule.at(-1))
    border, advance = config.forced_tokens, 1 if layout == "lookahead" else group_size
    if config.first_token is not None:
        assert min(map(len, targets)) > border, "EOS or another token follows the forced one"
        state.begin(*read_prefix(model, memory, len(targets), (config.first_token,), group_size))
    longest = max(len(target) for target in targets) + group_size
    table = torch.tensor(
        [[*target, *[config.pad_token] * (longest - len(target))] for target in targets]
    )
    lengths, names = torch.tensor([len(target) for target in targets]), torch.tensor(sentences)
    while not state.done:
        lookahead = layout == "lookahead"
        slots = (
            state.clean_slots(group_size, config.mask_token)
            if lookahead
            else state.slots(group_size)
        )
        picked = pick(model.step(slots, memory)[:, -group_size:])
        truth = table[:, border : border + group_size]
        there = border + torch.arange(group_size) < lengths[:, None]
        facts = (picked.log_probabilities.double(), picked.tokens == truth, there, names)
        yield Judged(*(fact.numpy().copy() for fact in facts))
        rows = torch.full((len(names),), group_size - 1)
        if lookahead:
            memory.truncate(rows)
        state.commit(
            Picked(truth, torch.zeros_like(picked.log_probabilities)),
            torch.full_like(rows, advance),
        )
        border += advance
        if (stay := state.leave()) is not None and not state.done:
            memory.reorder(stay)
            table, lengths, names = table[stay], lengths[stay], names[stay]


def fit(judged: Judged, layout: Layout, group_size: int) -> list[PlaceCalibration]:
    """Return temperature and shift of every place, fitted on even sentences."""
    rows = []
    before = np.ones(len(judged.sentence), dtype=bool)
    confidence = np.exp(judged.log_probabilities)
    for place in range(group_size):
        asked = before & judged.there[:, place]
        known, tested = asked & (judged.sentence % 2 == 0), asked & (judged.sentence % 2 == 1)
        scale = fitted(confidence[known, place], judged.right[known, place])
        scores, right = confidence[tested, place], judged.right[tested, place]
        corrected = _corrected(judged.log_probabilities[tested, place : place + 1], [scale])[:, 0]
        rows.append(
            PlaceCalibration(
                layout=layout,
                group_size=group_size,
                place=place + 1,
                temperature=scale[0],
                shift=scale[1],
                tokens=len(right),
                right=float(right.mean()) if len(right) else 0.0,
                confidence=min(1.0, float(scores.mean())) if len(right) else 0.0,
                error_before=calibration_error(np.minimum(scores, 1), right),
                error_after=calibration_error(np.minimum(corrected, 1), right),
            )
        )
        before = asked & judged.right[:, place]
    return rows


def kept_shares(
    judged: Judged, layout: Layout, group_size: int, scales: Sequence[Scale]
) -> Iterator[KeptShares]:
    """Yield the share of groups that adaptive mode keeps at each threshold."""
    whole = judged.there.all(axis=1)
    scores = torch.from_numpy(judged.log_probabilities[whole]).float()
    sizes = torch.full((len(scores),), group_size)
    picked = Picked(torch.zeros_like(scores, dtype=torch.long), scores)
    sureness = corrector({group_size: scales})
    for threshold in THRESHOLDS:
        kept = confident_prefix(threshold, sureness)(picked, sizes)
        reached = [int((kept >= place).sum()) for place in range(1, group_size + 1)]
        shares = tuple(later / max(earlier, 1) for earlier, later in pairwise(reached))
        yield KeptShares(layout=layout, group_size=group_size, threshold=threshold, shares=shares)


def _corrected(
    log_probabilities: NDArray[np.float64], scales: Sequence[Scale]
) -> NDArray[np.float64]:
    values = torch.from_numpy(log_probabilities).float()
    size = values.shape[1]
    corrected = corrector({size: scales})(values, torch.full((len(values),), size))
    return corrected.double().exp().numpy()


def _text(
    translator: TextModel, source: Path, reference: Path | None
) -> tuple[list[list[int]], list[list[int]]]:
    """Return source tokens of the first lines that fit the model, and reference tokens with EOS."""
    texts, references = read_texts(source, reference, None)
    if reference is None:
        texts = [text.strip() for text in texts if text.strip()]
        references = [""] * len(texts)
    pairs = list(zip(texts, references, strict=True))[:MOST_SENTENCES]
    sources = translator.encode([text for text, _ in pairs])
    targets = translator.vocabulary.encode_target([text for _, text in pairs])
    fitting = [
        (one, other)
        for one, other in zip(sources, targets, strict=True)
        if one and not translator.problem(one) and not translator.problem(other)
    ]
    if len(fitting) < LEAST_SENTENCES:
        raise DataError(
            f"{source} holds {len(fitting)} sentences that fit the model, at least "
            f"{LEAST_SENTENCES} are needed: "
            "give a longer file"
        )
    kept = [one for one, _ in fitting]
    end = translator.config.end_token
    return kept, [] if reference is None else [[*other, end] for _, other in fitting]
