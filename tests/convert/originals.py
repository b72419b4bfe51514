"""Small random checkpoints, made by the real classes of transformers, and what both sides make of
them.

`benchmarks/parity.py` makes its table with these too.
"""

import json
from typing import NamedTuple

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from multistride.convert.run import convert
from multistride.decode.choosing.policy import fixed
from multistride.decode.ending import EndingRule
from multistride.decode.loop import GroupWriter, decode
from multistride.decode.state import DecodeState
from multistride.engines.eager import EagerStepModel
from multistride.groups import PADDING_GROUP, Slots
from multistride.model.weights import load_model

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 .,!?"

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
"""The rotary positions of Llama 3.1, for small models."""


class Comparison(NamedTuple):
    """Two models on the same texts: the largest difference of any logit, the size of the largest
    logit, and which texts they continue alike."""

    largest_difference: float
    largest_logit: float
    alike: list[bool]


def small_tokenizer(directory, template="$A", **special):
    """A tokenizer of letters with the given special tokens (role: piece), in the form that
    transformers writes."""
    pieces = list(dict.fromkeys(special.values()))
    vocabulary = {piece: token for token, piece in enumerate([*pieces, *LETTERS.replace(" ", "▁")])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token=special.get("unk_token")))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    tokenizer.add_special_tokens(
        [AddedToken(piece, special=True, normalized=False) for piece in pieces]
    )
    named = [(piece, vocabulary[piece]) for piece in pieces if piece in template]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=named)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return len(vocabulary)


def randomised(model, seed=3):
    """The model with every parameter moved, so that no norm, bias or table is at a value that hides
    mistakes."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # sinusoids are parameters in transformers
                parameter.add_(0.25 * torch.randn_like(parameter))
    return model.eval()


def sequences(size, count=8, seed=5):
    """Random tokens in rows of random lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 14, (count,), generator=generator).tolist()
    return [torch.randint(6, size, (length,), generator=generator).tolist() for length in lengths]


def padded(rows, value):
    """Rows padded on the right, and which entries are real."""
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, value)
    lengths = torch.tensor([len(row) for row in rows])
    return tokens, lengths, torch.arange(tokens.shape[1]) < lengths[:, None]


def converted_model(directory, place):
    """The converted model as it is read from its directory, and its vocabulary."""
    convert(str(directory), place)
    return load_model(place)


def causal_slots(rows):
    """Every token of every row, read in autoregressive order."""
    tokens, _, real = padded(rows, 0)
    position = torch.arange(1, tokens.shape[1] + 1).expand_as(tokens)
    return Slots(
        tokens, position, torch.ones_like(tokens), torch.where(real, position, PADDING_GROUP)
    ), real


@torch.inference_mode()
def compare_causal(theirs, ours, size, rows, new_tokens=24, engine=None):
    """Logits of both with padding, and the greedy continuation of every row: ours cached and
    padded, theirs alone. `engine` runs ours, by default the reference."""
    slots, real = causal_slots(rows)
    expected = theirs(input_ids=slots.token, attention_mask=real.long()).logits[real]
    if engine is None:
        found = ours.project(ours(None, None, slots)[real])[:, :size]
    else:
        found = engine.step(slots, engine.start(None, None))[real][:, :size]
    config = ours.config
    state = DecodeState(
        [new_tokens] * len(rows),
        config.start_token,
        EndingRule.at(config.end_token),
        rows,
        config.start_symbol,
    )
    engine = engine or EagerStepModel(ours)
    for _ in decode(engine, None, None, state, GroupWriter(engine, fixed(1))):
        pass
    width = slots.token.shape[1]
    left = torch.tensor([[config.pad_token] * (width - len(row)) + row for row in rows])
    written = theirs.generate(
        left,
        attention_mask=real.flip(1).long(),
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=config.end_token,
        pad_token_id=config.pad_token,
    )[:, width:]
    return _comparison(found, expected, state, written, config)


@torch.inference_mode()
def compare_translators(theirs, ours, size, rows, new_tokens=24, engine=None):
    """The same for an encoder-decoder: `rows` are sources, and other random rows what the decoder
    reads."""
    config = ours.config
    source, lengths, read = padded([[*row, config.end_token] for row in rows], config.pad_token)
    targets = [[config.start_token, *row] for row in sequences(size, len(rows), seed=6)]
    tokens, _, real = padded(targets, config.pad_token)
    position = torch.arange(tokens.shape[1]).expand_as(tokens)
    slots = Slots(
        tokens, position, torch.ones_like(tokens), torch.where(real, position, PADDING_GROUP)
    )
    expected = theirs(
        input_ids=source, attention_mask=read.long(), decoder_input_ids=tokens
    ).logits[real]
    if engine is None:
        found = ours.project(ours(source, lengths, slots)[real])[:, :size]
    else:
        found = engine.step(slots, engine.start(source, lengths))[real][:, :size]
    state = DecodeState(
        [new_tokens] * len(rows), config.start_token, EndingRule.at(config.end_token)
    )
    engine = engine or EagerStepModel(ours)
    for _ in decode(engine, source, lengths, state, GroupWriter(engine, fixed(1))):
        pass
    written = theirs.generate(
        source, attention_mask=read.long(), max_new_tokens=new_tokens, do_sample=False, num_beams=1
    )[:, 1:]
    return _comparison(found, expected, state, written, config)


def _comparison(found, expected, state, written, config):
    alike = [
        hypothesis.tokens == before(row, config.end_token)
        for hypothesis, row in zip(state.hypotheses, written.tolist(), strict=True)
    ]
    difference = float((found - expected).abs().max())
    return Comparison(difference, float(expected.abs().max()), alike)


def assert_same_causal_model(theirs, ours, size, engine=None):
    """Logits agree to 1e-5 of the largest, and every prompt is continued alike."""
    assert_same(compare_causal(theirs, ours, size, sequences(size), engine=engine), engine)


def assert_same_translator(theirs, ours, size, engine=None):
    """Logits agree to 1e-5 of the largest, and every source is translated alike."""
    assert_same(compare_translators(theirs, ours, size, sequences(size), engine=engine), engine)


def assert_same(comparison, engine=None):
    # ONNX Runtime's tanh is good to some 1e-5, which gated layers multiply.
    near = 1e-5 if engine is None else 3e-5
    assert comparison.largest_difference <= near * comparison.largest_logit
    assert all(comparison.alike)


def before(tokens, end):
    """What stands before the first EOS."""
    return tokens[: tokens.index(end)] if end in tokens else tokens
