"""The int8 engine says what the reference says, as nearly as 8 bits allow, and says it whatever the
batch."""

from dataclasses import replace
from functools import partial
from itertools import zip_longest

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multistride.decode.batch import Rows, begin_batch, begin_joinable, decode_batch, new_state
from multistride.decode.choosing.economy import Economy
from multistride.decode.corpus import decode_corpus, source_batch
from multistride.decode.ending import EndingRule
from multistride.decode.even import decode_even
from multistride.decode.exact import Drafter
from multistride.decode.loop import decode
from multistride.decode.markov import greedy_for
from multistride.decode.options import DecodeOptions
from multistride.decode.plan import plan
from multistride.decode.state import DecodeState
from multistride.engines.eager import EagerStepModel
from multistride.engines.int8 import loops as int8_loops
from multistride.engines.int8.loops import Drafting, QuickDrafter, decode_single
from multistride.engines.quick import PickedGroups
from multistride.groups import PADDING_GROUP, Drafts, Slots, draft_slots
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

pytest.importorskip("onnxruntime", reason="the extra [int8] is not installed")
from multistride.engines.int8 import candidates as int8_candidates
from multistride.engines.int8 import chain as int8_chain
from multistride.engines.int8 import engine as int8
from multistride.engines.int8 import graphs as int8_graphs
from multistride.engines.int8 import output as int8_output
from multistride.engines.int8.buffers import MASKED, ROOM, Network
from multistride.engines.int8.onnx_graph import Graph, Rounding
from multistride.engines.int8.ranges import Roundings

TOLERANCE = 0.2
"""The most by which logits may be off, on average, as a share of their size; random models are
worst."""

GROUP_SIZES = (1, 2, 3, 4, 8)
LIMITS = {"limit_ratio": 1.0, "limit_extra": 9}


@pytest.fixture(scope="module")
def model(int8_model):
    return int8_model


@pytest.fixture(scope="module")
def engine(model):
    return int8.quantise(model, threads=1)


@pytest.fixture(scope="module")
def causal():
    """A decoder-only model with the other choices: GELU, untied, no encoder."""
    torch.manual_seed(7)
    sizes = {
        "hidden_size": 32,
        "feedforward_size": 64,
        "heads": 4,
        "encoder_layers": 0,
        "decoder_layers": 2,
    }
    choices = {
        "activation": "gelu",
        "tie_embeddings": False,
        "group_sizes": GROUP_SIZES,
        "max_positions": 64,
    }
    return Transformer(TransformerConfig(vocabulary_size=40, **sizes, **choices)).eval()


def headed(vocabulary_size, rank=4):
    """A decoder-only model with a Markov head that has much to say (none at rank 0)."""
    torch.manual_seed(9)
    sizes = {
        "hidden_size": 32,
        "feedforward_size": 64,
        "heads": 4,
        "encoder_layers": 0,
        "decoder_layers": 1,
    }
    choices = {"vocabulary_size": vocabulary_size, "group_sizes": GROUP_SIZES, "markov_rank": rank}
    model = Transformer(TransformerConfig(**sizes, **choices)).eval()
    if model.markov is not None:
        with torch.no_grad():
            model.markov.following.normal_(std=2)
    return model


