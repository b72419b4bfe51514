"""The model at K=1 is the Transformer of the textbooks, written here a second time from plain
tensor operations."""

import math

import pytest
import torch

from multistride.decode.choosing.policy import fixed
from multistride.decode.ending import EndingRule
from multistride.decode.loop import GroupWriter, decode
from multistride.decode.state import DecodeState
from multistride.engines.eager import EagerStepModel
from multistride.groups import (
    NO_LABEL,
    PADDING_GROUP,
    Slots,
    equal_sizes,
    lookahead,
    teacher_forced,
)
from multistride.model import transformer
from multistride.model.config import RotaryScaling, TransformerConfig
from multistride.model.layers import RotaryPositions
from multistride.model.transformer import Transformer

START, END = 1, 2


def small(**changes):
    sizes = {
        "vocabulary_size": 23,
        "hidden_size": 16,
        "feedforward_size": 24,
        "heads": 2,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "max_positions": 24,
        "dropout": 0.0,
    }
    return TransformerConfig(**{**sizes, **changes})


def random_model(config, seed=1):
    """A model in which nothing is at a value that hides mistakes: norms, biases and reach are
    random too."""
    torch.manual_seed(seed)
    model = Transformer(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            if name == "reach.beyond_one.weight":
                parameter[1:].normal_()
    return model


def batch_of(lengths, seed=2):
    """Random tokens padded on the right with random tokens: whoever reads padding shows."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, 23, (len(lengths), max(lengths)), generator=generator), torch.tensor(
        lengths
    )


def logits_of(model, source, source_lengths, target, target_lengths, group_size):
    sizes = equal_sizes(target_lengths, group_size)
    slots, labels = teacher_forced(target, target_lengths, sizes, START)
    return model.project(model(source, source_lengths, slots)), labels


class PlainTransformer:
    """Vaswani et al. 2017 for one sentence without padding; it takes nothing from the package but
    the weights."""

    def __init__(self, config, weights):
        self.config, self.weights = (
            config,
            {name: tensor.double() for name, tensor in weights.items()},
        )
        self.pre = config.norm == "pre"

    def logits(self, source, target):
        """Logits of every target token, each given those before it."""
        embedding = self.weights["target_embedding.weight"]
        encoded = None
        if source is not None:
            stream = self.embed(self.weights.get("source_embedding.weight", embedding), source)
            for layer in range(self.config.encoder_layers):
                stream = self.layer(f"encoder.{layer}", stream, None, None)
            encoded = self.norm("encoder_norm", stream) if self.pre else stream
        stream = self.embed(embedding, [START, *target[:-1]])
        count = len(target)
        later = torch.tensor([[seen > seer for seen in range(count)] for seer in range(count)])
        for layer in range(self.config.decoder_layers):
            stream = self.layer(f"decoder.{layer}", stream, later, encoded)
        stream = self.norm("decoder_norm", stream) if self.pre else stream
        return stream @ self.weights.get("output.weight", embedding).T

    def embed(self, table, tokens):
        width = self.config.hidden_size
        vectors = torch.stack([table[token] for token in tokens]) * width**0.5
        if self.config.positions == "learned":
            return vectors + self.weights["position.table"][: len(tokens)]
        half = width // 2
        angles = [
            [place / 10000 ** (2 * pair / width) for pair in range(half)]
            for place in range(len(tokens))
        ]
        waves = [
            [math.sin(angle) for angle in row] + [math.cos(angle) for angle in row]
            for row in angles
        ]
        return vectors + torch.tensor(waves, dtype=torch.double)

    def layer(self, name, stream, hidden_keys, encoded):
        stream = self.sublayer(
            f"{name}.around_attention",
            stream,
            lambda x: self.self_attention(f"{name}.attention", x, hidden_keys),
        )
        if encoded is not None:
            stream = self.sublayer(
                f"{name}.around_cross",
                stream,
                lambda x: self.cross_attention(f"{name}.cross", x, encoded),
            )
        return self.sublayer(
            f"{name}.around_feedforward",
            stream,
            lambda x: self.feedforward(f"{name}.feedforward", x),
        )

    def sublayer(self, name, stream, function):
        if self.pre:
            return stream + function(self.norm(f"{name}.norm", stream))
        return self.norm(f"{name}.norm", stream + function(stream))

    def norm(self, name, x):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / ((centred**2).mean(-1, keepdim=True) + 1e-5) ** 0.5
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def linear(self, name, x):
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def self_attention(self, name, x, hidden_keys):
        width = self.config.hidden_size
        mixed = self.linear(f"{name}.input", x)
        parts = mixed[:, :width], mixed[:, width : 2 * width], mixed[:, 2 * width :]
        return self.linear(f"{name}.output", self.attend(*parts, hidden_keys))

    def cross_attention(self, name, x, encoded):
        mixed = self.linear(f"{name}.key_value", encoded)
        width = self.config.hidden_size
        attended = self.attend(
            self.linear(f"{name}.query", x), mixed[:, :width], mixed[:, width:], None
        )
        return self.linear(f"{name}.output", attended)

    def attend(self, query, key, value, hidden_keys):
        width = self.config.hidden_size // self.config.heads
        heads = []
        for head in range(self.config.heads):
            columns = slice(head * width, (head + 1) * width)
            scores = query[:, columns] @ key[:, columns].T / width**0.5
            if hidden_keys is not None:
                scores = scores.masked_fill(hidden_keys, -math.inf)
            weights = (scores - scores.max(-1, keepdim=True).values).exp()
            heads.append(weights / weights.sum(-1, keepdim=True) @ value[:, columns])
        return torch.cat(heads, dim=-1)

    def feedforward(self, name, x):
        wide = self.linear(f"{name}.widen", x)
        if self.config.activation == "relu":
            wide = wide.clamp(min=0)
        else:
            wide = wide * 0.5 * (1 + torch.erf(wide / 2**0.5))
        return self.linear(f"{name}.narrow", wide)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"positions": "learned", "activation": "gelu"},
        {"tie_embeddings": False, "heads": 4, "encoder_layers": 1, "decoder_layers": 3},
        {"encoder_layers": 0},
        {"encoder_layers": 0, "tie_embeddings": False, "positions": "learned"},
    ],
    ids=["plain", "learned positions", "untied", "causal", "causal and untied"],
)
@torch.no_grad()
def test_group_size_one_is_a_plain_transformer(norm, changes):
    # Guards: a model that is not the Transformer it is called, and padding of either side that
    # leaks in.
    config = small(norm=norm, **changes)
    model = random_model(config)
    source, source_lengths = batch_of([5, 1, 9, 4])
    target, target_lengths = batch_of([3, 8, 1, 6], seed=3)
    pair = (source, source_lengths) if config.encoder_layers else (None, None)
    logits, labels = logits_of(model, *pair, target, target_lengths, 1)
    plain = PlainTransformer(config, model.state_dict())
    for row in range(4):
        tokens = target[row, : target_lengths[row]].tolist()
        words = source[row, : source_lengths[row]].tolist() if config.encoder_layers else None
        assert labels[row, : len(tokens)].tolist() == tokens
        expected = plain.logits(words, tokens)
        torch.testing.assert_close(logits[row, : len(tokens)].double(), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_group_sees_its_neighbours_but_not_itself():
    # Guards: a mask that the model ignores, or logits that know the token they are to predict.
    model = random_model(small(max_group_size=12))
    source, source_lengths = batch_of([6])
    target, target_lengths = batch_of([12], seed=3)
    changed = target.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 18 + 5
    for group_size in (1, 2, 3, 4, 12):
        logits = [
            logits_of(model, source, source_lengths, tokens, target_lengths, group_size)[0]
            for tokens in (target, changed)
        ]
        differs = (logits[0] - logits[1]).abs().amax(dim=-1)[0] > 1e-6
        first = (5 // group_size + 1) * group_size
        assert differs.tolist() == [position >= first for position in range(len(differs))]


@torch.no_grad()
def test_lookahead_keeps_the_autoregressive_logits():
    # Guards: drafts that change what the exact model says.
    model = random_model(small())
    source, source_lengths = batch_of([6, 3])
    target, target_lengths = batch_of([9, 7], seed=3)
    plain, _ = logits_of(model, source, source_lengths, target, target_lengths, 1)
    slots, _ = lookahead(target, target_lengths, torch.tensor([4, 2]), 4, START, 3)
    drafting = model.project(model(source, source_lengths, slots))
    for row, anchor in enumerate((4, 2)):
        torch.testing.assert_close(
            drafting[row, : anchor + 1], plain[row, : anchor + 1], atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
@torch.no_grad()
def test_the_largest_group_size_is_nothing_to_group_size_one(positions):
    # Guards: an autoregressive model that changes when it is given room for groups.
    torch.manual_seed(1)
    model = Transformer(small(max_group_size=1, positions=positions)).eval()
    source, source_lengths = batch_of([6, 3])
    target, target_lengths = batch_of([9, 7], seed=3)
    expected, _ = logits_of(model, source, source_lengths, target, target_lengths, 1)
    for largest in (2, 8, 31):
        wider = Transformer(small(max_group_size=largest, positions=positions)).eval()
        weights = wider.state_dict()
        for name, tensor in model.state_dict().items():
            weights[name][: len(tensor)] = tensor
        wider.load_state_dict(weights)
        assert torch.equal(
            logits_of(wider, source, source_lengths, target, target_lengths, 1)[0], expected
        )


@torch.no_grad()
@pytest.mark.parametrize("encoder_layers", [2, 0], ids=["translation", "text"])
@pytest.mark.parametrize("overhead", [0, 10, 10**9], ids=["many", "some", "one"])
def test_rows_decoded_in_parts_have_their_own_states(encoder_layers, overhead, monkeypatch):
    # Guards: rows returned in another order, a row with the source of another, states cut off.
    monkeypatch.setattr(transformer, "PART_OVERHEAD", overhead)
    model = random_model(small(encoder_layers=encoder_layers))
    source, source_lengths = batch_of([4, 9, 2, 7, 1])
    target, lengths = batch_of([6, 2, 8, 3, 8], seed=3)
    sizes = equal_sizes(lengths, torch.tensor([2, 5, 1, 4, 8]))
    slots, _ = teacher_forced(target, lengths, sizes, START)
    given = (source, source_lengths) if encoder_layers else (None, None)
    together = model(*given, slots)
    for row in range(5):
        count = int((slots.group[row] < PADDING_GROUP).sum())
        alone = Slots(*(field[row : row + 1, :count] for field in slots))
        if encoder_layers:
            length = source_lengths[row : row + 1]
            given = source[row : row + 1, : int(length)], length
        torch.testing.assert_close(together[row, :count], model(*given, alone)[0])


def test_padding_may_stand_between_slots(monkeypatch):
    # Guards: slots behind padding that are cut off, as those of a step behind a shorter history.
    monkeypatch.setattr(transformer, "PART_OVERHEAD", 0)
    model = random_model(small())
    source, source_lengths = batch_of([4, 9])
    target, lengths = batch_of([3, 6], seed=3)
    slots, _ = teacher_forced(target, lengths, equal_sizes(lengths, torch.tensor([1, 2])), START)
    columns = torch.tensor([0, 5, 1, 4, 2, 3])  # the first row has three slots
    moved = Slots(*(field[:, columns] for field in slots))
    expected = model(source, source_lengths, slots)[:, columns]
    found = model(source, source_lengths, moved)
    real = moved.group < PADDING_GROUP
    torch.testing.assert_close(found[real], expected[real])


def test_a_fresh_model_has_no_reach():
    # Guards: an initialisation that overwrites the zeros of the reach.
    model = Transformer(small(max_group_size=5))
    assert model.reach.beyond_one.weight.shape == (5, 16)
    assert not model.reach(torch.arange(1, 6)[None]).any()


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_reach_one_stays_zero_while_others_learn(decay):
    # Guards: group sizes that, by being trained, move the model away from the autoregressive one.
    torch.manual_seed(1)
    model = Transformer(small(max_group_size=4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=decay)
    source, source_lengths = batch_of([6, 3])
    target, target_lengths = batch_of([9, 7], seed=3)
    for group_sizes in ([1, 2], [1, 1], [2, 2]):
        logits, labels = logits_of(
            model, source, source_lengths, target, target_lengths, torch.tensor(group_sizes)
        )
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    one, two, three, four = model.reach(torch.arange(1, 5)[None])[0]
    assert not one.any()
    assert two.abs().min() > 0
    assert not three.any()
    assert not four.any()


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_embeddings": False},
        {"positions": "learned"},
        {"activation": "gelu"},
        {"norm": "post"},
        {"encoder_layers": 1, "decoder_layers": 3},
        {"encoder_layers": 3, "decoder_layers": 1},
        {"encoder_layers": 0},
        {"dropout": 0.3, "attention_dropout": 0.3},
    ],
    ids=lambda changes: " ".join(f"{name}={value}" for name, value in changes.items()),
)
def test_every_parameter_learns(changes):
    # Guards: a weight that is never used, or cut off from the loss.
    torch.manual_seed(1)
    config = small(max_group_size=3, **changes)
    model = Transformer(config).train()
    source, source_lengths = batch_of([24, 3, 5])
    target, target_lengths = batch_of([26, 24, 7], seed=3)
    pair = (source, source_lengths) if config.encoder_layers else (None, None)
    logits, labels = logits_of(model, *pair, target, target_lengths, torch.tensor([3, 2, 1]))
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    if config.positions == "learned":
        assert model.position.table.grad.any(dim=1).sum() == 27


def test_dropout_is_off_in_evaluation():
    # Guards: decoding that gives another text every time.
    model = Transformer(small(dropout=0.5, attention_dropout=0.5))
    source, source_lengths = batch_of([6, 3])
    target, target_lengths = batch_of([9, 7], seed=3)
    arguments = source, source_lengths, target, target_lengths, 2
    assert not torch.equal(logits_of(model, *arguments)[0], logits_of(model, *arguments)[0])
    model.eval()
    assert torch.equal(logits_of(model, *arguments)[0], logits_of(model, *arguments)[0])


def test_a_causal_model_learns_to_count_and_writes_it():
    # Guards: a decoder-only model that cannot be trained, or cannot be decoded without a source.
    torch.manual_seed(1)
    config = small(
        encoder_layers=0,
        decoder_layers=1,
        positions="learned",
        max_group_size=2,
        group_sizes=(1, 2),
    )
    model = Transformer(config)
    # In the first group every slot reads the start symbol: strong positions tell them apart within
    # few updates.
    torch.nn.init.normal_(model.position.table)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    counting = [*range(5, 18), END]
    target, lengths = torch.tensor([counting] * 2), torch.tensor([len(counting)] * 2)
    losses = []
    for _ in range(30):
        logits, labels = logits_of(model, None, None, target, lengths, torch.tensor([1, 2]))
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=NO_LABEL
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10
    for group_size in (1, 2):
        state = DecodeState([20, 4, 20], START, EndingRule.at(END))
        engine = EagerStepModel(model)
        steps = decode(engine, None, None, state, GroupWriter(engine, fixed(group_size)))
        assert len(list(steps)) == len(counting) / group_size
        assert [hypothesis.tokens for hypothesis in state.hypotheses] == [
            counting[:-1],
            counting[:4],
            counting[:-1],
        ]
        assert [hypothesis.ending for hypothesis in state.hypotheses] == ["end", "limit", "end"]


@torch.no_grad()
def test_positions_past_the_table_do_not_fail():
    # Guards: a crash in the last group, which may reach past the longest sentence, and past the
    # table.
    for positions in ("sinusoidal", "learned"):
        model = random_model(small(positions=positions, max_group_size=8))
        table = model.position.table
        assert len(table) == 24 + 8
        found = model.position(torch.tensor([[0, 31, 32, 900]]))[0]
        assert torch.equal(found, table[[0, 31, 31, 31]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_angles_are_float32_in_half_precision(dtype):
    # Guards: positions that turn by another angle as soon as a model is stored in 16 bits.
    scaling = RotaryScaling(
        factor=8.0, low_frequency=1.0, high_frequency=4.0, original_positions=64
    )
    window = {"attention_window": 4, "window_rotary_base": 500.0, "rotary_factor": 1.2}
    config = small(encoder_layers=0, positions="rotary", rotary_scaling=scaling, **window)
    position, positions = torch.tensor([[1, 77, 1000, 30_000]]), RotaryPositions(config)
    expected = [*positions(position), *positions.within_window(position)]
    positions = positions.to(dtype)
    assert positions.further_start.weight.dtype == dtype
    found = [*positions(position), *positions.within_window(position)]
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)
