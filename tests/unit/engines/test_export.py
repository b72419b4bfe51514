"""Exports: what is written runs as the model it was made of, and nothing else is taken for it."""

import json
import shutil

import pytest
import torch
from typer.testing import CliRunner

from multistride.baselines.export import export
from multistride.cli import app
from multistride.data.vocab import Vocabulary, train_vocabulary
from multistride.data.vocabulary_files import load_vocabulary
from multistride.decode.choosing.calibration import Calibration
from multistride.errors import DataError, UsageError
from multistride.evaluate.inspection import inspect_model
from multistride.files import sha256
from multistride.model.config import ClassifierConfig, TransformerConfig
from multistride.model.directory import WEIGHTS, load_config, weights_digest
from multistride.model.transformer import Transformer
from multistride.model.weights import save_model
from multistride.train.average import average_models
from multistride.translator import Translator

pytest.importorskip("onnxruntime", reason="the extra [int8] is not installed")

TEXTS = ["a b c", "c b a b", "d"]


def saved(place, seed, **choices):
    torch.manual_seed(seed)
    vocabulary = train_vocabulary(["a b c d e f"] * 3, 300, "bpe")
    sizes = {
        "hidden_size": 16,
        "feedforward_size": 32,
        "heads": 2,
        "encoder_layers": 1,
        "decoder_layers": 2,
    }
    config = TransformerConfig(
        vocabulary_size=len(vocabulary),
        **{**sizes, "markov_rank": 4, "group_sizes": (1, 2, 4), **choices},
    )
    model = Transformer(config).eval()
    if model.markov is None:
        save_model(place, model, vocabulary, {}, "A card.")
        return place
    with torch.no_grad():
        model.markov.following.normal_()
    save_model(place, model, vocabulary, {}, "A card.")
    return place


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("models") / "one", 1)


@pytest.fixture(scope="module")
def exported(directory):
    output = directory.parent / "one.int8"
    export(directory, "int8", output)
    return output


@pytest.fixture
def copy(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "copy")
    return tmp_path / "copy"


def test_an_export_is_inspected_as_its_model_is(directory, exported):
    # Guards: a refusal that advises an engine, which `inspect` has not.
    model, export = inspect_model(directory), inspect_model(exported)
    assert (export["kind"], export["parameters"]) == ("encoder-decoder, exported to int8", None)
    assert export["weights_megabytes"] > 0
    different = ("directory", "kind", "parameters", "weights_megabytes")
    for key in model.keys() - set(different):
        assert export[key] == model[key], key


def test_an_export_is_replaced_by_another(directory, copy):
    # Guards: weights.bin taken for a file that somebody else put there.
    (copy / "encoder.onnx").write_bytes(b"damaged")
    export(directory, "int8", copy)
    assert Translator.load(copy, "cpu", "int8").translate(TEXTS)


@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_an_export_writes_what_the_model_does(directory, exported, group_size):
    # Guards: a graph, a Markov head or a tokenizer that is not that of the model.
    [expected, found] = (
        Translator.load(place, "cpu", "int8").translate(TEXTS, group_size)
        for place in (directory, exported)
    )
    assert found == expected
    assert any(each.tokens for each in found)


def test_an_export_is_smaller_and_says_what_it_was_made_of(directory, exported):
    # Guards: float32 weights that travel along, a manifest that names no source.
    manifest = json.loads((exported / "int8.json").read_text())
    assert manifest["source_weights_sha256"]
    assert not (exported / "model.safetensors").exists()
    assert {"encoder.onnx", "decoder.onnx", "config.json", "tokenizer.json"} <= manifest[
        "files"
    ].keys()


def refusal(place, engine="int8"):
    with pytest.raises(DataError) as caught:
        Translator.load(place, "cpu", engine)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["decoder.onnx", "weights.bin", "config.json", "tokenizer.json", "markov.safetensors"]
)
def test_a_damaged_file_is_refused(copy, name):
    # Guards: a flipped bit that changes translations in silence, or a traceback out of ONNX
    # Runtime.
    content = bytearray((copy / name).read_bytes() or b"?")  # this model has no large constant
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    assert f"{name} is damaged or belongs to another model" in refusal(copy)


def test_a_file_of_another_model_is_refused(copy, tmp_path):
    # Guards: one model's decoder behind another one's encoder.
    export(saved(tmp_path / "two", 2), "int8", tmp_path / "two.int8")
    shutil.copyfile(tmp_path / "two.int8" / "decoder.onnx", copy / "decoder.onnx")
    assert "decoder.onnx is damaged or belongs to another model" in refusal(copy)


