"""The native kernels say what the graphs say, and compute what they are to compute."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnxruntime", reason="the extra [int8] is not installed")
from layouts import in_4_bits
from tiny_models import Plain, small_model

from multistride.decode.corpus import decode_corpus
from multistride.decode.markov import searched
from multistride.decode.options import DecodeOptions
from multistride.engines.eager import EagerStepModel
from multistride.engines.int8 import engine as int8
from multistride.engines.int8.blocks import blocked
from multistride.engines.int8.buffers import MASKED, View
from multistride.engines.int8.native import library
from multistride.engines.int8.native.converted import NativeConverted
from multistride.engines.int8.native.pack_converted import packed_converted
from multistride.engines.int8.native.pack_translation import packed_translation
from multistride.engines.int8.native.passes import NativePicker, NativeSearch
from multistride.engines.int8.native.stored import content_of, read
from multistride.engines.int8.native.translation import NativeTranslation
from multistride.engines.int8.onnx_graph import Quantised, Rounding, quantised
from multistride.engines.int8.ranges import FINAL, Roundings
from multistride.errors import DataError, UsageError
from multistride.groups import PADDING_GROUP, Slots
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

pytestmark = pytest.mark.skipif(library.missing() is not None, reason=str(library.missing()))

CHOICES = ["native", "avx2"] if library.instructions() == "avx512" else ["native"]


@pytest.fixture(autouse=True, scope="module", params=CHOICES)
def kernels(request):
    """Compute with every set of instructions that this CPU has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MULTISTRIDE_KERNELS", request.param)
        yield


SHAPES = {
    "heads of 16": {"hidden_size": 64, "heads": 4},
    "heads of 48": {"hidden_size": 192, "heads": 4},
    "heads of 80": {"hidden_size": 320, "heads": 4},
    "heads of 128": {"hidden_size": 128, "heads": 1},
    "heads of 40, matrices of 2.5 panels": {"hidden_size": 160, "heads": 4},
    "heads of 8, matrices of less than a panel": {"hidden_size": 16, "heads": 2},
    "heads of 72": {"hidden_size": 144, "heads": 2, "feedforward_size": 80},
}


def made(markov_rank=0, **sizes):
    return small_model(**{"hidden_size": 64, "feedforward_size": 128, **sizes}, rank=markov_rank)


def weights_of(model):
    roundings = Roundings(model)
    final = roundings.normed(FINAL, alike=True)
    content = content_of(packed_translation(model, roundings, final))
    works = NativeTranslation(content, model.config).works
    return works["greedy"], works.get("chain")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("new", [1, 3])
