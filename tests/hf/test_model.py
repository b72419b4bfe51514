"""The classes that transformers sees: outputs, caches, embeddings, files."""

import copy
import io
import json
import pickle
import subprocess
import sys

import pytest
import torch
from directories import SOURCES, directory_of, inputs_of
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

import multistride
from multistride.errors import DataError, UsageError
from multistride.groups import equal_sizes, teacher_forced
from multistride.hf import MultistrideConfig, MultistrideForCausalLM
from multistride.model.weights import load_model

CLASSES = {"causal": AutoModelForCausalLM, "translator": AutoModelForSeq2SeqLM}
KINDS = pytest.mark.parametrize("kind", CLASSES)


def opened(kind, request):
    directory = request.getfixturevalue(kind)
    return CLASSES[kind].from_pretrained(directory).eval(), directory


def arguments(kind, directory, side="right"):
    inputs = inputs_of(directory, side=side)
    if kind == "translator":
        inputs["decoder_input_ids"] = inputs["input_ids"].roll(1, 1)
        inputs["decoder_input_ids"][:, 0] = 1
    return inputs


def test_a_causal_model_reads_its_start_symbol(causal):
    # Guards: logits and a loss of a text that does not begin as every text in decoding does.
    model, vocabulary = load_model(causal)
    tokens = torch.tensor(vocabulary.encode([SOURCES[0]]))
    lengths = torch.tensor([tokens.shape[1]])
    slots, _ = teacher_forced(tokens, lengths, equal_sizes(lengths, 1), 1)
    with torch.inference_mode():
        expected = model.project(model(None, None, slots))[:, 1:]
        found = AutoModelForCausalLM.from_pretrained(causal)(input_ids=tokens).logits
    torch.testing.assert_close(found[:, :-1], expected, atol=1e-5, rtol=1e-5)


@KINDS
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_cache_changes_nothing(kind, side, request):
    # Guards: places counted anew in every call, the start symbol read twice, padding seen.
    model, directory = opened(kind, request)
    inputs = arguments(kind, directory, side if kind == "causal" else "right")
    tokens, mask = ("input_ids", "attention_mask")
    if kind == "translator":
        tokens, mask = ("decoder_input_ids", "decoder_attention_mask")
        inputs[mask] = torch.ones_like(inputs[tokens])
        inputs["encoder_outputs"] = model.get_encoder()(
            inputs.pop("input_ids"), inputs["attention_mask"]
        )
    with torch.inference_mode():
        expected = model(**inputs, use_cache=False).logits
        cache, found = None, []
        for begin, end in ((0, 3), (3, 4), (4, expected.shape[1])):
            part = {
                **inputs,
                tokens: inputs[tokens][:, begin:end],
                mask: inputs[mask][:, :end],
            }
            output = model(**part, cache=cache, use_cache=True)
            cache = output.cache
            found.append(output.logits)
    real = inputs[mask].bool()
    torch.testing.assert_close(torch.cat(found, 1)[real], expected[real], atol=1e-5, rtol=1e-5)


@KINDS
def test_attentions_and_hidden_states_are_those_of_the_pass(kind, request):
    # Guards: outputs that are swallowed, or computed by another way than the logits.
    model, directory = opened(kind, request)
    inputs = arguments(kind, directory)
    with torch.inference_mode():
        plain = model(**inputs)
        full = model(**inputs, output_attentions=True, output_hidden_states=True)
        as_tuple = model(**inputs, return_dict=False, use_cache=False)
        project = model.transformer.project
        states = full.hidden_states if kind == "causal" else full.decoder_hidden_states
        torch.testing.assert_close(full.logits, plain.logits, atol=1e-5, rtol=1e-5)
        assert as_tuple[0].equal(plain.logits)
        assert len(states) == 3
        torch.testing.assert_close(project(states[-1]), full.logits, atol=1e-5, rtol=1e-5)
    weights = full.attentions if kind == "causal" else full.cross_attentions
    width = inputs["input_ids"].shape[1]
    assert [tuple(each.shape) for each in weights] == [(len(SOURCES), 4, width, width)] * 2
    if kind == "translator":
        assert len(full.encoder_attentions) == 2
        assert len(full.encoder_hidden_states) == 3
        for each in (*weights, *full.encoder_attentions):
            torch.testing.assert_close(each.sum(-1), torch.ones(each.shape[:-1]))
        padding = inputs["attention_mask"] == 0
        assert weights[0].amax((1, 2))[padding].max() == 0


