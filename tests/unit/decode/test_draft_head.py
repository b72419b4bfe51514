"""Draft heads: what they compute, which state they are given, and that no text changes."""

import draft_heads
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import silu

from multistride.decode import draft_head
from multistride.decode.choosing.strategy import Measured
from multistride.decode.corpus import decode_corpus
from multistride.decode.draft_head import DRAFT_HEAD, DraftHead, Guessed, quantised
from multistride.decode.draft_tree import DraftTree
from multistride.decode.options import DecodeOptions
from multistride.decode.phrases import PhraseTable
from multistride.decode.plan import plan
from multistride.distill.phrases import phrases_of
from multistride.engines.eager import EagerStepModel
from multistride.engines.int8.engine import quantise
from multistride.engines.int8.native import library
from multistride.engines.int8.native.draft_head import NativeDraftHead
from multistride.errors import DataError, UsageError
from multistride.groups import prompt_slots
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

WIDTH, INNER, VOCABULARY = 32, 48, 40
LLAMA = {
    "norm_kind": "rms", "activation": "silu", "gated_feedforward": True,
    "feedforward_bias": False, "attention_bias": "none", "key_value_heads": 2,
    "start_symbol": False,
}  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(4)
    made = Transformer(
        TransformerConfig(
            vocabulary_size=VOCABULARY,
            hidden_size=WIDTH,
            feedforward_size=48,
            heads=4,
            encoder_layers=0,
            decoder_layers=2,
            positions="rotary",
            max_positions=96,
            dropout=0.0,
            **LLAMA,
        )
    ).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.6)
    return made


def head_tensors(vocabulary=VOCABULARY, width=WIDTH, inner=INNER):
    return draft_heads.head_tensors(vocabulary, width, inner)


def prompts():
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randint(4, VOCABULARY, (length,), generator=generator).tolist()
        for length in (1, 7, 4, 7, 12)
    ]


def test_drafts_are_those_of_the_formula_in_float32(monkeypatch):
    # Guards: states and tokens that change places, scales of the wrong rows, a token it does not
    # know read as another.
    monkeypatch.setattr(draft_head, "multiplies_8_bits", lambda: False)
    tensors = head_tensors()
    states = torch.randn(6, WIDTH)
    unknown = [token for token in range(VOCABULARY) if token not in tensors["tokens"].tolist()]
    written = torch.tensor([*tensors["tokens"].tolist()[:4], unknown[0], VOCABULARY - 1])
    guessed = DraftHead(tensors).guess(states, written, 3)
    tables = {
        name: tensors[name].float() * tensors[f"{name}.scale"][:, None]
        for name in ("table", "widen", "narrow")
    }
    known = tensors["tokens"].tolist()
    for row in range(6):
        state, token = states[row], int(written[row])
        for place in range(3):
            read = tables["table"][known.index(token)] if token in known else torch.zeros(WIDTH)
            normed = state / (state.square().mean() + 1e-5).sqrt() * tensors["gain"]
            wide = tables["widen"] @ torch.cat([normed, read * tensors["into"]])
            inner = tables["narrow"] @ silu(wide + tensors["widen.bias"])
            state = state * tensors["keep"] + inner + tensors["narrow.bias"]
            shares = (tables["table"] @ state + tensors["bias"]).softmax(0)
            token = known[int(shares.argmax())]
            assert int(guessed.tokens[row, place]) == token
            torch.testing.assert_close(guessed.probabilities[row, place], shares.max())


def test_8_bits_are_near_float32():
    # Guards: weights packed with other scales, a bias that is left out.
    table, scale = quantised(torch.randn(24, 16))
    rows, bias = torch.randn(5, 16), torch.randn(24)
    found = draft_head.product(table, scale, bias)(rows)
    expected = torch.nn.functional.linear(rows, table.float() * scale[:, None], bias)
    assert float((found - expected).abs().mean()) < 0.05


def of_8_bits(rows, weight, scale, bias):
    """A layer whose inputs have 8 bits and a scale for each row."""
    unit = rows.abs().amax(1, keepdim=True) / 127
    return (rows / unit).round() * unit @ (weight.double() * scale[:, None]).T + bias