@pytest.fixture(scope="module")
def echo():
    """Makes models, by the rank of the head, that write one token again and again, so that drafts
    often stand."""

    def made(rank):
        torch.manual_seed(3)
        sizes = {
            "hidden_size": 32,
            "feedforward_size": 64,
            "heads": 4,
            "encoder_layers": 1,
            "decoder_layers": 1,
        }
        config = TransformerConfig(
            **sizes, vocabulary_size=40, group_sizes=GROUP_SIZES, markov_rank=rank
        )
        model = Transformer(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
            if model.markov is not None:
                model.markov.following.normal_(std=0.1)
        return model

    return made


def off(found, expected):
    """How far logits are from others, as a share of their size."""
    return float((found - expected).abs().mean() / expected.abs().mean())


def slots_at(generator, rows, width, border, group):
    token = torch.randint(4, 40, (rows, width), generator=generator)
    position = (border + torch.arange(width)).expand(rows, width)
    return Slots(token, position, torch.full_like(token, width), torch.full_like(token, group))


class Both:
    """The reference and the int8 engine, led through the same steps."""

    def __init__(self, model, engine, source, lengths):
        self.engines = EagerStepModel(model), engine
        self.memories = [each.start(source, lengths) for each in self.engines]

    def step(self, slots):
        pairs = zip(self.engines, self.memories, strict=True)
        expected, found = (engine.step(slots, memory) for engine, memory in pairs)
        real = slots.group != PADDING_GROUP
        assert off(found[real], expected[real]) < TOLERANCE


class Life:
    """A memory led through steps, and what it must hold: every slot that was kept, row by row."""

    def __init__(self, engine, source, lengths):
        self.engine, self.source, self.lengths = engine, source, lengths
        self.memory = engine.start(source, lengths)
        self.kept = slots_at(torch.Generator(), len(source), 0, 0, 0)

    def step(self, slots):
        """Read the next slots; their logits are those of a fresh memory that reads all at once."""
        found = self.engine.step(slots, self.memory)
        self.kept = Slots._make(map(partial(torch.cat, dim=1), zip(self.kept, slots, strict=True)))
        fresh = self.engine.start(self.source, self.lengths)
        expected = self.engine.step(self.kept, fresh)[:, -slots.token.shape[1] :]
        real = slots.group != PADDING_GROUP
        torch.testing.assert_close(found[real], expected[real], atol=1e-4, rtol=1e-4)

    def truncate(self, counts):
        """Forget the last slots of each row."""
        self.memory.truncate(counts)
        width = self.kept.group.shape[1]
        gone = torch.arange(width) >= width - counts[:, None]
        self.kept = self.kept._replace(group=self.kept.group.masked_fill(gone, PADDING_GROUP))

    def reorder(self, rows):
        """Go on with these rows."""
        self.memory.reorder(rows)
        self.kept = Slots._make(field[rows] for field in self.kept)
        self.source, self.lengths = self.source[rows], self.lengths[rows]


@settings(deadline=None, max_examples=12)
@given(data=st.data())
def test_any_life_of_the_memory(model, engine, data):
    # Guards: a cache that loses, doubles or mixes up slots when steps, truncations and reorderings
    # follow each other. Both engines are held against themselves: a random model can magnify what
    # int8 rounds until its logits are half as far from float32 as they are long.
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    rows = data.draw(st.integers(1, 4))
    lengths = torch.randint(1, 8, (rows,), generator=generator)
    source = torch.randint(4, 40, (rows, int(lengths.max())), generator=generator)
    lives = [Life(each, source, lengths) for each in (EagerStepModel(model), engine)]
    cached = 0
    for group in range(data.draw(st.integers(1, 8))):
        width = data.draw(st.sampled_from((1, 2, 5)))
        slots = slots_at(generator, rows, width, cached, 5 * group)
        in_turn = data.draw(st.booleans())  # no slot sees a later one: some may be forgotten
        if in_turn:
            slots = slots._replace(group=slots.group + torch.arange(width))
        if (
            data.draw(st.booleans()) and width > 1
        ):  # padding on the left, as in a batch whose rows accept differently
            slots = slots._replace(
                group=slots.group.index_fill(1, torch.tensor([0]), PADDING_GROUP)
            )
        for life in lives:
            life.step(slots)
        cached += width
        if in_turn and data.draw(st.booleans()):
            counts = torch.tensor([data.draw(st.integers(0, width - 1)) for _ in range(rows)])
            for life in lives:
                life.truncate(counts)
            cached -= int(counts.min())
        if data.draw(st.booleans()):
            kept = data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=5))
            for life in lives:
                life.reorder(torch.tensor(kept))
            rows = len(kept)


def test_a_causal_model(causal):
    # Guards: an engine that needs a source, or reads the wrong output matrix where it is not tied.
    both = Both(causal, int8.quantise(causal, threads=1), None, None)
    generator = torch.Generator().manual_seed(1)
    for group in range(3):
        both.step(slots_at(generator, 3, 4, 4 * group, group))