@KINDS
def test_embeddings_stand_in_for_tokens(kind, request):
    model, directory = opened(kind, request)
    inputs = arguments(kind, directory)
    expected = model(**inputs).logits
    vectors = model.get_input_embeddings()(inputs.pop("input_ids"))
    torch.testing.assert_close(model(**inputs, inputs_embeds=vectors).logits, expected)
    with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
        model(attention_mask=inputs["attention_mask"], decoder_input_ids=None)


def test_padding_of_a_source_may_stand_on_either_side(translator):
    model = AutoModelForSeq2SeqLM.from_pretrained(translator).eval()
    right, left = inputs_of(translator), inputs_of(translator, side="left")
    encoder = model.get_encoder()
    settings = {"output_attentions": True, "output_hidden_states": True}
    with torch.inference_mode():
        one, other = (encoder(**inputs, **settings) for inputs in (right, left))
    masks = right["attention_mask"].bool(), left["attention_mask"].bool()
    for mine, yours in zip(one.hidden_states, other.hidden_states, strict=True):
        torch.testing.assert_close(mine[masks[0]], yours[masks[1]], atol=1e-5, rtol=1e-5)
    length = int(masks[0][1].sum())
    mine, yours = one.attentions[0][1], other.attentions[0][1]
    torch.testing.assert_close(mine[:, :length, :length], yours[:, -length:, -length:])


@KINDS
def test_models_are_copied_and_pickled(kind, request):
    # Guards: what Trainer, ray and torch.save do with every model.
    model, directory = opened(kind, request)
    inputs = arguments(kind, directory)
    expected = model(**inputs).logits
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):
        torch.testing.assert_close(other(**inputs).logits, expected, atol=1e-5, rtol=1e-5)


@KINDS
@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_are_resized_whole(kind, tied, tmp_path):
    # Guards: one table that keeps its size, and a config.json that does not say the new one.
    layers = {"causal": 0, "translator": 2}[kind]
    choices = {"tie_embeddings": tied, "output_bias": True, "markov_rank": 4}
    directory = directory_of(tmp_path / "ours", layers, **choices)
    model = CLASSES[kind].from_pretrained(directory).eval()
    inputs = arguments(kind, directory)
    expected, size = model(**inputs).logits, model.config.vocab_size
    model.resize_token_embeddings(size + 7)
    found = model(**inputs).logits
    assert found.shape[-1] == size + 7 == model.config.vocabulary_size
    torch.testing.assert_close(found[..., :size], expected)
    model.generate(**inputs_of(directory), max_new_tokens=4, group_size=2)
    model.save_pretrained(tmp_path / "longer")
    again = CLASSES[kind].from_pretrained(tmp_path / "longer").eval()
    torch.testing.assert_close(again(**inputs).logits, found, atol=1e-5, rtol=1e-5)
    model.resize_token_embeddings(size)
    model.save_pretrained(tmp_path / "again")
    assert multistride.load(tmp_path / "again", engine="eager").config.vocabulary_size == size


def test_models_made_from_a_configuration_generate():
    # Guards: a generation_config that only directories have.
    config = MultistrideConfig(vocab_size=50, encoder_layers=0, hidden_size=16, num_hidden_layers=1)
    torch.manual_seed(1)
    model = MultistrideForCausalLM(config)
    written = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4)
    assert written.shape[1] <= 7
    assert config.transformer.decoder_layers == config.num_hidden_layers == 1


@KINDS
def test_arguments_that_nobody_follows_are_refused(kind, request):
    # Guards: `forward(**unused)`.
    model, directory = opened(kind, request)
    inputs = arguments(kind, directory)
    with pytest.raises(UsageError, match="forward has no argument head_mask: leave it out"):
        model(**inputs, head_mask=torch.ones(4))
    with pytest.raises(UsageError, match="attention mask has 4 dimensions"):
        model(**{**inputs, "attention_mask": inputs["attention_mask"][:, None, None]})


SCRIPT = """
import sys
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
directory = sys.argv[1]
try:
    AutoModelForSeq2SeqLM.from_pretrained(directory)
except ValueError as error:
    assert "trust_remote_code" in str(error), error
assert "multistride.hf" not in sys.modules
tokens = AutoTokenizer.from_pretrained(directory)(["two cats"], return_tensors="pt")
model = AutoModelForSeq2SeqLM.from_pretrained(directory, trust_remote_code=True)
print('written', model.generate(**tokens, group_size=4, max_new_tokens=8).tolist())
model.save_pretrained(directory + "-again")
"""