def test_a_pass_is_that_of_the_graphs(monkeypatch, shape, new):
    # Guards: parts of heads that are not whole vectors, sources and caches of more than 16 entries,
    # padding, slots that are not seen; integers may differ by rounding, and seldom do.
    model = made(**SHAPES[shape])
    native = int8.quantise(model, threads=1)
    assert native.precision.endswith("native kernels")
    monkeypatch.setenv("MULTISTRIDE_KERNELS", "onnxruntime")
    graphs = int8.quantise(model, threads=1)
    assert not graphs.precision.endswith("native kernels")
    generator = np.random.default_rng(1)
    source = generator.integers(5, 40, (3, 21))
    lengths = np.array([21, 3, 17])
    hidden = []
    for engine in (native, graphs):
        memory, drawn, length = engine.begun(source, lengths), np.random.default_rng(2), 0
        for _ in range(20):
            memory.grow_even(new)
            step = memory.room(3, length, new).step(3, new, engine._networks, memory.source)
            step.token[:] = drawn.integers(4, 40, (3, new))
            step.position[:], step.reach[:] = np.arange(length, length + new), new
            step(length, None)
            length += new
        hidden.append(step.hidden.astype(int))
    apart = np.abs(hidden[0] - hidden[1])
    assert apart.mean() < 1.5
    assert np.corrcoef(hidden[0].ravel(), hidden[1].ravel())[0, 1] > 0.99


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 999))
def test_tokens_are_those_of_the_integers(sentences, size, seed):
    # The right values: logits as exact sums of integers, tokens one after the other.
    model = HEADED
    roundings = Roundings(model)
    final = roundings.normed(FINAL, alike=True)
    generator = np.random.default_rng(seed)
    hidden = generator.integers(0, 256, (sentences, size, 64)).astype(np.uint8)
    found, certain = NativePicker(*weights_of(model), 1)({"hidden": hidden})
    logits = exactly(quantised(model.target_embedding.weight, final.shrink), final, hidden)
    logits[:, :, list(model.config.unpicked)] = -np.inf
    previous = quantised(model.markov.previous.weight)
    following = quantised(model.markov.following)
    for row in range(sentences):
        for slot in range(size):
            these = logits[row, slot]
            if slot:
                before = found[row, slot - 1]
                vector = previous.integers[:, before].astype(float) * previous.scale[before]
                these = these + vector @ following.integers.astype(float) * following.scale
            assert these[found[row, slot]] == pytest.approx(these.max(), abs=1e-4)
            expected = these[found[row, slot]] - np.logaddexp.reduce(these)
            assert certain[row, slot] == pytest.approx(expected, abs=2e-4)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 9),
    st.integers(2, 6),
    st.integers(2, library.WIDEST),
    st.integers(0, 999),
    st.booleans(),
)
def test_a_searched_group_is_that_of_the_slow_search(sentences, size, beam, seed, few):
    # The slow search over logits that are exact sums of integers; several tokens end a text. With
    # few words a beam has more room than there are tokens that may be written.
    model = FEW if few else HEADED
    config = model.config.model_copy(update={"further_ends": (5,) if few else (7, 9)})
    final = Roundings(model).normed(FINAL, alike=True)
    hidden = np.random.default_rng(seed).integers(0, 256, (sentences, size, 64)).astype(np.uint8)
    logits = exactly(quantised(model.target_embedding.weight, final.shrink), final, hidden)
    slow = searched(config, int8._in_8_bits(model.markov), beam)
    expected = slow(torch.from_numpy(logits).float())
    found, certain = searched_natively(model, config.ends, beam, hidden)
    for row in range(sentences):
        values = expected.log_probabilities[row].numpy()
        same = found[row].tolist() == expected.tokens[row].tolist()
        # Of two groups of equal worth either may be written, as rounding will have it.
        assert same or certain[row].sum() == pytest.approx(values.sum(), abs=1e-3)
        if same:
            assert certain[row] == pytest.approx(values, abs=3e-4)


def searched_natively(model, ends, beam, hidden):
    """Return the tokens of searched groups and their log-probabilities."""
    final = Roundings(model).normed(FINAL, alike=True)
    content = content_of(packed_translation(model, Roundings(model), final))
    works = NativeTranslation(content, model.config).works
    found = np.zeros(hidden.shape[:2], np.int64), np.zeros(hidden.shape[:2], np.float32)
    outputs = dict(zip(library.FOUND, map(View, found), strict=True))
    search = NativeSearch(works["greedy"], works["search"], ends, beam, 1)
    search.bound({"hidden": View(hidden)}, outputs)()
    return found


def exactly(weight: Quantised, rounding: Rounding, integers):
    """Return the outputs of a linear layer without bias, in float64."""
    sums = (integers.astype(int) + rounding.lowest) @ weight.integers.astype(int)
    return sums * (np.float64(rounding.step) * weight.scale)


HEADED, FEW = made(markov_rank=8), made(markov_rank=8, vocabulary_size=7)
with torch.no_grad():
    for each in (HEADED, FEW):
        each.markov.following.normal_(std=0.5)


def test_tokens_do_not_depend_on_their_neighbours():
    hidden = np.random.default_rng(3).integers(0, 256, (37, 4, 64)).astype(np.uint8)
    for chained in (False, True):
        pick, chain = weights_of(HEADED)
        picker = NativePicker(pick, chain if chained else None, 1)
        together = picker({"hidden": hidden if chained else hidden.reshape(-1, 64)})
        for row in range(len(hidden)):
            one = hidden[row : row + 1]
            alone = picker({"hidden": one if chained else one.reshape(-1, 64)})
            for whole, part in zip(together, alone, strict=True):
                parts = whole.reshape(len(hidden), -1)
                assert parts[row].tobytes() == part.tobytes()