def test_the_cache_outgrows_its_buffers(model, engine):
    # Guards: keys lost when the buffers are made larger.
    source = torch.randint(4, 40, (2, 5), generator=torch.Generator().manual_seed(1))
    both = Both(model, engine, source, torch.tensor([5, 3]))
    generator = torch.Generator().manual_seed(2)
    for group in range(12):
        both.step(slots_at(generator, 2, 8, 8 * group, group))
    assert both.memories[1].length == 96


@pytest.mark.parametrize(("rank", "large"), [(0, 1000), (4, 1000), (4, 0)])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_greedy_tokens_are_those_of_the_logits(monkeypatch, rank, large, size):
    # Guards: the short way to the tokens: other ids, symbols that are never picked, chunks, the
    # head; and that candidates are all there is to choose from where there are as many of them as
    # entries.
    monkeypatch.setattr(int8_chain, "LARGE", large)
    monkeypatch.setattr(int8_candidates, "CANDIDATES", 1000)
    model = headed(300, rank)
    engine, generator = int8.quantise(model, threads=1), torch.Generator().manual_seed(1)
    slots = slots_at(generator, 9, 5, 0, 0)
    expected = greedy_for(model.config, engine.markov)(
        engine.step(slots, engine.start(None, None))[:, -size:]
    )
    tokens, log_probabilities = engine.step_greedy(slots, engine.start(None, None), size)
    assert tokens.tolist() == expected.tokens.tolist()
    torch.testing.assert_close(log_probabilities, expected.log_probabilities, atol=1e-4, rtol=0)


@torch.no_grad()
def chosen_slowly(logits, head, count):
    """The tokens of a group [K] and their log-probabilities, as `candidates.py` defines them;
    logits [K, V]."""
    shares = logits.double().softmax(dim=-1)
    candidates = shares.amax(dim=0).topk(count).indices
    others = torch.ones(logits.shape[1], dtype=torch.bool).index_fill(0, candidates, False)
    sampled = torch.arange(logits.shape[1]) % int8_candidates.SPACING < int8_candidates.SAMPLED
    others &= sampled
    tokens, scores = [int(logits[0].argmax())], [float(shares[0].max().log())]
    for slot in range(1, len(logits)):
        changed = shares[slot] * head(torch.tensor(tokens[-1:]))[0].double().exp()
        tokens.append(int(candidates[changed[candidates].argmax()]))
        weight = changed[candidates].sum() + changed[others].sum() / sampled.float().mean()
        scores.append(float((changed[tokens[-1]] / weight).log()))
    return tokens, scores


@pytest.mark.parametrize("size", [2, 4])
def test_candidates_are_the_likeliest_of_all_slots(monkeypatch, size):
    # Guards: candidates, samples and rows of the head that are those of another slot, sentence or
    # token.
    monkeypatch.setattr(int8_chain, "LARGE", 0)
    monkeypatch.setattr(int8_candidates, "CANDIDATES", 5)
    model = headed(300)
    head = int8.quantise(model, threads=1).markov
    graph = Graph("chosen")
    made = int8_chain.finished(
        graph, graph.input("logits", np.float32, ["B", "K", int8_output.width(model)]), model
    )
    logits = torch.full((6, size, int8_output.width(model)), int8_output.LOWEST)
    logits[..., 3:300] = 2 * torch.randn(6, size, 297, generator=torch.Generator().manual_seed(1))
    tokens, log_probabilities = Network(made.SerializeToString(), 1)({"logits": logits.numpy()})
    expected = [chosen_slowly(each[:, :300], head, 5 * size) for each in logits]
    assert tokens.tolist() == [each for each, _ in expected]
    np.testing.assert_allclose(log_probabilities, [each for _, each in expected], atol=1e-4)
    everything = [chosen_slowly(each[:, :300], head, 300)[0] for each in logits]
    assert tokens.tolist() != everything, "the candidates hold everything, which proves nothing"


