"""Choose the tokens of a group by the Markov head from candidates, for large vocabularies.

Correcting every token of a large vocabulary in every slot is too slow. The candidates of all slots
of a group are the tokens that are most probable in any of its slots: the token that fits the
previous one is often far down the list of its own slot, but seldom of all of them. The first token
is the most probable one overall. So the choice equals that among all tokens wherever the best one
is a candidate.

Log-probabilities are over the whole vocabulary, as if all of it had been corrected: the total
probability of the non-candidates is estimated from a sample, the first `SAMPLED` tokens of every
`SPACING`.

Shapes: B sentences, K slots of a group, L = K - 1 of them after the first, A tokens, C candidates,
W entries of the vocabulary up to whole blocks, Y sampled entries, H rank of the head.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool
from onnx import TensorProto

from multistride.engines.int8.onnx_graph import (
    END,
    Graph,
    Quantised,
    Rows,
    most_probable,
    padded,
    quantised,
)
from multistride.model.markov import MarkovHead

CANDIDATES = 48
"""Number of candidates for each slot of a group."""

SAMPLED, SPACING = 16, 256
"""Sampling of entries: the first `SAMPLED` of every `SPACING` estimate all non-candidates.

They are neighbours because fetching one number costs as much as fetching the 16 of its cache line.
"""


def chosen_of_candidates(graph: Graph, logits: str, head: MarkovHead) -> tuple[str, str]:
    """Return tokens int64 and log-probabilities float32, both [B, K], from logits [B, K, W]."""
    shares = graph.add("Softmax", logits, axis=-1)
    candidates = _candidates(graph, logits, shares)
    first, certain = _first(graph, logits, shares)
    scores, places = _walked(graph, shares, candidates, first, head)
    chosen = graph.add("GatherElements", candidates, places, axis=1)
    tokens = graph.add("Concat", first, chosen, axis=1)
    before = graph.part(tokens, 0, -1, axis=1)
    weight = _weight(graph, shares, candidates, scores, before, head)
    last = graph.constant(np.array([2]))
    score = graph.add("GatherElements", scores, graph.add("Unsqueeze", places, last), axis=2)
    others = graph.add("Squeeze", graph.add("Sub", score, graph.add("Log", weight)), last)
    return tokens, graph.add("Concat", certain, others, axis=1)


def _candidates(graph: Graph, logits: str, shares: str) -> str:
    """Return the tokens [B, C] that are most probable in any of the slots, unordered."""
    slots, entries = (graph.add("Shape", logits, start=axis, end=axis + 1) for axis in (1, 2))
    wanted = graph.add(
        "Min", graph.add("Mul", slots, graph.constant(np.array([CANDIDATES]))), entries
    )
    merged = graph.add("ReduceMax", shares, graph.constant(np.array([1])), keepdims=0)
    return graph.many("TopK", merged, wanted, outputs=2, axis=-1, sorted=0)[1]


def _first(graph: Graph, logits: str, shares: str) -> tuple[str, str]:
    """Return the most probable token of the first slot and its log-probability, both [B, 1]."""
    one = graph.constant(np.array([1]))
    _, token = most_probable(graph, graph.add("Squeeze", graph.part(logits, 0, 1, axis=1), one))
    slot = graph.add("Mul", token, graph.constant(np.array(0)))
    share = graph.add("GatherND", shares, graph.add("Concat", slot, token, axis=1), batch_dims=1)
    return token, graph.add("Log", graph.add("Unsqueeze", share, one))


def _walked(
    graph: Graph, shares: str, candidates: str, first: str, head: MarkovHead
) -> tuple[str, str]:
    """Return the corrected scores of the candidates [B, L, C] and the indices of the best [B, L].

    A score is the logarithm of the candidate's probability in its slot, plus the correction by the
    head. Each slot depends on the token chosen in the previous one.
    """
    every = graph.add(
        "Concat",
        graph.add("Shape", shares, start=0, end=2),
        graph.add("Shape", candidates, start=1),
        axis=0,
    )
    wide = graph.add(
        "Expand", graph.add("Unsqueeze", candidates, graph.constant(np.array([1]))), every
    )
    plain = graph.part(
        graph.add("Log", graph.add("GatherElements", shares, wide, axis=2)), 1, END, axis=1
    )
    previous, following = quantised(head.previous.weight), quantised(head.following)
    row = graph.add("Transpose", _rows(graph, previous, first), perm=[0, 2, 1])
    body = _slot(_rows(graph, previous, candidates), _rows(graph, following, candidates))
    places, scores = graph.scan(
        body, row, graph.add("Unsqueeze", plain, graph.constant(np.array([3]))), outputs=2, axis=1
    )
    last = graph.constant(np.array([3]))
    return graph.add("Squeeze", scores, last), graph.add(
        "Squeeze", places, graph.constant(np.array([2, 3]))
    )


def _slot(previous: str, following: str) -> Graph:
    """Build the graph of one slot.

    It maps `row` [B, H, 1] of the previous token and `plain` [B, C, 1] to the `next` row, `place`
    and `scores`. `previous` and `following` are the candidates' rows [B, C, H] in the enclosing
    graph.
    """
    body = Graph("slot")
    row, plain = (
        body.input("row", np.float32, ["B", "H", 1]),
        body.input("plain", np.float32, ["B", "C", 1]),
    )
    scores = body.add("Add", plain, body.add("MatMul", following, row))
    place = body.add("ArgMax", scores, axis=1, keepdims=1)
    chosen = body.shaped(body.add("GatherND", previous, place, batch_dims=1), 0, -1, 1)
    body.output("next", chosen, np.float32, ["B", "H", 1])
    body.output("place", place, np.int64, ["B", 1, 1])
    body.output("scores", scores, np.float32, ["B", "C", 1])
    return body


def _weight(
    graph: Graph, shares: str, candidates: str, scores: str, before: str, head: MarkovHead
) -> str:
    """Return the normaliser of all tokens [B, L, 1]: candidates plus an estimate of the rest."""
    last = graph.constant(np.array([2]))
    weights = graph.add("Exp", scores)
    sampled = graph.add(
        "Mul", graph.add("Exp", _added(graph, before, head)), _sampled(graph, shares, head)
    )
    inside = graph.add("Mod", candidates, graph.constant(np.array(SPACING)))
    known = graph.add("Less", inside, graph.constant(np.array(SAMPLED)))
    known = graph.add("Unsqueeze", graph.add("Cast", known, to=TensorProto.FLOAT), last)
    unknown = graph.add(
        "Sub",
        graph.add("ReduceSum", sampled, last, keepdims=1),
        graph.add("MatMul", weights, known),
    )
    sparse = np.array(len(head.following) / _taken(head).sum(), np.float32)
    others = graph.add("Mul", graph.add("Relu", unknown), graph.constant(sparse))
    return graph.add("Add", graph.add("ReduceSum", weights, last, keepdims=1), others)


def _added(graph: Graph, before: str, head: MarkovHead) -> str:
    """Return the correction of the sampled entries [B, L, Y] after the tokens `before` [B, L]."""
    previous, following = quantised(head.previous.weight), padded(quantised(head.following))
    stored = graph.constant((previous.integers.T.astype(np.int16) + 128).astype(np.uint8))
    step, zero = graph.constant(np.array(1, np.float32)), graph.constant(np.array(128, np.uint8))
    rows = Rows(graph.add("Gather", stored, before), step, zero)
    sampled = Quantised(following.integers[:, _taken(head)], following.scale[_taken(head)])
    factor = graph.add("Gather", graph.constant(previous.scale[:, None]), before)
    return graph.add("Mul", graph.product(rows, sampled), factor)


def _taken(head: MarkovHead) -> Bool[np.ndarray, "W"]:
    """Return which entries are sampled."""
    entries = len(padded(quantised(head.following)).scale)
    return np.arange(entries) % SPACING < SAMPLED


def _sampled(graph: Graph, shares: str, head: MarkovHead) -> str:
    """Return the probabilities of the sampled entries in the slots after the first [B, L, Y]."""
    lines = graph.shaped(shares, 0, 0, -1, SAMPLED)
    taken = graph.add(
        "Gather", lines, graph.constant(np.flatnonzero(_taken(head)[::SAMPLED])), axis=2
    )
    return graph.part(graph.shaped(taken, 0, 0, -1), 1, END, axis=1)


def _rows(graph: Graph, table: Quantised, tokens: str) -> str:
    """Return the rows of a table [B, A, H] for tokens [B, A]."""
    integers = graph.add(
        "Gather", graph.constant(np.ascontiguousarray(padded(table).integers.T)), tokens
    )
    scale = graph.add("Gather", graph.constant(padded(table).scale[:, None]), tokens)
    return graph.add("Mul", graph.add("Cast", integers, to=TensorProto.FLOAT), scale)