def test_of_equal_logits_the_lowest_token_wins():
    model = made()
    with torch.no_grad():
        model.target_embedding.weight[6:] = model.target_embedding.weight[5]
    pick, _ = weights_of(model)
    hidden = np.random.default_rng(5).integers(0, 256, (400, 64)).astype(np.uint8)
    tokens, _ = NativePicker(pick, None, 1)({"hidden": hidden})
    assert set(tokens) <= set(range(6))
    assert 5 in tokens


@pytest.mark.parametrize("beam", [1, 4])
def test_any_number_of_threads_gives_the_same_bits(beam):
    # Large enough to be shared among threads: 2^24 products for each.
    torch.manual_seed(1)
    model = made(
        markov_rank=64 if beam > 1 else 8,
        hidden_size=128,
        feedforward_size=512,
        vocabulary_size=1500 if beam > 1 else 40,
    )
    source = np.random.default_rng(4).integers(5, 40, (97, 9))
    lengths = np.random.default_rng(5).integers(1, 10, 97)
    found = []
    for threads in (1, 3):
        engine = int8.quantise(model, threads=threads)
        memory = engine.begun(source, lengths)
        tokens = np.full((97, 4), model.config.start_token)
        groups = []
        for _ in range(3):
            tokens, certain = engine.step_even(tokens, memory, beam)
            groups += [tokens.tobytes(), certain.tobytes()]
        found.append(groups)
    assert found[0] == found[1]


@pytest.mark.parametrize("choices", [{}, {"norm": "post", "activation": "silu"}], ids=str)
def test_searched_texts_are_those_of_the_plain_loop(choices):
    # Guards: both kinds of kernels, rows that leave, sources of several lengths, logits of another
    # pass; a default that the model's configuration asks for and a loop that forgets it.
    model = made(markov_rank=8, **choices)
    with torch.no_grad():
        model.markov.following.normal_(std=0.5)
    model.config = model.config.model_copy(update={"group_beam": 3})
    engine = int8.quantise(model, threads=1)
    assert engine.searches(3)
    drawn = np.random.default_rng(6)
    sources = [drawn.integers(4, 40, length).tolist() for length in (3, 9, 5, 5, 1, 12)]
    options = DecodeOptions.made(group_size=4, limit_ratio=0.1, limit_extra=12)
    texts, plain = (
        [each.tokens for each in decode_corpus(own, sources, options)]
        for own in (engine, Plain(engine))
    )
    assert texts == plain
    picked = options.model_copy(update={"group_beam": 1})
    assert texts != [each.tokens for each in decode_corpus(engine, sources, picked)]


def test_a_file_is_read_as_it_was_written(tmp_path):
    arrays = packed_translation(
        made(), Roundings(made()), Roundings(made()).normed(FINAL, alike=True)
    )
    place = tmp_path / "native.bin"
    place.write_bytes(content_of(arrays))
    for kept in (read(place), read(place.read_bytes())):
        assert kept.keys() == arrays.keys()
        for name, array in arrays.items():
            assert np.array_equal(kept[name], array)
            assert kept[name].ctypes.data % library.ALIGNED == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda arrays: arrays.pop("encoder.pair1.offset"),
        lambda arrays: arrays.update({"picked.scale": arrays["picked.scale"][:-1]}),
        lambda arrays: arrays.update({"decoder.positions": arrays["decoder.positions"][:0]}),
        lambda arrays: arrays.update({"further": arrays["picked.scale"]}),
    ],
)
def test_weights_of_other_sizes_are_refused(damage):
    # Guards: kernels that read past the end of an array.
    model = made()
    roundings = Roundings(model)
    arrays = packed_translation(model, roundings, roundings.normed(FINAL, alike=True))
    damage(arrays)
    with pytest.raises(DataError, match="is damaged or of another model"):
        NativeTranslation(content_of(arrays), model.config)


@pytest.mark.parametrize("content", [b"", b"x" * 100, bytes(64), content_of({})[:-1] + b"}"])
def test_other_files_are_refused(content):
    with pytest.raises(DataError, match="is damaged or of another model"):
        NativeTranslation(content, made().config)