def test_a_vocabulary_of_several_chunks(monkeypatch):
    # Guards: a running maximum or sum that forgets a chunk; ties that are not broken by the lowest
    # id.
    monkeypatch.setattr(int8_output, "CHUNK", 2 * int8_output.BLOCK)
    torch.manual_seed(9)
    sizes = {
        "hidden_size": 32,
        "feedforward_size": 64,
        "heads": 4,
        "encoder_layers": 0,
        "decoder_layers": 1,
    }
    model = Transformer(
        TransformerConfig(vocabulary_size=500, **sizes, tie_embeddings=False)
    ).eval()
    with torch.no_grad():
        model.output.weight[250:] = model.output.weight[:250]  # every logit stands there twice
    engine = int8.quantise(model, threads=1)
    slots = slots_at(torch.Generator().manual_seed(1), 40, 2, 0, 0)
    expected = greedy_for(model.config, None)(engine.step(slots, engine.start(None, None)))
    tokens, log_probabilities = engine.step_greedy(slots, engine.start(None, None), 2)
    assert tokens.tolist() == expected.tokens.tolist()
    assert int(tokens.max()) < 250
    torch.testing.assert_close(log_probabilities, expected.log_probabilities, atol=1e-4, rtol=0)


def tokens_of(engine, sources, **choices):
    options = DecodeOptions.made(**LIMITS, **choices)
    return [hypothesis.tokens for hypothesis in decode_corpus(engine, sources, options)]


@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_batch_equals_single(engine, sources, group_size):
    # Guards: one scale for the whole batch, padding that leaks into attention.
    batched = tokens_of(engine, sources, group_size=group_size, batch_size=24)
    assert batched == tokens_of(engine, sources, group_size=group_size, batch_size=1)
    assert len({len(tokens) for tokens in batched}) > 3, (
        "the outputs are too alike to prove anything"
    )


@pytest.mark.parametrize("group_size", [1, 3, 8])
def test_the_quick_loop_is_the_ordinary_one(engine, sources, group_size):
    # Guards: slots, groups, limits, EOS or rows that leave, in a loop that keeps no tensors of its
    # own.
    options = DecodeOptions.made(limit_ratio=2.0, limit_extra=30, group_size=group_size)
    source, lengths = source_batch(sources, engine.config)
    limits = [options.limit(length, engine.config) for length in lengths.tolist()]
    ordinary, quick = (
        DecodeState(limits, engine.config.start_token, EndingRule.at(engine.config.end_token))
        for _ in range(2)
    )
    for wrote in decode_even(engine, engine.start(source, lengths), quick, group_size):
        assert all(hypothesis.groups for hypothesis in wrote)
    for _ in decode(engine, source, lengths, ordinary, picking(engine, group_size)):
        pass
    assert quick.hypotheses == ordinary.hypotheses
    assert len({hypothesis.steps for hypothesis in quick.hypotheses}) > 2, (
        "the rows are too alike to prove anything"
    )


def test_a_sentence_is_cancelled_between_two_steps(engine, sources):
    # Guards: a quick loop that goes on with a sentence nobody waits for.
    options = DecodeOptions.made(**LIMITS, group_size=1)
    state, passes = begin_batch(engine, *source_batch(sources[:3], engine.config), options)
    next(passes)
    state.cancel(1)
    assert all(state.hypotheses[1] not in wrote for wrote in passes)
    assert (state.hypotheses[1].ending, state.hypotheses[1].steps) == ("cancelled", 1)


def test_two_batches_at_once(engine, sources):
    # Guards: buffers that go to a new batch while another still writes into them.
    options = DecodeOptions.made(**LIMITS, group_size=2)
    batches = [source_batch(sources[place : place + 3], engine.config) for place in (0, 3)]
    alone = [decode_batch(engine, *batch, options) for batch in batches]
    states, passes = zip(*(begin_batch(engine, *batch, options) for batch in batches), strict=True)
    for _ in zip_longest(*passes):
        pass
    assert [state.hypotheses for state in states] == alone