def test_a_missing_file_is_named(copy):
    # Guards: a traceback from deep inside.
    (copy / "encoder.onnx").unlink()
    assert "has no encoder.onnx: export the model again" in refusal(copy)


def test_another_version_is_refused(copy):
    # Guards: graphs of another layout fed with the inputs of this one.
    manifest = json.loads((copy / "int8.json").read_text())
    (copy / "int8.json").write_text(json.dumps(manifest | {"format": 99}))
    assert (
        "is an export of format 99, and this version of multistride reads formats 4 and 5"
        in refusal(copy)
    )


def test_exports_of_the_former_format_are_read(copy, exported):
    # Guards: exports that must be made again although the graphs are what they were.
    manifest = json.loads((copy / "int8.json").read_text())
    (copy / "weights.bin").unlink()
    del manifest["files"]["weights.bin"]
    (copy / "int8.json").write_text(json.dumps(manifest | {"format": 4}))
    former = Translator.load(copy, "cpu", "int8").translate(["a b"])
    assert former == Translator.load(exported, "cpu", "int8").translate(["a b"])


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 4, "files": 3}', '{"format": 4, "files": {}}']
)
def test_a_damaged_manifest_is_refused(copy, content):
    # Guards: an export without hashes taken for one whose hashes are right.
    (copy / "int8.json").write_text(content)
    assert "int8.json is missing or damaged: export the model again" in refusal(copy)


def test_an_export_has_no_float32_weights(exported):
    # Guards: a message that sends people to copy weights that never were there.
    assert "is an int8 export, which holds no float32 weights: give the model" in refusal(
        exported, "eager"
    )
    with pytest.raises(UsageError, match="give the model directory it was exported from"):
        Translator.load(exported, "cpu", "int8").score([("a", "b")])