def llama(**choices):
    torch.manual_seed(8)
    sizes = {"hidden_size": 64, "feedforward_size": 192, "heads": 4, "key_value_heads": 2}
    kinds = {"norm_kind": "rms", "positions": "rotary", "activation": "silu"}
    others = {"gated_feedforward": True, "attention_bias": "input", "start_symbol": False}
    shape = {"vocabulary_size": 90, "encoder_layers": 0, "decoder_layers": 2, "group_sizes": (1, 4)}
    settings = {**sizes, **kinds, **others, **shape, "head_size": 16, "max_positions": 64}
    model = Transformer(TransformerConfig(**{**settings, **choices})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.reach.beyond_one.weight[0] = 0
        model.position.further_start.weight[0] = 0
    return model


def converted(model, form="int8"):
    roundings = Roundings(model, form)
    final = roundings.normed(FINAL, alike=model.config.norm != "post")
    return packed_converted(model, roundings, final)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(0, 999))
def test_causal_tokens_are_those_of_the_integers(rows, seed):
    # The right values: every block of 64 rounded by its largest entry, exact sums of integers.
    model = LLAMA
    hidden = np.random.default_rng(seed).normal(size=(rows, 64)).astype(np.float32)
    native = NativeConverted(content_of(converted(model)), model.config, "int8")
    tokens, certain = NativePicker(native.works["greedy"], None, 1)({"hidden": hidden})
    scale = np.abs(hidden).max(1, keepdims=True) / np.float32(127)
    weight = blocked(model.target_embedding.weight, 8)
    integers = weight.packed[:, 0].astype(int) - 128
    logits = (np.rint(hidden / scale).astype(int) @ integers.T) * (scale * weight.scale[:, 0])
    logits[:, list(model.config.unpicked)] = -np.inf
    for row in range(rows):
        best = logits[row, tokens[row]]
        assert best == pytest.approx(logits[row].max(), rel=1e-2)
        assert certain[row] == pytest.approx(best - np.logaddexp.reduce(logits[row]), abs=2e-2)


LLAMA = llama()
IN_4_BITS = in_4_bits(llama())


def rounded_where_read(model, size):
    """The model with embeddings and inputs rounded as in the kernels, in blocks of `size`."""

    def rounded(layer, given):
        blocks = given[0].unflatten(-1, (-1, size))
        scale = blocks.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
        return ((blocks / scale).round() * scale).flatten(-2)

    rounding = copy.deepcopy(model)
    with torch.no_grad():
        table = rounding.target_embedding.weight
        scale = table.abs().amax(1, keepdim=True) / 127
        table.copy_((table / scale).round() * scale)
    for layer in rounding.decoder.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_pre_hook(rounded)
    return rounding


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 15])
def test_a_model_that_came_in_4_bits_loses_nothing(slots):
    # The right values: its weights themselves, and rows rounded in blocks of 32. Guards: halves of
    # bytes, steps or least weights of other inputs or outputs, and numbers of rows that share out.
    # A number that is as near to one integer as to the next moves all that follows, in some texts.
    engine = int8.quantise(IN_4_BITS, threads=1)
    names = set(read(content_of(converted(IN_4_BITS))))
    for matrix in ("input", "output", "widen", "narrow"):
        assert {f"decoder.layer1.{matrix}.{part}" for part in ("step", "least")} <= names
    assert "picked.step" not in names
    of_32, of_64 = (EagerStepModel(rounded_where_read(IN_4_BITS, size)) for size in (32, 64))
    position = torch.arange(1, slots + 1)[None]
    away, other = [], []
    for seed in range(4):
        tokens = torch.randint(4, 90, (1, slots), generator=torch.Generator().manual_seed(seed))
        text = Slots(tokens, position, torch.ones_like(tokens), position.clone())
        found, expected, otherwise = (
            each.step_with_states(text, each.start(None, None))[1]
            for each in (engine, of_32, of_64)
        )
        away.append(float((found - expected).abs().mean() / expected.abs().mean()))
        other.append(float((found - otherwise).abs().mean() / expected.abs().mean()))
    assert min(away) < 1e-5
    assert max(away) < min(other)