def scored(engine, sources, **choices):
    """Tokens and log-probabilities, to the last bit."""
    options = DecodeOptions.made(**LIMITS, **choices)
    return [
        (hypothesis.tokens, hypothesis.log_probabilities)
        for hypothesis in decode_corpus(engine, sources, options)
    ]


@pytest.mark.parametrize("batch_size", [1, 24])
@pytest.mark.parametrize("group_size", [2, 4, 8])
def test_exact_equals_autoregressive(engine, sources, group_size, batch_size):
    # Guards: exact mode that is exact only where a row does not depend on the rows beside it, or
    # only up to the rounding of sums.
    alone = scored(engine, sources, group_size=1, batch_size=1)
    exact = scored(engine, sources, group_size=group_size, mode="exact", batch_size=batch_size)
    assert exact == alone
    assert scored(engine, sources, group_size=1, batch_size=batch_size) == alone


@pytest.mark.parametrize("drafts", ["masks", "text"])
@pytest.mark.parametrize("batch_size", [1, 24])
def test_drafting_now_and_then_changes_nothing(engine, sources, drafts, batch_size):
    # Guards: a pass with drafts and one without that sum in another order; masks or drafts that
    # stay in the cache when drafting pauses.
    class Alternating(Economy):
        passes = 0

        def drafts(self, rows):
            self.passes += 1
            return self.passes % 5 > 1

        def settled(self, rows):
            return False

    options = DecodeOptions.made(
        group_size=4, mode="exact", drafts=drafts, batch_size=batch_size, **LIMITS
    )
    alternating = replace(plan(options, engine.config), economy=Alternating())
    alone = scored(engine, sources, group_size=1, batch_size=1)
    found = decode_corpus(engine, sources, alternating)
    assert [(each.tokens, each.log_probabilities) for each in found] == alone
    source, lengths = source_batch(sources, engine.config)
    limits = [alternating.limit(length) for length in lengths.tolist()]
    rows = Rows(limits, [0] * len(limits))
    batch = begin_joinable(engine, source, lengths, alternating, rows)
    for _ in batch.passes(()):
        pass
    found = batch.state.hypotheses
    assert [(each.tokens, each.log_probabilities) for each in found] == alone


def picking(engine, group_size):
    """The plain loop's writer of greedy groups, picked by the engine."""
    chosen = plan(DecodeOptions(group_size=group_size), engine.config)
    return PickedGroups(engine, chosen.policy, chosen.accept, lookahead=False)


def exactly(engine, sources, group_size, drafter):
    """Every group that exact mode writes with a drafter, sentence by sentence."""
    source, lengths = source_batch(sources, engine.config)
    state = DecodeState(
        [20] * len(sources), engine.config.start_token, EndingRule.at(engine.config.end_token)
    )
    for _ in decode(engine, source, lengths, state, drafter(engine, len(sources), group_size)):
        pass
    return state.hypotheses


@pytest.mark.parametrize(("rank", "large"), [(0, 1000), (8, 1000), (8, 0)])
@pytest.mark.parametrize("group_size", [1, 2, 4, 8])
def test_the_quick_way_of_exact_mode_is_the_ordinary_one(
    monkeypatch, echo, sources, rank, large, group_size
):
    # Guards: clean slots and masks mixed up where rows check different numbers of drafts; drafts
    # chained from another token, or given to another row.
    monkeypatch.setattr(int8_chain, "LARGE", large)
    engine = int8.quantise(echo(rank), threads=1)
    quick = exactly(engine, sources, group_size, QuickDrafter)
    ordinary = exactly(engine, sources, group_size, Drafter)
    assert [[group.tokens for group in each.groups] for each in quick] == [
        [group.tokens for group in each.groups] for each in ordinary
    ]
    for one, other in zip(quick, ordinary, strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)
    kept = {len(group.tokens) for each in quick for group in each.groups}
    assert group_size == 1 or len(kept) > 1, "no draft stands, which proves nothing"