def test_what_cannot_be_exported_is_refused(directory, exported, tmp_path):
    # Guards: an export that replaces its own source; an export of an export.
    with pytest.raises(
        UsageError, match="--to fp4 was asked for; allowed are int8 and ctranslate2"
    ):
        export(directory, "fp4", tmp_path / "new")
    with pytest.raises(UsageError, match="is the model directory itself"):
        export(directory, "int8", directory)
    with pytest.raises(DataError, match="is an int8 export"):
        export(exported, "int8", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_ctranslate2_directory_translates_at_k1(directory, tmp_path):
    # Guards: an export that CTranslate2 cannot read, or whose note tells the wrong way to use it.
    ctranslate2 = pytest.importorskip("ctranslate2", reason="the extra [bench] is not installed")
    export(directory, "ctranslate2", tmp_path / "ct2")
    vocabulary = Vocabulary.load(tmp_path / "ct2")
    program = ctranslate2.Translator(str(tmp_path / "ct2"), compute_type="float32", intra_threads=1)
    translator = Translator.load(directory, "cpu", "eager")
    [expected] = translator.translate(["a b c"])
    source = [
        str(token) for token in [*vocabulary.encode(["a b c"])[0], translator.config.end_token]
    ]
    never = [["0"], ["1"], ["3"]]
    [found] = program.translate_batch(
        [source],
        beam_size=1,
        suppress_sequences=never,
        max_decoding_length=len(expected.tokens),
        min_decoding_length=0,
    )
    assert tuple(int(token) for token in found.hypotheses[0]) == expected.tokens


CONVERTED = {
    "Llama": {
        "encoder_layers": 0,
        "markov_rank": 0,
        "norm_kind": "rms",
        "positions": "rotary",
        "gated_feedforward": True,
        "activation": "silu",
        "attention_bias": "none",
        "feedforward_bias": False,
    },
    "Marian": {"norm": "post", "output_bias": True, "activation": "silu", "markov_rank": 0},
    "BART": {
        "norm": "post",
        "activation": "gelu",
        "positions": "learned",
        "embedding_norm": True,
        "scale_embeddings": False,
        "separate_positions": True,
        "markov_rank": 0,
    },
    "GPT-2": {
        "encoder_layers": 0,
        "activation": "gelu-tanh",
        "positions": "learned",
        "scale_embeddings": False,
        "markov_rank": 0,
    },
}


@pytest.mark.parametrize("kind", ["int8", "ctranslate2"])
@pytest.mark.parametrize("family", CONVERTED)
def test_a_converted_model_is_refused_before_anything_is_written(tmp_path, family, kind):
    # Guards: an AssertionError (Llama), or exit 0 and a directory that cannot be opened.
    place = saved(tmp_path / "model", 3, **CONVERTED[family])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UsageError, match=r"has no place for \w+|has no encoder"):
        export(place, kind, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_a_classifier_that_scores_labels_has_no_extras(tmp_path):
    # Guards: a capability read from the text of a value, which never matched.
    labels = ClassifierConfig(kind="labels", classes=("a", "b"), window=64)
    place = saved(tmp_path / "model", 3, classifier=labels)
    assert load_config(place).extras == []
    pooled = ClassifierConfig(kind="pooled", classes=("a", "b"), window=64)
    assert TransformerConfig(classifier=pooled, decoder_layers=0).extras[0].startswith("classifier")


def test_the_fields_left_out_of_a_plain_configuration_are_named_one_by_one():
    # Guards: a field added in the middle of the class that changes what config.json says.
    assert TransformerConfig().stored().keys() == {
        "vocabulary_size",
        "hidden_size",
        "feedforward_size",
        "heads",
        "encoder_layers",
        "decoder_layers",
        "norm",
        "activation",
        "positions",
        "max_positions",
        "tie_embeddings",
        "dropout",
        "attention_dropout",
        "max_group_size",
        "markov_rank",
        "group_sizes",
        "lookahead",
        "pad_token",
        "start_token",
        "end_token",
        "mask_token",
    }


def test_an_export_has_the_digest_of_the_weights_it_was_made_from(directory, exported):
    # Guards: a calibration beside an export that is refused, or parts that resume nothing.
    assert weights_digest(exported) == weights_digest(directory) == sha256(directory / WEIGHTS)


def test_a_calibration_beside_an_export_is_used(directory, copy):
    # Guards: exit 1 with "model.safetensors: No such file".
    known = {"truth": "own-k1", "sentences": 1, "source_sha256": "", "places": (), "kept": ()}
    calibration = Calibration(model_sha256=weights_digest(directory), **known)
    (copy / "calibration.json").write_text(calibration.model_dump_json())
    assert Translator.load(copy, "cpu", "int8").translate(TEXTS, 2, "adaptive")
    other = calibration.model_copy(update={"model_sha256": "of another model"})
    (copy / "calibration.json").write_text(other.model_dump_json())
    with pytest.raises(DataError, match="was measured on other weights"):
        Translator.load(copy, "cpu", "int8").translate(TEXTS, 2, "adaptive")


def test_an_export_translates_a_file(copy, tmp_path):
    # Guards: "model.safetensors: No such file" with --input and --output.
    source, output = tmp_path / "source.txt", tmp_path / "output.txt"
    source.write_text("a b c\nd\n")
    command = ["translate", "--model", str(copy), "--engine", "int8"]
    done = CliRunner().invoke(app, [*command, "--input", str(source), "--output", str(output)])
    assert done.exit_code == 0, done.exception
    assert len(output.read_text().splitlines()) == 2


def test_what_was_measured_of_a_model_comes_along(tmp_path):
    # Guards: an export whose adaptive mode writes other texts, and that cannot be calibrated; one
    # that spells prefixes with the tokenizer of the source, or has lost its chat template.
    place, output = saved(tmp_path / "model", 3), tmp_path / "int8"
    measured = Calibration(
        model_sha256=weights_digest(place),
        truth="own-k1",
        sentences=9,
        source_sha256="",
        places=(),
        kept=(),
    )
    (place / "calibration.json").write_text(measured.model_dump_json())
    shutil.copyfile(place / "tokenizer.json", place / "target_tokenizer.json")
    (place / "chat_template.jinja").write_text("{{ messages }}")
    export(place, "int8", output)
    assert Translator.load(output).measured.calibration == measured
    assert load_vocabulary(output).chat_template == "{{ messages }}"
    assert (output / "target_tokenizer.json").is_file()


def test_a_model_is_not_replaced_by_an_export_or_an_average(tmp_path):
    # Guards: hours of training lost to a slip of the second argument.
    one, other = (saved(tmp_path / name, seed) for seed, name in enumerate(("one", "other")))
    before = {path.name: path.read_bytes() for path in other.iterdir()}
    with pytest.raises(UsageError, match="holds a model, which an export would replace"):
        export(one, "int8", other)
    with pytest.raises(UsageError, match="holds a model, which an average would replace"):
        average_models([one, one], other)
    (other / "training.pt").write_bytes(b"")
    (tmp_path / "best").symlink_to(other)
    with pytest.raises(UsageError, match="a checkpoint from which a training goes on"):
        export(one, "int8", tmp_path / "best")
    assert {path.name: path.read_bytes() for path in other.iterdir()} == {
        **before,
        "training.pt": b"",
    }
    average_models([one, one], tmp_path / "mean")
    average_models([one, one], tmp_path / "mean")  # its own may be made anew
    export(one, "int8", tmp_path / "int8")
    export(one, "int8", tmp_path / "int8")