def test_a_directory_opens_with_transformers_alone(translator, tmp_path, monkeypatch):
    # Guards: advice to upgrade transformers; a copy of our code in directories that are saved.
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    command = [sys.executable, "-c", SCRIPT, str(translator)]
    found = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert found.returncode == 0, found.stderr[-2000:]
    model = AutoModelForSeq2SeqLM.from_pretrained(translator)
    tokens = inputs_of(translator, ["two cats"])
    expected = model.generate(**tokens, group_size=4, max_new_tokens=8).tolist()
    assert f"written {expected}" in found.stdout
    again = translator.with_name("translator-again")
    names = {path.name for path in again.iterdir()}
    assert names == {path.name for path in translator.iterdir()}
    first, second = (
        json.loads((place / "config.json").read_text()) for place in (translator, again)
    )
    assert first == second


@KINDS
def test_what_fits_no_model_is_said_in_words(kind, request, tmp_path):
    # Guards: IndexError, RuntimeError and AttributeError of whatever library met it first; texts
    # longer than the table of positions, which all got the last one; masks that are added.
    model, directory = opened(kind, request)
    inputs = arguments(kind, directory)
    tokens, mask = inputs["input_ids"], inputs["attention_mask"]
    own = "decoder_input_ids" if kind == "translator" else "input_ids"
    long = torch.full((1, 60), 7)
    for changed, said in (
        ({"attention_mask": mask[:, 1:]}, "give one number for each"),
        ({"attention_mask": (1.0 - mask) * -1e9}, "numbers below 0"),
        ({"labels": inputs[own][:, 1:]}, "one label for each"),
        ({"past_key_values": ((tokens, tokens),)}, "the cache is a tuple; give a DynamicCache"),
        ({own: long, mask_of(own): None}, "60 tokens were given, and this model has 48 positions"),
    ):
        if said.startswith("60") and kind == "translator":
            changed |= {"input_ids": tokens[:1], "attention_mask": mask[:1]}
        with pytest.raises(UsageError, match=said):
            model(**{**inputs, **changed})
    for wrong, said in (
        ("a text", "inputs are str, and tokens"),
        (inputs, "inputs are BatchEncoding, and tokens"),
        (tokens[0], r"inputs are \[\d+\], and tokens"),
        (tokens.float(), r"inputs are torch.float32 \[\d+, \d+\], and tokens"),
        (tokens + 1000, "this model knows 0 to 319"),
    ):
        for size in (1, 2):
            with pytest.raises(UsageError, match=said):
                model.generate(wrong, max_new_tokens=2, group_size=size)
    with pytest.raises(UsageError, match="policy 3 was given"):
        model.generate(tokens, max_new_tokens=2, policy=3)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file: name a directory"):
        model.save_pretrained(tmp_path / "file")
    model.hf_device_map = {"transformer.encoder": 0, "transformer.decoder": "cpu"}
    with pytest.raises(UsageError, match="it computes in one place"):
        model.generate(tokens, max_new_tokens=2)


def mask_of(name):
    return name.replace("input_ids", "attention_mask")


@KINDS
def test_labels_of_any_integers_and_batches_of_nothing(kind, request):
    model, directory = opened(kind, request)
    inputs = arguments(kind, directory)
    labels = inputs["decoder_input_ids" if kind == "translator" else "input_ids"]
    expected = model(**inputs, labels=labels).loss
    assert model(**inputs, labels=labels.int()).loss.equal(expected)
    if kind == "causal":
        assert model.generate(labels[:0], max_new_tokens=3, group_size=2).shape[0] == 0


def test_another_start_is_followed_or_refused(translator):
    # Guards: decoder_start_token_id shown in the output, and not read.
    model = AutoModelForSeq2SeqLM.from_pretrained(translator).eval()
    inputs = inputs_of(translator)
    theirs = {"custom_generate": None, "max_new_tokens": 5, "decoder_start_token_id": 9}
    expected = model.generate(**inputs, **theirs)
    found = model.generate(**inputs, max_new_tokens=5, decoder_start_token_id=9)
    assert found.equal(expected)
    with pytest.raises(UsageError, match="decoder_start_token_id 9"):
        model.generate(**inputs, max_new_tokens=5, decoder_start_token_id=9, group_size=2)


def test_weights_in_several_files_say_what_to_do(causal, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(causal)
    model.save_pretrained(tmp_path / "split", max_shard_size="20KB")
    with pytest.raises(DataError, match="max_shard_size="):
        multistride.load(tmp_path / "split")
