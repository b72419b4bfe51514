"""Trees of drafts in the native kernels: every slot has the bits that it has in a chain."""

import pytest
import torch
from draft_heads import head_tensors
from layouts import NATIVE_LAYOUTS, moved

from multistride.decode.choosing.strategy import Measured
from multistride.decode.corpus import decode_corpus
from multistride.decode.draft_head import DraftHead
from multistride.decode.draft_tree import DraftTree
from multistride.decode.options import DecodeOptions
from multistride.decode.plan import plan

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
from multistride.engines.int8 import engine as int8
from multistride.engines.int8.native import library

pytestmark = pytest.mark.skipif(library.missing() is not None, reason=str(library.missing()))

TREE = DraftTree(
    [9, 10, 11, 12, 13, 14, 15, 9, 17, 18], [-1, -1, 0, 0, 1, 3, 2, 5, 7, -1], []
)  # fmt: skip
CAUSAL = [name for name in NATIVE_LAYOUTS if not moved(name).config.encoder_layers]
TRANSLATING = [name for name in NATIVE_LAYOUTS if name not in CAUSAL]


def paths(tree):
    """The slots from the text to every draft."""
    found = [[0]]
    for slot, parent in enumerate(tree.parents, 1):
        found.append([*found[parent + 1], slot])
    return found


def begun(engine, length):
    """A memory that has read a prompt or a source and some tokens, and the next position."""
    source, lengths = None, None
    if engine.config.encoder_layers:
        source, lengths = torch.arange(5, 12)[None], torch.tensor([7])
    memory = engine.start(source, lengths)
    engine.read_single([4 + each % 30 for each in range(length)], 1, memory)
    return memory, 1 + length


@pytest.mark.parametrize("length", [3, 17, 40])
@pytest.mark.parametrize("name", [*CAUSAL, *TRANSLATING])
def test_a_slot_of_a_tree_has_the_bits_that_it_has_in_a_chain(name, length):
    # Guards: hidden slots that move others among the lanes of a sum; positions, distances and
    # windows by the place of a slot instead of its depth; keys that are kept at the wrong places.
    engine = int8.quantise(moved(name), 1)
    assert engine.reads_trees
    memory, position = begun(engine, length)
    whole = engine.step_tree(8, TREE, position, memory)
    reads = [8, *TREE.tokens]
    for path in paths(TREE):
        alone, position = begun(engine, length)
        one = []
        for ahead, slot in enumerate(path):
            read = engine.step_single([reads[slot]], position + ahead, 0, alone)
            states = None if read.states is None else read.states.clone()  # not yet overwritten
            one.append(read._replace(states=states))
        along = whole.along(path)
        assert along.tokens == [read.tokens[0] for read in one]
        assert along.log_probabilities == [read.log_probabilities[0] for read in one]
        if name in CAUSAL:
            assert torch.equal(along.states, torch.cat([read.states for read in one]))
        kept, position = begun(engine, length)
        engine.step_tree(8, TREE, position, kept)
        engine.keep_path(path, TREE, kept)
        following = [
            engine.step_single([20, 21, 22], position + len(path), 0, each)
            for each in (kept, alone)
        ]
        assert following[0].log_probabilities == following[1].log_probabilities
        assert following[0].tokens == following[1].tokens


class Guessing(DraftHead):
    """A head whose trees hold what K=1 writes somewhere among other tokens."""

    def __init__(self, texts):
        super().__init__(head_tensors(40, 64))
        self.texts, self.grown = texts, 0

    def grow(self, state, written, count, least=0.0):
        """A tree of wrong branches, one of which goes on as a text does behind that token."""
        self.grown += 1
        text = next((text for text in self.texts if written in text[:-1]), [])
        right = text[text.index(written) + 1 :] if text else []
        tokens, parents, way = [], [], -1
        for place in range(count):
            if place % 3 == self.grown % 3 and right:
                tokens.append(right.pop(0))
                parents.append(way)
                way = place
            else:
                tokens.append(4 + (written + place) % 30)
                parents.append(place - 2 if place % 2 else -1)
        return DraftTree(tokens, parents, [])


@pytest.mark.parametrize("size", [2, 4, 8, 16])
@pytest.mark.parametrize("name", CAUSAL)
def test_texts_with_drafts_of_trees_are_those_of_k1(name, size):
    # Guards: a rejected branch in the text, a text that goes on from the wrong slot.
    model = moved(name)
    engine = int8.quantise(model, 1)
    texts = [[5, 6, 7], [9], [12, 30, 11, 8, 6, 20, 4]]
    greedy = DecodeOptions.made(max_tokens=40, batch_size=1)
    expected = decode_corpus(engine, texts, greedy)
    head = Guessing([list(each.tokens) for each in expected])
    options = greedy.model_copy(update={"group_size": size, "mode": "exact", "drafts": "head"})
    found = decode_corpus(engine, texts, plan(options, model.config, knowledge=Measured(head=head)))
    assert head.grown > 1
    for one, other in zip(found, expected, strict=True):
        assert (one.tokens, one.log_probabilities) == (other.tokens, other.log_probabilities)
    if size > 4:
        assert sum(each.steps for each in found) < sum(each.steps for each in expected)
