"""ONNX graphs that map hidden states to groups in which each token depends on the previous one.

Every token of a group after the first is the most probable one after the Markov head has corrected
all logits by the previous token (`decode/markov.py` computes the same sums); in large vocabularies
only likely tokens are corrected (`candidates.py`). The tables of the head are in 8 bits.

Shapes: B sentences, K slots of a group, D hidden size, V vocabulary, W the same up to whole blocks.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from multistride.engines.int8.candidates import chosen_of_candidates
from multistride.engines.int8.onnx_graph import END, Graph, Rounding, Rows, padded, quantised
from multistride.engines.int8.output import chosen, final_rows, pickable_output, width
from multistride.model.markov import MarkovHead
from multistride.model.transformer import Transformer

LARGE = 16_384
"""Vocabulary size from which only candidates are corrected (`candidates.py`)."""


def chained_graph(model: Transformer, final: Rounding) -> ModelProto:
    """Map `hidden` uint8 [B, K, D] to `tokens` and `log_probabilities`, both [B, K]."""
    graph = Graph("chained")
    rows = final_rows(graph, final, ["B", "K", model.config.hidden_size])
    output = pickable_output(model, final)
    return finished(graph, graph.product(rows, output.weight, output.bias), model)


def finished(graph: Graph, logits: str, model: Transformer) -> ModelProto:
    """Return the graph, completed by the choice of tokens from its logits [B, K, W]."""
    assert model.markov is not None
    choose = chosen_of_candidates if width(model) >= LARGE else _chosen_of_all
    tokens, log_probabilities = choose(graph, logits, model.markov)
    graph.output("tokens", tokens, np.int64, ["B", "K"])
    graph.output("log_probabilities", log_probabilities, np.float32, ["B", "K"])
    return graph.model()


def _chosen_of_all(graph: Graph, logits: str, head: MarkovHead) -> tuple[str, str]:
    """Return tokens and log-probabilities [B, K], correcting the whole vocabulary in every slot."""
    logits = graph.add("Transpose", logits, perm=[1, 0, 2])
    first = graph.add("Squeeze", graph.part(logits, 0, 1, axis=0), graph.constant(np.array([0])))
    token, certain = chosen(graph, first)
    others = graph.scan(_chain(head), token, graph.part(logits, 1, END, axis=0), outputs=2)
    found = []
    for one, rest in ((token, others[0]), (certain, others[1])):
        every = graph.add(
            "Concat", graph.add("Unsqueeze", one, graph.constant(np.array([0]))), rest, axis=0
        )
        shaped = graph.add("Squeeze", every, graph.constant(np.array([2])))
        found.append(graph.add("Transpose", shaped, perm=[1, 0]))
    return found[0], found[1]


def _chain(head: MarkovHead) -> Graph:
    """Build the graph of one slot, from the previous token and the slot's logits.

    It maps `before` int64 [B, 1] and `plain` float32 [B, W] to `next` and `token` int64 [B, 1] and
    `certain` float32 [B, 1], the log-probability of the token.
    """
    body = Graph("slot")
    before, plain = (
        body.input("before", np.int64, ["B", 1]),
        body.input("plain", np.float32, ["B", "W"]),
    )
    table, following = quantised(head.previous.weight), quantised(head.following)
    stored = (table.integers.T.astype(np.int16) + 128).astype(np.uint8)
    integers, factor = (
        body.add("Gather", body.constant(each), before) for each in (stored, table.scale[:, None])
    )
    rows = Rows(
        integers, body.constant(np.array(1, np.float32)), body.constant(np.array(128, np.uint8))
    )
    added = body.add("Mul", body.product(rows, padded(following)), factor)  # [B, 1, W]
    changed = body.add("Add", plain, body.add("Squeeze", added, body.constant(np.array([1]))))
    token, certain = chosen(body, changed)
    body.output("next", token, np.int64, ["B", 1])
    body.output("token", token, np.int64, ["B", 1])
    body.output("certain", certain, np.float32, ["B", 1])
    return body
