"""What cannot be converted is refused with the reason, by exit code 4, and nothing is written."""

import json
from typing import ClassVar

import pytest
from originals import small_tokenizer
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from multistride.cli import app
from multistride.convert import checkpoint, sentencepiece
from multistride.convert import gguf as gguf_module
from multistride.convert.run import convert
from multistride.errors import DataError, MissingExtraError, UsageError

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "max_position_embeddings": 32,
}


@pytest.fixture
def source(tmp_path):
    place = tmp_path / "theirs"
    size = small_tokenizer(place, bos_token="<s>", eos_token="</s>")
    LlamaForCausalLM(LlamaConfig(vocab_size=size, **SIZES)).save_pretrained(place)
    return place


def refused(source, error=DataError):
    """The one line that `convert` ends with; asserts that it wrote nothing."""
    target = source.parent / "ours"
    result = CliRunner().invoke(app, ["convert", str(source), str(target)])
    assert isinstance(result.exception, error), result.exception
    assert result.exception.exit_code == (4 if error is DataError else 2)
    assert not target.exists()
    assert not [path for path in source.parent.iterdir() if path.name.startswith(".ours")]
    assert "\n" not in str(result.exception)
    return str(result.exception)


def configured(source, **changes):
    path = source / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def without(source, *names, **more):
    path = source / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if name not in names}
    save_file({**tensors, **more}, path)


def test_pickles(source):
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    message = refused(source)
    assert "pytorch_model.bin, a pickle" in message
    assert "model.safetensors" in message


def test_a_missing_shard(source):
    (source / "model.safetensors").rename(source / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert (
        "lacks 1 of its 2 weight files, the first is model-00002-of-00002.safetensors"
        in refused(source)
    )


def test_shards_without_their_index(source):
    (source / "model.safetensors").rename(source / "model-00001-of-00002.safetensors")
    assert "and not the model.safetensors.index.json that lists them" in refused(source)


def test_an_adapter_is_no_model(source):
    (source / "config.json").rename(source / "adapter_config.json")
    assert "holds an adapter (adapter_config.json), not a model" in refused(source)


def test_a_model_without_its_head(source):
    path = source / "model.safetensors"
    tensors = {name.removeprefix("model."): value for name, value in load_file(path).items()}
    save_file(tensors, path)
    assert "was saved without the part that writes" in refused(source)


def test_no_weights(source):
    (source / "model.safetensors").unlink()
    assert "has no weights" in refused(source)


def test_a_truncated_file(source):
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "truncated or corrupt" in refused(source)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "rwkv"},
            "has the model_type rwkv; what can be converted is bart, gemma, gemma2",
        ),
        ({"model_type": None}, "has the model_type None"),
        (
            {"model_type": "umt5"},
            "of the layout umt5, which cannot be converted: its learned bias of attention differs",
        ),
        (
            {"auto_map": {"AutoModel": "modeling.My"}},
            "its own program code (auto_map in config.json)",
        ),
        ({"quantization_config": {"quant_method": "gptq"}}, "has quantised weights (gptq)"),
        ({"hidden_act": "tanh"}, "has the activation tanh"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4}},
            "rotary positions of the kind dynamic (known are default, linear, llama3, yarn",
        ),
        ({"hidden_size": 15}, "hidden_size is 15"),
        ({"intermediate_size": 24}, "does not fit its config.json"),
        ({"num_hidden_layers": 2}, "lacks the tensor model.layers.1"),
        ({"num_hidden_layers": 0}, "decoder_layers"),
        (
            {"vocab_size": 3, "tie_word_embeddings": False},
            "a tokenizer of 43 entries and a model for 3",
        ),
    ],
)
def test_configurations(source, changes, message):
    configured(source, **changes)
    assert message in refused(source)


def test_code_for_classes_that_transformers_has_is_not_needed(source):
    """Phi-3: files of the time before transformers had it."""
    auto = {"AutoConfig": "configuration.LlamaConfig", "AutoModelForCausalLM": "m.LlamaForCausalLM"}
    configured(source, auto_map=auto)
    convert(str(source), source.parent / "ours")
    assert (source.parent / "ours" / "model.safetensors").is_file()


def test_a_configuration_that_lacks_something(source):
    path = source / "config.json"
    config = json.loads(path.read_text())
    del config["hidden_size"]
    path.write_text(json.dumps(config))
    assert "config.json does not say 'hidden_size'" in refused(source)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not JSON"), ("[]", "does not hold an object")]
)
def test_a_broken_configuration(source, text, message):
    (source / "config.json").write_text(text)
    assert message in refused(source)


def test_tied_weights_that_are_not_there(source):
    configured(source, tie_word_embeddings=True)
    without(source, "lm_head.weight", "model.embed_tokens.weight")
    assert "declares tie_word_embeddings true" in refused(source)


