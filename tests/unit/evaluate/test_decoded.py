"""Translations and continuations measured: provenance, rows, and what is refused before
decoding."""

import json

import pytest
import torch

from multistride.baselines.export import export
from multistride.data.vocab import train_vocabulary
from multistride.decode.options import DecodeOptions
from multistride.engines import open as module
from multistride.errors import DataError, UsageError
from multistride.evaluate.request import EvaluationRequest
from multistride.evaluate.run import evaluate, evaluate_task
from multistride.model.config import TransformerConfig
from multistride.model.directory import weights_digest
from multistride.model.transformer import Transformer
from multistride.model.weights import save_model
from multistride.report.reading import read_result
from multistride.report.show import commands
from multistride.tasks.names import open_translation
from multistride.tasks.sentences import SentenceTranslator
from multistride.translator import Translator

TEXTS = ["a b c", "c b a b", "d e", ""]
SIZES = {"hidden_size": 16, "feedforward_size": 32, "heads": 2, "decoder_layers": 2}


def saved(place, encoder_layers):
    torch.manual_seed(1)
    vocabulary = train_vocabulary(["a b c d e f"] * 3, 300, "bpe")
    config = TransformerConfig(
        vocabulary_size=len(vocabulary),
        encoder_layers=encoder_layers,
        group_sizes=(1, 2),
        max_positions=64,
        lookahead=True,
        **SIZES,
    )
    save_model(place, Transformer(config).eval(), vocabulary, {"seed": 1}, "A card.")
    return place


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Models of both kinds, an export, and files."""
    directory = tmp_path_factory.mktemp("measured")
    saved(directory / "translator", 1)
    saved(directory / "causal", 0)
    (directory / "source").write_text("\n".join(TEXTS) + "\n")
    (directory / "prompts").write_text("\n".join(TEXTS[:3]) + "\n")
    (directory / "reference").write_text("c b a\nb a b c\ne d\nf\n")
    return directory


def ways(*sizes, **rest):
    return [DecodeOptions.made(group_size=size, **rest) for size in sizes]


def translations(place, **changes):
    files = {"source": place / "source", "reference": place / "reference"}
    return EvaluationRequest(**{**files, "latency_sentences": 2, **changes})


@pytest.mark.parametrize("engine", ["eager", "int8"])
def test_a_generation_result_names_the_engine_that_wrote_it(place, engine, tmp_path):
    # Guards: "engine": "eager" and "precision": "float32" for texts that int8 wrote.
    if engine == "int8":
        pytest.importorskip("onnxruntime", reason="the extra [int8] is not installed")
    request = EvaluationRequest(
        source=place / "prompts", kind="generation", latency_sentences=1, examples=1
    )
    both = [*ways(1, 2), *ways(1, 2, mode="exact")]
    result = evaluate(request, both, place / "causal", engine, "cpu")
    assert {row.engine for row in result.rows} == {engine}
    assert str(result.conditions["precision"]).startswith("int8" if engine == "int8" else "float32")
    assert [(row.group_size, row.mode) for row in result.rows] == [
        (1, "greedy"),
        (2, "fast"),
        (2, "exact"),
    ]
    assert result.rows[2].identical_to_k1 == 1.0
    assert result.conditions["max_tokens"] == 64
    assert result.conditions["model_sha256"] == weights_digest(place / "causal")
    [example] = result.examples
    assert [output.group_size for output in example.outputs] == [1, 2, 2]
    assert all(output.groups for output in example.outputs)
    (tmp_path / "r.json").write_text(json.dumps(result.written()))
    assert read_result(tmp_path / "r.json") == result


def test_a_translation_result_has_a_row_for_every_way(place, tmp_path):
    # Guards: K=1 measured twice, a row compared with another mode, a result that cannot be read.
    both = [*ways(1, 2), *ways(1, 2, mode="exact")]
    result = evaluate(translations(place), both, place / "translator", device="cpu")
    assert [(row.group_size, row.mode) for row in result.rows] == [
        (1, "fast"),
        (2, "fast"),
        (2, "exact"),
    ]
    alone, _, exact = result.rows
    assert exact.identical_to_k1 == alone.identical_to_k1 == 1.0
    assert exact.bleu == alone.bleu
    assert result.baseline(exact) is alone
    assert {(place.group_size, place.place) for place in result.places} == {(1, 1), (2, 1), (2, 2)}
    assert result.conditions["sentences"] == 4
    assert result.conditions["not_translated"] == 1
    assert result.name == "translator"
    (tmp_path / "r.json").write_text(json.dumps(result.written()))
    assert read_result(tmp_path / "r.json") == result


def test_rows_without_k1_are_compared_with_it_all_the_same(place):
    # Guards: "identical to K=1" left out, or taken of the wrong row, where K=1 is no row.
    request = translations(place)
    [row] = evaluate(request, ways(2, mode="exact"), place / "translator", device="cpu").rows
    assert row.identical_to_k1 == 1.0


def test_the_model_is_opened_once(place, monkeypatch):
    # Guards: a model loaded for every row.
    opened = []
    real = module.load_model
    monkeypatch.setattr(module, "load_model", lambda *given: opened.append(given) or real(*given))
    evaluate(translations(place), ways(1, 2), place / "translator", "eager", "cpu")
    assert len(opened) == 1


def test_an_export_is_refused_before_anything_is_decoded(place, tmp_path, caplog):
    pytest.importorskip("onnxruntime", reason="the extra [int8] is not installed")
    export(place / "translator", "int8", tmp_path / "export")
    with pytest.raises(UsageError, match="is an int8 export, which holds no float32 weights"):
        evaluate(translations(place), ways(1), tmp_path / "export", "int8")
    assert "sentences" not in caplog.text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (ways(1, 3), "group size 3 was asked for"),
        (ways(2, beam=400), "beam 400"),
        (ways(2, threshold=0.5), "threshold 0.5 was given"),
        (ways(2, max_tokens=65), "max_tokens 65 was given"),
    ],
    ids=str,
)
def test_every_way_is_checked_before_the_first_is_decoded(place, given, said):
    with pytest.raises(UsageError, match=said):
        evaluate(translations(place), given, place / "translator", device="cpu")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": "nowhere"}, "nowhere does not exist"),
        ({"reference": "prompts"}, "has 4 lines and .*has 3"),
        ({"reference": "blank"}, "blank holds only blank lines"),  # before anything is decoded
    ],
    ids=str,
)
def test_bad_files(place, changes, said):
    (place / "blank").write_text("\n" * 4)
    changed = {name: place / file for name, file in changes.items()}
    with pytest.raises(DataError, match=said):
        evaluate(translations(place, **changed), ways(1), place / "translator", device="cpu")


def test_a_causal_model_is_not_translated_with(place):
    with pytest.raises(UsageError, match="causal"):
        evaluate(translations(place), ways(1), place / "causal", device="cpu")
    request = EvaluationRequest(source=place / "prompts", kind="generation")
    with pytest.raises(UsageError, match="no causal model ships with the package: give the direct"):
        evaluate(request, ways(1))


PASSAGES = ["a b. c d! e f", "c b a b", "", "b " * 90 + ". a b.", "d e? f."]


def test_lines_are_measured_sentence_by_sentence(place, tmp_path):
    # Guards: figures of whole lines under --sentences, or of other texts than translate writes.
    (tmp_path / "source").write_text("\n".join(PASSAGES) + "\n")
    (tmp_path / "reference").write_text("x\n" * len(PASSAGES))
    files = {"source": tmp_path / "source", "reference": tmp_path / "reference"}
    request = EvaluationRequest(**files, sentences=True, examples=9)
    result = evaluate(request, ways(1, 2), place / "translator", "eager")
    assert result.conditions["split_sentences"] is True
    assert result.conditions["not_translated"] == 2  # the blank one, and one that is too long
    assert not result.places
    translator = SentenceTranslator(Translator.load(place / "translator", engine="eager"))
    taken = [PASSAGES[index] for index in (0, 1, 4)]
    for row, size in zip(result.rows, (1, 2), strict=True):
        written = translator.translate(taken, group_size=size)
        texts = [each.outputs[size - 1].text for each in result.examples]
        assert texts == [each.text for each in written]
        steps = sum(len(each.trace) for each in written)
        assert row.steps_per_sentence == steps / len(taken)
        assert row.tokens_per_step == sum(len(each.scores) for each in written) / steps
    again, _ = commands(result)
    assert again.endswith("--sentences --json")
    assert (
        "split_sentences"
        not in evaluate(
            EvaluationRequest(**files, limit=2), ways(1), place / "translator", "eager"
        ).conditions
    )


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"kind": "phonemes"}, "--kind phonemes"),
        ({"kind": "generation"}, "--kind generation"),
        ({"task": "classification"}, "--task classification"),
    ],
)
def test_sentences_of_what_is_no_translation_are_refused(place, given, what):
    # Guards: an option that is ignored.
    files = {"source": place / "source"}
    request = EvaluationRequest(**files, sentences=True, **given)
    with pytest.raises(UsageError, match=f"--sentences .* is for translation, and {what} is"):
        request.check()


def test_the_task_of_translation_by_sentences(place, tmp_path):
    # Guards: records that are translated as a whole under --sentences.
    records = [{"source": text, "target": "x"} for text in PASSAGES if text]
    (tmp_path / "records").write_text("".join(json.dumps(each) + "\n" for each in records))
    request = EvaluationRequest(source=tmp_path / "records", task="translation", sentences=True)
    task = open_translation
    result = evaluate_task(request, ways(1), task, place / "translator", "eager", "cpu")
    assert result.conditions["writing"]["split_sentences"] is True
    assert (result.conditions["records"], result.conditions["failed"]) == (3, 1)


def test_a_limit_of_prompts(place, tmp_path):
    # Guards: lines behind the limit that are read, and refused; a result that does not say which
    # lines and which policy it is of.
    (tmp_path / "prompts").write_bytes(b"a b c\nd e\n\xff\n")
    (tmp_path / "reference").write_text("b\nc\n")
    for reference in (None, tmp_path / "reference"):
        request = EvaluationRequest(
            source=tmp_path / "prompts", reference=reference, kind="generation", limit=2
        )
        chosen = ways(2, mode="adaptive", policy="confidence", max_tokens=4)
        result = evaluate(request, chosen, place / "causal", "eager")
        assert result.conditions["prompts"] == result.conditions["limit"] == 2
        assert result.conditions["policy"] == "confidence"