@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_the_loop_for_one_sentence_is_the_ordinary_one(engine, sources, group_size):
    # Guards: places, masks or drafts that stay in the cache, limits and EOS in a loop without
    # tensors.
    options = DecodeOptions.made(limit_ratio=2.0, limit_extra=30)
    passes = set()
    for each in sources[:12]:
        source, lengths = source_batch([each], engine.config)
        limits = [options.limit(int(lengths[0]), engine.config)]
        ordinary, single = (
            DecodeState(limits, engine.config.start_token, EndingRule.at(engine.config.end_token))
            for _ in range(2)
        )
        for wrote in decode_single(engine, source, lengths, single, Drafting(group_size)):
            assert wrote == single.hypotheses
        for _ in decode(engine, source, lengths, ordinary, QuickDrafter(engine, 1, group_size)):
            pass
        assert single.hypotheses == ordinary.hypotheses
        passes.add(single.hypotheses[0].steps)
    assert len(passes) > 2, "the sentences are too alike to prove anything"


def causal_engine(start_symbol):
    torch.manual_seed(11)
    sizes = {"hidden_size": 32, "feedforward_size": 48, "heads": 4, "decoder_layers": 2}
    config = TransformerConfig(
        vocabulary_size=12,
        encoder_layers=0,
        start_symbol=start_symbol,
        group_sizes=(1, 4),
        **sizes,
    )
    return int8.quantise(Transformer(config).eval(), threads=1)


@pytest.mark.parametrize("way", ["K=1", "masks", "text"])
@pytest.mark.parametrize("start_symbol", [True, False])
def test_the_loop_for_one_prompt_is_the_ordinary_one(monkeypatch, way, start_symbol):
    # Guards: a prompt read at other positions, a part of it twice or not at all; drafts copied from
    # another place, or left in the cache; stop rules that a loop without tensors forgets.
    monkeypatch.setattr(int8_loops, "PROMPT_SLOTS", 4)
    engine = causal_engine(start_symbol)
    choices = {} if way == "K=1" else {"group_size": 4, "mode": "exact", "drafts": way}
    chosen = plan(DecodeOptions.made(**choices), engine.config)
    kept = set()
    for length in (0, 1, 4, 5, 11):
        prompt = [4 + (3 * place) % 7 for place in range(length)]
        if not prompt and not start_symbol:
            continue
        ordinary, single = (new_state(chosen, [24], [prompt]) for _ in range(2))
        for _ in decode(engine, None, None, ordinary, int8_loops.writer(engine, chosen, ordinary)):
            pass
        with monkeypatch.context() as patched:
            patched.setattr(int8_loops, "decode", None)  # the ordinary loop
            for _ in int8_loops.shortcut(engine, chosen, 1)(None, None, single):
                pass
        assert single.hypotheses == ordinary.hypotheses
        kept |= {len(group.tokens) for group in single.hypotheses[0].groups}
    assert way == "K=1" or len(kept) > 1, "no draft stands, which proves nothing"


@pytest.mark.parametrize("start_symbol", [True, False])
def test_the_loop_for_prompts_is_the_ordinary_one(monkeypatch, start_symbol):
    # Guards: rows that are written behind the slots of others, or keep their keys when some leave.
    engine = causal_engine(start_symbol)
    chosen = plan(DecodeOptions(), engine.config)
    for lengths in ([1, 7, 3, 12], [5, 5, 5], [1, 1]):
        prompts = [[4 + (3 * place) % 7 for place in range(length)] for length in lengths]
        limits = [5 + 9 * row for row in range(len(prompts))]
        ordinary, quick = (new_state(chosen, limits, prompts) for _ in range(2))
        for _ in decode(engine, None, None, ordinary, int8_loops.writer(engine, chosen, ordinary)):
            pass
        with monkeypatch.context() as patched:
            patched.setattr(int8_loops, "decode", None)  # the ordinary loop
            for _ in int8_loops.shortcut(engine, chosen, len(prompts))(None, None, quick):
                pass
        assert quick.hypotheses == ordinary.hypotheses