def test_an_output_matrix_that_is_not_there(source):
    without(source, "lm_head.weight")
    assert (
        "an output matrix of its own (tie_word_embeddings false), but lm_head.weight is not there"
        in refused(source)
    )


def test_tied_weights_that_differ(source):
    configured(source, tie_word_embeddings=True)
    assert "lm_head.weight is not equal to model.embed_tokens.weight" in refused(source)


def test_a_tensor_that_nothing_is_made_of(source):
    """A part of the model that is left out silently."""
    extra = load_file(source / "model.safetensors")["model.norm.weight"]
    without(source, **{"model.layers.0.adapter.weight": extra})
    assert (
        "has the tensor model.layers.0.adapter.weight, for which the layout llama has no place"
        in refused(source)
    )


def test_a_tokenizer_that_encodes_nothing(source):
    # Guards: a traceback of the tokenizers library, for a vocabulary that a download left empty.
    path = source / "tokenizer.json"
    stored = json.loads(path.read_text())
    stored["model"] = {**stored["model"], "vocab": {}, "unk_token": "<unk>"}
    path.write_text(json.dumps(stored))
    assert "tokenizer.json is broken (Unk token" in refused(source)


def test_a_name_that_is_nothing(source):
    message = refused(source.parent / "nothing here")
    assert "neither a directory nor a GGUF file nor the name of a model on the hub" in message


class Unreachable:
    """A hub without a network."""

    @staticmethod
    def snapshot_download(name, allow_patterns):
        raise ConnectionError("no route\nto host")


def test_a_hub_that_cannot_be_reached(source, monkeypatch):
    """A traceback of three libraries where one line would do."""
    monkeypatch.setattr(checkpoint, "huggingface_hub", Unreachable)
    with pytest.raises(
        DataError, match=r"could not be fetched from the hub \(ConnectionError: no route to host\)"
    ):
        checkpoint.fetched("owner/model")


class Watched:
    """A hub that says what it was asked."""

    asked: ClassVar = []

    @classmethod
    def snapshot_download(cls, name, allow_patterns, local_files_only=False):
        cls.asked.append(local_files_only)
        raise ConnectionError("offline")


def test_a_mistyped_path_asks_nobody(source, monkeypatch):
    # Guards: a path with one slash that is sent to the hub.
    monkeypatch.setattr(checkpoint, "huggingface_hub", Watched)
    with pytest.raises(DataError, match="correct the path, or give --download"):
        convert("modles/marian", source.parent / "ours")
    with pytest.raises(DataError, match="could not be fetched from the hub"):
        convert("modles/marian", source.parent / "ours", download=True)
    assert Watched.asked == [True, False]


def test_packages_that_are_not_installed(source, monkeypatch):
    """An ImportError from deep inside, instead of the name of the extra."""
    monkeypatch.setattr(checkpoint, "huggingface_hub", None)
    monkeypatch.setattr(gguf_module, "gguf", None)
    monkeypatch.setattr(sentencepiece, "sentencepiece_model_pb2", None)
    for call in (
        lambda: checkpoint.fetched("owner/model"),
        lambda: gguf_module.read_gguf(source / "model.gguf"),
        lambda: sentencepiece.marian_tokenizer(source, "theirs"),
    ):
        with pytest.raises(MissingExtraError, match=r"pip install 'multistride\[hf\]'"):
            call()


def test_a_file_that_is_no_gguf(source):
    (source / "model.gguf").write_bytes(b"nothing")
    (source / "config.json").unlink()
    assert "is truncated or no GGUF file" in refused(source)


@pytest.mark.parametrize("name", ["num_hidden_layers", "intermediate_size", "hidden_size"])
@pytest.mark.parametrize("value", [2**31, 10**19], ids=["large", "larger than any"])
def test_sizes_that_no_memory_holds(source, name, value):
    # Guards: minutes of making layers, gigabytes of zeros, or a traceback of PyTorch's.
    configured(source, **{name: value, "head_dim": 8})
    assert "Input should be less than or equal to" in refused(source)


def test_a_gguf_without_its_tokens(source, tmp_path):
    # Guards: a KeyError with the name of a field.
    gguf = pytest.importorskip("gguf", reason="the extra [hf] is not installed")
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_head_count(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(DataError, match="lacks a field or has a wrong one"):
        gguf_module.read_gguf(path)


def test_the_source_is_not_overwritten(source):
    result = CliRunner().invoke(app, ["convert", str(source), str(source)])
    assert isinstance(result.exception, UsageError)
    assert "choose another directory" in str(result.exception)
    assert (source / "model.safetensors").is_file()