def drafted_in_8_bits(tensors, state, token, count):
    """Drafts of one text as the kernels compute them, in float64."""
    known, found, state = tensors["tokens"].tolist(), [], state[None].double()
    for _ in range(count):
        read = torch.zeros(1, WIDTH)
        if token in known:
            place = known.index(token)
            read = (tensors["table"][place] * tensors["table.scale"][place])[None]
        normed = state / (state.square().mean() + 1e-5).sqrt() * tensors["gain"]
        layers = {
            name: (tensors[name], tensors[f"{name}.scale"], tensors[bias])
            for name, bias in (
                ("widen", "widen.bias"),
                ("narrow", "narrow.bias"),
                ("table", "bias"),
            )
        }
        wide = of_8_bits(torch.cat([normed, read * tensors["into"]], 1), *layers["widen"])
        state = state * tensors["keep"] + of_8_bits(silu(wide), *layers["narrow"])
        share, index = of_8_bits(state, *layers["table"]).softmax(1).max(1)
        token = known[int(index)]
        found.append((token, float(share)))
    return found


native = pytest.mark.skipif(library.missing() is not None, reason=str(library.missing()))


@native
@pytest.mark.parametrize("rows", [1, 9])
def test_the_kernels_draft_by_the_same_formula(rows):
    # Guards: outputs that belong to no token and are picked, inner sizes that fill no panel, rows
    # that change places.
    tensors = head_tensors()
    states, written = torch.randn(rows, WIDTH), torch.arange(rows) * 4 + 3
    found = NativeDraftHead(tensors, 1).guess(states, written, 4)
    for row in range(rows):
        expected = drafted_in_8_bits(tensors, states[row], int(written[row]), 4)
        assert found.tokens[row].tolist() == [token for token, _ in expected]
        shares = torch.tensor([share for _, share in expected])
        torch.testing.assert_close(found.probabilities[row], shares, atol=2e-3, rtol=0)


class InEightBits(DraftHead):
    """A head that computes as the kernels do, in float64."""

    @property
    def _layers(self):
        biases = {"widen": "widen.bias", "narrow": "narrow.bias", "table": "bias"}
        return [
            lambda rows, name=name, bias=bias: of_8_bits(
                rows.double(),
                self.tensors[name],
                self.tensors[f"{name}.scale"],
                self.tensors[bias],
            )
            for name, bias in biases.items()
        ]


def every_tree(tensors, state, token, count):
    """All ways on from a token, of the four most probable ones each, as (chance, tokens)."""
    found, layers = [((1.0), (), state[None].double(), token)], InEightBits(tensors)
    for chance, path, before, last in found:
        if len(path) == count:
            continue
        following = layers._next(before, layers.index_of(torch.tensor([last])))
        top = layers._layers[2](following).softmax(1)[0].topk(4)
        for share, index in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            after = tensors["tokens"].tolist()[index]
            found.append((chance * share, (*path, after), following, after))
    return sorted(((chance, path) for chance, path, *_ in found[1:]), reverse=True)


def paths_of(tree):
    """The tokens from the text to each draft."""
    paths = []
    for token, parent in zip(tree.tokens, tree.parents, strict=True):
        paths.append((*(paths[parent] if parent >= 0 else ()), token))
    return paths


KINDS = [InEightBits, pytest.param(NativeDraftHead, marks=native)]


def head_of(kind, tensors, threads=1):
    return kind(tensors, *[threads] * (kind is NativeDraftHead))