@pytest.mark.parametrize("choices", [{}, {"query_key_norm": True, "head_size": 80}])
def test_a_causal_pass_is_that_of_the_graphs(monkeypatch, choices):
    model = llama(**choices)
    native = int8.quantise(model, threads=1)
    assert native.precision.endswith("native kernels")
    monkeypatch.setenv("MULTISTRIDE_KERNELS", "onnxruntime")
    graphs = int8.quantise(model, threads=1)
    tokens = torch.randint(4, 90, (3, 40), generator=torch.Generator().manual_seed(3))
    found = []
    for engine in (EagerStepModel(model), graphs, native):
        memory, logits = engine.start(None, None), []
        for first, end in ((0, 19), (19, 20), (20, 37), (37, 40)):
            position = torch.arange(first + 1, end + 1).expand(3, end - first)
            part = tokens[:, first:end]
            slots = Slots(part, position, torch.ones_like(part), position.contiguous())
            logits.append(engine.step(slots, memory))
        found.append(torch.cat(logits, 1))
    of_graphs, of_native = ((each - found[0]).abs().mean() for each in found[1:])
    assert of_native < 1.1 * of_graphs
    assert of_native < 0.05 * found[0].abs().mean()


@pytest.mark.parametrize("model", [LLAMA, IN_4_BITS], ids=["8 bits", "4 bits"])
def test_causal_rows_do_not_depend_on_their_neighbours(model):
    # Bit for bit: alone and in a batch, slot by slot and all at once, in one thread and in three.
    engines = [int8.quantise(model, threads=threads) for threads in (1, 3)]
    tokens = torch.randint(4, 90, (97, 12), generator=torch.Generator().manual_seed(3))

    def states(engine, rows, ends):
        memory, found = engine.start(None, None), []
        for first, end in zip((0, *ends), ends, strict=False):
            part = tokens[rows, first:end]
            position = torch.arange(first + 1, end + 1).expand(part.shape).contiguous()
            slots = Slots(part, position, torch.ones_like(part), position)
            found.append(memory.read(slots, engine._networks).hidden.copy())
        return np.concatenate(found, 1)

    whole = states(engines[0], slice(None), [12])
    assert states(engines[1], slice(None), [12]).tobytes() == whole.tobytes()
    assert states(engines[0], slice(None), range(1, 13)).tobytes() == whole.tobytes()
    for row in (0, 5, 96):
        alone = states(engines[0], slice(row, row + 1), [3, 4, 12])
        assert alone[0].tobytes() == whole[row].tobytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda arrays: arrays.pop("decoder.layer1.input.bias"),
        lambda arrays: arrays.pop("picked.bias"),
        lambda arrays: arrays.update({"decoder.sine": arrays["decoder.sine"][:-1]}),
        lambda arrays: arrays.update({"decoder.starts": arrays["decoder.starts"][:0]}),
        lambda arrays: arrays.update(
            {"decoder.layer0.widen.scale": arrays["decoder.layer0.narrow.scale"]}
        ),
    ],
)
def test_causal_weights_of_other_sizes_are_refused(damage):
    arrays = converted(LLAMA)
    damage(arrays)
    with pytest.raises(DataError, match="is damaged or of another model"):
        NativeConverted(content_of(arrays), LLAMA.config, "int8")


@pytest.mark.parametrize(
    "damage",
    [
        lambda arrays: arrays.pop("decoder.layer0.widen.least"),
        lambda arrays: arrays.pop("decoder.layer0.widen.step"),
        lambda arrays: arrays.update(
            {"decoder.layer0.widen.step": arrays["decoder.layer0.widen.step"][:, :1]}
        ),
        lambda arrays: arrays.update(
            {"decoder.layer0.widen.weights": arrays["decoder.layer0.widen.weights"][:, :4]}
        ),
        lambda arrays: arrays.update({"picked.step": arrays["decoder.layer0.widen.step"]}),
    ],
)
def test_causal_weights_of_4_bits_and_other_sizes_are_refused(damage):
    arrays = converted(IN_4_BITS)
    NativeConverted(content_of(arrays), IN_4_BITS.config, "int8")
    damage(arrays)
    with pytest.raises(DataError, match="is damaged or of another model"):
        NativeConverted(content_of(arrays), IN_4_BITS.config, "int8")