def test_logits_do_not_depend_on_the_batch(model, engine, sources):
    # Guards: activations scaled by what stands in other rows: that error is far above this
    # tolerance.
    source, lengths = source_batch(sources, model.config)
    memory = engine.start(source, lengths)
    slots = slots_at(torch.Generator().manual_seed(3), len(sources), 4, 0, 0)
    together = engine.step(slots, memory)
    for row in range(len(sources)):
        one = slice(row, row + 1)
        alone = engine.start(source[one, : lengths[row]], lengths[one])
        logits = engine.step(Slots(*(field[one] for field in slots)), alone)
        assert off(logits, together[one]) < 1e-3


class Attended:
    """The two attention operators alone: over slots that are `seen`, or over a source (`grid`)."""

    def __init__(self, heads, width, grid=None):
        self.heads, self.width, self.grid = heads, width, grid
        self._networks = {single: self._network(single) for single in (False, True)}

    def _network(self, single):
        hidden = self.heads * self.width
        config = TransformerConfig(vocabulary_size=40, hidden_size=hidden, heads=self.heads)
        graph = Graph("attended")
        query = graph.input("query", np.float32, ["B", 1 if single else "N", hidden])
        shape = ("B", self.heads, "C", self.width)
        pair = [graph.input(name, np.float32, shape) for name in ("key", "value")]
        inner = Rounding(1e-4, np.ones(hidden, np.float32))
        if self.grid is None:
            masks = int8_graphs.Masks(bias=graph.input("bias", np.float32, ["B", 1, "N", "C"]))
            attention = (
                int8_graphs.SingleAttention(graph, config, "")
                if single
                else int8_graphs.Attention(graph, config)
            )
            rows = attention.among(graph, query, pair, inner, masks)
        else:
            real = graph.input("real", np.int32, ["B", "C"])
            attention = (
                int8_graphs.SingleAttention(graph, config, real)
                if single
                else int8_graphs.Attention(graph, config)
            )
            source = int8_graphs.OfSource(real, self.grid)
            rows = attention.over(graph, query, pair, inner, source)
        # What is compared are the numbers before they are rounded: integers seldom differ.
        [rounded] = [node for node in graph._nodes if rows.integers in node.output]
        graph.output("found", rounded.input[0], np.float32, ["B", "N", hidden])
        return Network(graph.model().SerializeToString(), 1)

    def __call__(self, query, key, value, seen):
        """Attend, [B, N, D]; a single query's result is doubled, as its rounding expects half."""
        is_seen = np.arange(key.shape[2]) < seen
        if self.grid is None:
            shape = (len(query), 1, query.shape[1], key.shape[2])
            bias = np.where(is_seen, np.float32(0), np.float32(MASKED))
            mask = {"bias": np.broadcast_to(bias, shape)}
        else:
            mask = {"real": np.broadcast_to(is_seen.astype(np.int32), (len(query), key.shape[2]))}
        arrays = {"query": query, "key": key, "value": value, **mask}
        single = query.shape[1] == 1
        network = self._networks[single]
        [found] = network({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        return 2 * found if single else found


@pytest.mark.parametrize("of_source", [False, True])
@pytest.mark.parametrize(("heads", "width"), [(4, 64), (2, 8), (8, 32)])
def test_attention_of_a_slot_does_not_depend_on_its_neighbours(heads, width, of_source):
    # Guards: the product of one row, which ONNX Runtime sums in another order than those of
    # several; sums that depend on the room behind what is seen, or on other sentences.
    generator = np.random.default_rng(1)
    grid = 2.0**-8 if of_source else None
    attended = Attended(heads, width, grid)

    def drawn(*shape, grid=None):
        numbers = generator.standard_normal(shape).astype(np.float32)
        return numbers if grid is None else np.rint(numbers / grid).astype(np.float32) * grid

    for seen in (1, 2, 5, 8, 13, 31, 64, 100, 290):
        room = -(-seen // ROOM) * ROOM
        query = drawn(5, 9, heads * width, grid=grid)
        if grid is not None:
            query += np.float32(int8_graphs.far(grid))
        key = drawn(5, heads, room + 264, width, grid=grid)
        value = drawn(5, heads, room + 264, width)
        alone = attended(query[:1, :1], key[:1, :, :room], value[:1, :, :room], seen)[0, 0]
        assert np.isfinite(alone).all()
        for rows, new, more in (
            (1, 2, 0),
            (1, 9, 0),
            (1, 1, 8),
            (1, 3, 264),
            (5, 1, 0),
            (5, 7, 16),
        ):
            parts = (each[:rows, :, : room + more] for each in (key, value))
            beside = attended(query[:rows, :new], *parts, seen)[0, 0]
            assert beside.tobytes() == alone.tobytes(), (seen, rows, new, more)


def test_scores_over_the_source_are_exact_in_any_order(monkeypatch, model):
    # Guards: a grid so fine that float32 sums of a query's products with a key depend on their
    # order.
    monkeypatch.setenv("MULTISTRIDE_KERNELS", "onnxruntime")
    roundings = Roundings(model)
    source, lengths = source_batch([[5, 9, 30, 11], [8] * 9], model.config)
    memory = int8.quantise(model, threads=1).start(source, lengths)
    generator = torch.Generator().manual_seed(1)
    for index, layer in enumerate(model.decoder):
        grid = roundings.grid(f"decoder.{index}.cross")
        hidden = torch.randn(9, model.config.hidden_size, generator=generator)
        query = layer.cross.query(layer.around_cross.norm(hidden)) / layer.cross.width**0.5
        rounded = (query / grid.query).round().detach().double() * grid.query
        key = memory.source._arrays[f"cross_key{index}"]
        assert (key == np.rint(key / grid.key) * grid.key).all()
        parts = rounded.unflatten(-1, (model.config.heads, -1))
        products = np.einsum("nhe,bhse->nbhs", np.abs(parts.numpy()), np.abs(key.astype(float)))
        assert products.max() <= 2**24 * grid.query * grid.key
        assert (query - rounded).abs().max() <= query.abs().max() / 200


@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_a_slot_is_the_same_whatever_stands_beside_it(model, engine, data):
    # Guards: holes between the slots of a sentence, where rows of a batch accept differently; then
    # sums over them come in another order than alone, and integers flip once in a while.
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    count, masks = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 3))
    lengths = torch.randint(1, 8, (count,), generator=generator)
    source = torch.randint(4, 40, (count, int(lengths.max())), generator=generator)
    tokens = torch.randint(4, 40, (count, 40), generator=generator)
    memory, known = engine.start(source, lengths), torch.zeros(count, dtype=torch.long)
    found = [[] for _ in range(count)]
    for _ in range(data.draw(st.integers(1, 5))):
        drawn = data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
        drafts = torch.tensor(drawn)
        columns = (known[:, None] + torch.arange(4)).clamp(max=39)
        slots = draft_slots(
            tokens, known + 1, Drafts(tokens.gather(1, columns + 1), drafts), masks + 1, 1, 3
        )
        hidden = memory.read(slots, engine._networks).hidden
        kept = torch.tensor([data.draw(st.integers(1, each + 1)) for each in drawn])
        for row in range(count):
            first = hidden.shape[1] - masks - 1 - drawn[row]
            found[row] += list(hidden[row, first : first + int(kept[row])].copy())
        memory.truncate(drafts + 1 - kept + masks)
        known += kept
    for row in range(count):
        alone = engine.start(source[row : row + 1, : lengths[row]], lengths[row : row + 1])
        for index in range(int(known[row])):
            token, position = tokens[row : row + 1, index : index + 1], torch.tensor([[index + 1]])
            slot = Slots(token, position, torch.ones_like(token), position)
            hidden = alone.read(slot, engine._networks).hidden
            assert found[row][index].tobytes() == hidden[0, 0].tobytes()
        for name, array in alone._buffers.arrays.items():
            cached = memory._buffers.arrays[name][row, :, : int(known[row])]
            assert np.array_equal(cached, array[0, :, : int(known[row])]), name


@pytest.mark.parametrize("beam", [2, 4])
def test_beam_search_runs(engine, sources, beam):
    # Guards: rows repeated by a beam that the buffers have no room for.
    found = tokens_of(engine, sources, beam=beam, group_size=2)
    assert len(found) == len(sources)