@pytest.mark.parametrize("kind", KINDS)
def test_a_tree_has_the_drafts_that_are_most_likely_to_stand(kind):
    # Guards: a second choice that is left out, a draft behind the wrong one, chances that are not
    # multiplied, a tree that goes on from the wrong state.
    tensors = head_tensors()
    for row in range(8):
        state, token = torch.randn(WIDTH), 3 + row
        tree = head_of(kind, tensors).grow(state, token, 4)
        expected = every_tree(tensors, state, token, 3)[:4]
        assert paths_of(tree) == [path for _, path in expected]
        assert tree.chances == pytest.approx([chance for chance, _ in expected], abs=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tree_ends_at_its_size_and_where_nothing_is_likely_to_stand(kind):
    # Guards: a bound that is not that of the whole path, tokens that the table only pads.
    tensors = head_tensors()
    state, head = torch.randn(WIDTH), head_of(kind, tensors)
    tree = head.grow(state, 7, 15)
    assert len(tree.tokens) == 15
    assert tree.chances == sorted(tree.chances, reverse=True)
    assert len(set(paths_of(tree))) == 15
    assert head.grow(state, 7, 6) == tree.first(6)
    least = tree.chances[4] * 0.999
    assert head.grow(state, 7, 15, least) == tree.first(5)
    assert head.grow(state, 7, 15, 1.0).tokens == []
    few = head_of(kind, head_tensors(vocabulary=6)).grow(state, 3, 15)  # it knows three tokens
    assert len(few.tokens) == 15
    assert max(few.parents.count(parent) for parent in few.parents) == 3


@native
def test_states_that_overflowed_draft_known_tokens_or_none():
    # Guards: an output that only pads the table picked because all others are less, which is an
    # index outside the table.
    tensors = head_tensors(vocabulary=5)
    head, known = NativeDraftHead(tensors, 1), set(tensors["tokens"].tolist())
    for value in (float("nan"), float("inf"), 1e38, -1e38):
        for _ in range(4):
            state = torch.randn(WIDTH)
            state[3] = value
            guessed = head.guess(state[None], torch.tensor([3]), 15)
            assert set(guessed.tokens[0].tolist()) <= known
            tree = head.grow(state, 3, 15)
            assert set(tree.tokens) <= known
            assert all(parent < draft for draft, parent in enumerate(tree.parents))


@native
def test_trees_of_the_kernels_are_those_of_the_reference_with_any_number_of_threads():
    # Guards: threads that pick from logits that are not there yet, or go on from other states.
    tensors = head_tensors(vocabulary=6000, width=592, inner=1500)
    slow, one, three = (
        InEightBits(tensors),
        *(NativeDraftHead(tensors, threads) for threads in (1, 3)),
    )
    for row in range(6):
        state, token = torch.randn(592), 40 * row
        tree = one.grow(state, token, 15)
        assert three.grow(state, token, 15) == tree
        expected = slow.grow(state, token, 15)
        assert paths_of(tree)[:3] == paths_of(expected)[:3]
        assert sum(tree.chances) == pytest.approx(sum(expected.chances), rel=0.02)


@native
@pytest.mark.parametrize("rows", [2, 9])
def test_threads_of_the_kernels_change_no_bit_of_a_draft(rows):
    # Guards: threads that read a state before it is there, or that draft on when others have ended.
    tensors = head_tensors(vocabulary=6000, width=592, inner=1500)
    states, written = torch.randn(rows, 592), torch.arange(rows) * 40
    one, three = (NativeDraftHead(tensors, threads) for threads in (1, 3))
    for least in (0.0, 0.5, 0.9):
        expected = one.guess(states, written, 6, least)
        for _ in range(5):
            found = three.guess(states, written, 6, least)
            assert all(torch.equal(*each) for each in zip(found, expected, strict=True))


@native
def test_heads_are_computed_by_the_kernels_of_the_engine(monkeypatch):
    # Guards: a head that is packed again for every text, one that drafts in a way of its own and is
    # replaced, one that reads states of another width than kernels compute.
    sizes = {"hidden_size": 64, "feedforward_size": 128, "heads": 2, "key_value_heads": 1}
    config = {"vocabulary_size": 40, "encoder_layers": 0, "decoder_layers": 1}
    made = Transformer(TransformerConfig(positions="rotary", **{**LLAMA, **sizes}, **config))
    engine = quantise(made.eval(), threads=1)
    head, narrow = DraftHead(head_tensors(width=64)), DraftHead(head_tensors(width=24))
    own = engine.own_head(head)
    assert isinstance(own, NativeDraftHead)
    assert engine.own_head(head) is own
    for other in (narrow, Watching([])):
        assert engine.own_head(other) is other
    monkeypatch.setenv("MULTISTRIDE_KERNELS", "onnxruntime")
    assert quantise(made, threads=1).own_head(head) is head


@pytest.mark.parametrize("kind", [DraftHead, pytest.param(NativeDraftHead, marks=native)])
def test_drafts_end_where_none_is_likely_to_stand(kind):
    # Guards: a draft that is made and thrown away; one that is cut although another row's stands.
    head = kind(head_tensors(), *[1] * (kind is NativeDraftHead))
    states, written = torch.randn(5, WIDTH), torch.arange(5) + 7
    every = head.guess(states, written, 6)
    standing = every.probabilities.cumprod(1).amax(0)
    assert standing[0] > standing[2] > standing[5]
    for least, count in ((float(standing[2]) * 0.999, 3), (1.0, 0), (0.0, 6)):
        some = head.guess(states, written, 6, least)
        assert some.tokens.tolist() == every.tokens[:, :count].tolist()
        assert some.probabilities.tolist() == every.probabilities[:, :count].tolist()


class Watching(DraftHead):
    """A head that drafts what K=1 writes now and then, and keeps the states that it was given."""

    def __init__(self, texts):
        self.texts, self.seen = texts, []

    def guess(self, states, written, count, least=0.0):
        self.seen += zip(written.tolist(), states.clone(), strict=True)
        drafts = [self._after(token, count) for token in written.tolist()]
        return Guessed(torch.tensor(drafts), torch.ones(len(written), count))

    def grow(self, state, written, count, least=0.0):
        """What follows in a text, beside a wrong token for each place."""
        right = self.guess(state[None], torch.tensor([written]), count).tokens[0].tolist()
        right = right[: (count + 1) // 2]
        tokens, parents, before = [], [], -1
        for token in right:
            tokens += [token - 1, token]
            parents += [before, before]
            before = len(tokens) - 1
        return DraftTree(tokens, parents, [0.5] * len(tokens)).first(count)

    def _after(self, token, count):
        for text in self.texts:
            if token in text[:-1]:
                index = text.index(token)
                return (text[index + 1 : index + 1 + count] + [5] * count)[:count]
        return [5] * count


WAYS = {
    "greedy": {},
    "rule": {"banned_tokens": (7, 9)},
    "sampled": {"temperature": 0.2, "seed": 5},
}


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["eager", "int8"])
def test_the_state_is_that_of_the_last_token_kept_and_the_text_that_of_k1(
    model, kind, way, batch_size
):
    # Guards: states of rejected drafts or of other rows; drafts that change the text.
    engine = EagerStepModel(model) if kind == "eager" else quantise(model, threads=1)
    greedy = DecodeOptions.made(max_tokens=40, batch_size=batch_size, **WAYS[way])
    expected = decode_corpus(engine, prompts(), greedy)
    head = Watching([list(each.tokens) for each in expected])
    options = greedy.model_copy(update={"group_size": 4, "mode": "exact", "drafts": "head"})
    known = plan(options, model.config, knowledge=Measured(head=head))
    found = decode_corpus(engine, prompts(), known)
    assert [each.tokens for each in found] == [each.tokens for each in expected]
    assert sum(each.steps for each in found) < sum(each.steps for each in expected)
    wholes = [[*prompt, *text.tokens] for prompt, text in zip(prompts(), expected, strict=True)]
    states = []
    for whole in wholes:
        tokens = torch.tensor([whole])
        slots = prompt_slots(tokens, torch.tensor([len(whole)]), 1, False)
        cache = model.start(None, None)
        with torch.inference_mode():
            hidden = model.decode(slots, cache.extend(slots.group), [], None, cache.layers)
        states += zip(whole[1:], hidden[0], strict=False)
    near = 1e-4 if kind == "eager" else 0.5
    strange = [
        token
        for token, state in head.seen
        if all((state - other).abs().max() > near for after, other in states if after == token)
    ]
    assert len(head.seen) > 25
    assert len(strange) <= len(prompts()), "only the last pass of a text may write past its end"


def test_a_head_is_the_default_and_must_be_there(model, tmp_path):
    # Guards: a head that is loaded and not asked; one asked for and silently absent.
    assert DraftHead.load(tmp_path, WIDTH, VOCABULARY) is None
    save_file(head_tensors(), tmp_path / DRAFT_HEAD)
    head = DraftHead.load(tmp_path, WIDTH, VOCABULARY)
    options = DecodeOptions.made(group_size=4, mode="exact", drafts="head")
    assert plan(options, model.config, knowledge=Measured(head=head)).drafts == "head"
    with pytest.raises(UsageError, match="holds no draft head"):
        plan(options, model.config)
    asked = DecodeOptions.made(group_size=4, mode="exact")
    table = PhraseTable(phrases_of([([5, 6, 7, 8], 1)]))
    assert plan(asked, model.config, knowledge=Measured(head=head, phrases=table)).drafts == "head"
    assert plan(asked, model.config, knowledge=Measured(phrases=table)).drafts == "text"
    trained = model.config.model_copy(update={"group_sizes": (1, 4), "lookahead": True})
    assert plan(asked, trained, knowledge=Measured(phrases=table)).drafts == "both"
    with pytest.raises(UsageError, match="was trained for 1: choose 1, or drafts text"):
        plan(asked, model.config)
    for mode in ("fast", "adaptive"):
        with pytest.raises(UsageError, match="choose 1, or mode exact with drafts text"):
            plan(DecodeOptions.made(group_size=4, mode=mode), model.config)
    with pytest.raises(UsageError, match=r"choose 1$"):
        plan(DecodeOptions.made(group_size=17), model.config)
    many = DecodeOptions.made(group_size=17, mode="exact")
    with pytest.raises(UsageError, match="at most 16 at a time"):
        plan(many, model.config, knowledge=Measured(head=head))
    for width, vocabulary in ((WIDTH + 1, VOCABULARY), (WIDTH, 3)):
        with pytest.raises(DataError, match="is no draft head of a model of width"):
            DraftHead.load(tmp_path, width, vocabulary)
    (tmp_path / DRAFT_HEAD).write_bytes(b"no tensors")
    with pytest.raises(DataError, match="is damaged"):
        DraftHead.load(tmp_path, WIDTH, VOCABULARY)