def test_the_choice_of_kernels(monkeypatch):
    monkeypatch.setenv("MULTISTRIDE_KERNELS", "fast")
    with pytest.raises(UsageError, match="'fast'; allowed are auto, native, avx2, onnxruntime"):
        int8.quantise(made(), threads=1)
    monkeypatch.setenv("MULTISTRIDE_KERNELS", "native")
    monkeypatch.setattr(library, "missing", lambda: "this CPU has no AVX2")
    with pytest.raises(UsageError, match="is native, and this CPU has no AVX2"):
        int8.quantise(made(), threads=1)
    monkeypatch.setenv("MULTISTRIDE_KERNELS", "auto")
    assert "native" not in int8.quantise(made(), threads=1).precision


def test_padding_that_sees_nothing_leaves_no_trace():
    # Guards: weights that sum to zero, whose quotients are no numbers and spread through the cache.
    for engine in (int8.quantise(made(), threads=1), int8.quantise(LLAMA, threads=1)):
        translates = engine.config.encoder_layers > 0
        start = (np.array([[5, 6, 2]]), np.array([3])) if translates else (None, None)
        source = [None if each is None else torch.from_numpy(each) for each in start]
        memory = engine.start(*source)
        slots = Slots(
            *(torch.tensor([row]) for row in ([5, 6], [0, 1], [1, 1], [PADDING_GROUP, 0]))
        )
        logits = engine.step(slots, memory)
        alone = engine.step(Slots(*(each[:, 1:] for each in slots)), engine.start(*source))
        assert torch.equal(logits[:, 1:], alone)


def test_a_slot_that_sees_nothing_but_itself():
    # Guards: masks between visible slots, as drafts have them.
    engine = int8.quantise(made(), threads=1)
    memory = engine.begun(np.array([[5, 6, 2]]), np.array([3]))
    step = memory.room(1, 0, 5).step(1, 5, engine._networks, memory.source)
    step.token[:], step.position[:], step.reach[:] = [5, 6, 7, 8, 9], 4, 1
    visible = np.eye(5, dtype=bool)[None]
    step(0, visible)
    apart = step.hidden.copy()
    for slot in range(5):
        memory = engine.begun(np.array([[5, 6, 2]]), np.array([3]))
        one = memory.room(1, 0, 1).step(1, 1, engine._networks, memory.source)
        one.token[:], one.position[:], one.reach[:] = 5 + slot, 4, 1
        one(0, None)
        assert np.abs(one.hidden[0, 0].astype(int) - apart[0, slot]).max() <= 1
    assert -np.finfo(np.float32).max == MASKED


def test_kernels_of_another_version_are_not_called(monkeypatch):
    # Guards: a clone that was updated and not installed again, whose kernels end the process.
    monkeypatch.setattr(library, "VERSION", library.VERSION + 1)
    monkeypatch.setenv("MULTISTRIDE_KERNELS", "auto")
    library._compiled.cache_clear()
    try:
        assert "built from other code" in library.missing()
        assert library.kernels() is None
        assert not library.wanted()
    finally:
        library._compiled.cache_clear()


@pytest.mark.skipif(library.ARM, reason="ARM has one set of instructions")
def test_kernels_of_which_some_are_not_built_are_not_blamed_on_the_cpu(monkeypatch):
    # Guards: "this CPU has no AVX2" in a clone that was installed before there were kernels for it.
    avx512 = library._place("avx512")
    monkeypatch.setattr(library, "_place", lambda name: avx512 if name == "avx512" else None)
    monkeypatch.setattr(library, "kernels", lambda: None)
    assert "install multistride again" in library.missing()


@pytest.mark.parametrize("damage", [float("nan"), float("inf")])
@pytest.mark.parametrize("entries", [slice(3, 4), slice(None)])
def test_a_model_that_overflows_is_refused(damage, entries):
    # Guards: a text of padding whose scores are infinite, a NaN that rounding turns into a number.
    model = llama()
    with torch.no_grad():
        model.decoder_norm.weight[entries] = damage
    options = DecodeOptions(max_tokens=4)
    with pytest.raises(DataError, match="wrote scores that are not numbers"):
        decode_corpus(int8.quantise(model, 1), [[6, 7, 8]], options)
