"""The readers of the package, each with a small corpus of good files to begin from.

A reader gets a directory in which one file was changed. It may return, or raise `UserError` with
one line; anything else is a fault.
"""

import gzip
import json
import lzma
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, MarianConfig, MarianMTModel

from multistride.array_files import read_array
from multistride.config import read_config
from multistride.convert.run import converted, open_source
from multistride.data.batch import PreparedData
from multistride.data.corpus import read_jsonl, read_lines, read_parallel, read_table
from multistride.data.documents import read_documents, read_written
from multistride.data.prepare import prepare
from multistride.data.prepare_text import TextPrepareConfig
from multistride.data.vocab import Vocabulary, train_vocabulary
from multistride.decode.choosing.calibration import Calibration
from multistride.decode.phrases import PhraseTable
from multistride.engines.int8.engine import int8_graphs
from multistride.engines.int8.export import write_int8
from multistride.engines.open import open_export
from multistride.model.config import TransformerConfig
from multistride.model.directory import load_calibration, weights_digest
from multistride.model.transformer import Transformer
from multistride.model.weights import load_model, save_model
from multistride.parts import PartsDirectory, chunks
from multistride.report.reading import read_result
from multistride.report.trace import read_trace
from multistride.rundir import Asked, RunDirectory
from multistride.tasks.record import read_records
from multistride.train.checkpoint import Progress, load_state, save_state
from multistride.train.config import RunConfig
from multistride.untrusted import tensor_shapes

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "convert"))

from gguf_files import SIZES, pieces_and_merges, written
from marian_files import marian_files

LETTERS = "a b c d e f g h i j k l m n o p"
LINES = b"a b c\n\xc3\xbcber \xe8\x8d\x89\xe5\x9c\xb0\n\n a  b\tc\r\nlast"
PLAN = {"beam": 4, "engine": "eager"}
RUN = {"data": "here", "run": "there", "training": {"updates": 5}, "groups": {"sizes": {1: 1.0}}}


@dataclass(frozen=True)
class Target:
    """A reader: a directory that is good, the files in it that are changed, and the call."""

    name: str
    directory: Path
    files: tuple[str, ...]
    read: Callable[[Path], object]
    weight: int = 1
    writes: bool = False
    """Whether reading changes the directory, as opening a run does."""


def targets(place: Path) -> list[Target]:
    """Make every corpus below `place`."""
    torch.manual_seed(1)
    return [
        *_texts(place),
        *_models(place),
        *_runs(place),
        *_results(place),
        *_converted(place),
    ]


def _texts(place: Path) -> list[Target]:
    texts = place / "texts"
    texts.mkdir()
    records = (
        b'{"source": "a", "target": "b", "text": "c", "label": "d", "prompt": [1], '
        b'"written": [2]}\n'
    )
    names = {"plain": LINES, "table.tsv": b"a\tb\nc\td\n", "records.jsonl": records * 3}
    for name, data in names.items():
        (texts / name).write_bytes(data)
    (texts / "packed.gz").write_bytes(gzip.compress(LINES * 20))
    (texts / "packed.xz").write_bytes(lzma.compress(LINES * 20))
    np.save(texts / "array.npy", np.arange(12, dtype=np.int32).reshape(4, 3))
    (texts / "run.yaml").write_text(yaml.safe_dump(RUN))
    np.save(texts / "phrases.npy", np.array([[-1, 3, 4], [3, 4, 5]], dtype=np.int32))

    def records_of(path: Path) -> object:
        return list(read_records(read_lines(path / "records.jsonl")))

    return [
        Target("lines", texts, ("plain",), lambda path: list(read_lines(path / "plain")), 3),
        Target("gz", texts, ("packed.gz",), lambda path: list(read_lines(path / "packed.gz")), 3),
        Target("xz", texts, ("packed.xz",), lambda path: list(read_lines(path / "packed.xz")), 3),
        Target(
            "parallel",
            texts,
            ("plain",),
            lambda path: list(read_parallel(path / "plain", path / "table.tsv")),
        ),
        Target("table", texts, ("table.tsv",), lambda path: list(read_table(path / "table.tsv"))),
        Target(
            "jsonl",
            texts,
            ("records.jsonl",),
            lambda path: list(read_jsonl(path / "records.jsonl")),
            3,
        ),
        Target(
            "written",
            texts,
            ("records.jsonl",),
            lambda path: list(read_written(path / "records.jsonl")),
            2,
        ),
        Target("records", texts, ("records.jsonl",), records_of, 2),
        Target(
            "documents",
            texts,
            ("plain",),
            lambda path: list(read_documents(path / "plain", "blank", "text")),
        ),
        Target("array", texts, ("array.npy",), lambda path: read_array(path / "array.npy"), 3),
        Target("phrases", texts, ("phrases.npy",), lambda path: PhraseTable.load(path, 24), 3),
        Target(
            "configuration",
            texts,
            ("run.yaml",),
            lambda path: read_config(path / "run.yaml", RunConfig),
            3,
        ),
    ]


def _opened_export(directory: Path) -> object:
    return open_export(directory, "int8")


def _model(directory: Path) -> Transformer:
    vocabulary = train_vocabulary([LETTERS], 40, "words")
    sizes = {"hidden_size": 16, "feedforward_size": 16, "heads": 2}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "max_positions": 16}
    model = Transformer(TransformerConfig(vocabulary_size=len(vocabulary), **sizes, **layers))
    save_model(directory, model.eval(), vocabulary, {}, "# A card\n")
    return model


def _models(place: Path) -> list[Target]:
    directory = place / "model"
    model = _model(directory)
    calibration = {
        "model_sha256": weights_digest(directory),
        "truth": "own-k1",
        "sentences": 1,
        "source_sha256": "",
        "places": [],
        "kept": [],
    }
    (directory / "calibration.json").write_text(json.dumps(calibration))
    optimizer = torch.optim.AdamW(model.parameters())
    state = place / "state"
    state.mkdir()
    save_state(state, optimizer.state_dict(), Progress())

    exported = place / "exported"
    shutil.copytree(directory, exported)
    write_int8(exported, model, int8_graphs(model), weights_digest(directory))

    def load_training(path: Path) -> object:
        return load_state(path, torch.optim.AdamW(model.parameters()))

    return [
        Target(
            "model", directory, ("config.json", "model.safetensors", "tokenizer.json"), load_model
        ),
        Target("model-config", directory, ("config.json", "tokenizer_config.json"), load_model, 2),
        Target(
            "tensors",
            directory,
            ("model.safetensors",),
            lambda path: tensor_shapes(path / "model.safetensors"),
            3,
        ),
        Target("tokenizer", directory, ("tokenizer.json",), Vocabulary.load, 2),
        Target(
            "calibration",
            directory,
            ("calibration.json",),
            lambda path: load_calibration(path, Calibration),
            2,
        ),
        Target("state", state, ("training.pt",), load_training),
        Target("int8-export", exported, ("int8.json", "greedy.onnx"), _opened_export),
    ]


def _runs(place: Path) -> list[Target]:
    runs = place / "run"
    run = RunDirectory(runs)
    run.begin(RUN)
    run.checkpoint(1).mkdir(parents=True)
    run.record({"update": 1})
    run.commit(1, best=True)
    (runs / "record.json").rename(runs / "kept.json")
    shutil.copyfile(runs / "kept.json", runs / "record.json")

    def open_run(path: Path) -> object:
        copy = RunDirectory(path)
        copy.open(Asked(RUN), resume=True)
        copy.rewind(1)
        return copy.last()

    parts_place = place / "parts"
    parts_place.mkdir()
    parts = PartsDirectory(parts_place / "out")
    [chunk] = chunks([b"one", b"two"], 2)
    with parts.opened(PLAN):
        parts.write(chunk, ["eins", "zwei"], {}, 0, 0.5)

    def open_parts(path: Path) -> object:
        copy = PartsDirectory(path / "out")
        with copy.opened(PLAN):
            return copy.is_done(chunk)

    documents = place / "text.txt"
    documents.write_text("\n\n".join([LETTERS] * 30))
    data = place / "data"
    sides = {"documents": [documents], "written": []}
    prepare(
        TextPrepareConfig.model_validate(
            {
                "output": data,
                "train": sides,
                "validation": sides,
                "vocabulary_size": 300,
                "window": 16,
            }
        )
    )

    def load_data(path: Path) -> object:
        opened = PreparedData.load(path)
        splits = [opened.split(name) for name in opened.manifest["splits"]]
        opened.verify()
        return splits

    arrays = tuple(sorted(path.name for path in data.glob("*.npy")))
    return [
        Target("run", runs, ("run.yaml", "record.json", "metrics.jsonl"), open_run, 3, True),
        Target(
            "parts",
            parts_place,
            ("out.parts/plan.json", "out.parts/000000.part"),
            open_parts,
            2,
            True,
        ),
        Target("prepared", data, ("prepare.json", *arrays), load_data, 2),
    ]


def _results(place: Path) -> list[Target]:
    results = place / "results"
    results.mkdir()
    recorded = Path(__file__).resolve().parents[2] / "results"
    names = ("cmudict-demo.json", "bench-small.json", "classification-newsgroups-tfidf.json")
    for name in names:
        shutil.copyfile(recorded / name, results / name)
    step = {"line": 1, "step": 1, "group_size": 1, "accepted": 1, "mode": "fast", "why": ""}
    step |= {"confidence": [0.5], "pieces": ["a"]}
    (results / "trace.jsonl").write_text((json.dumps(step) + "\n") * 2)
    return [
        *(
            Target(
                f"result-{name}", results, (name,), lambda path, name=name: read_result(path / name)
            )
            for name in names
        ),
        Target(
            "trace", results, ("trace.jsonl",), lambda path: read_trace(path / "trace.jsonl", 1), 2
        ),
    ]


def _converted(place: Path) -> list[Target]:
    directory = place / "llama"
    pieces = ["<s>", "</s>", *LETTERS.split()]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    tokenizer.add_special_tokens(["<s>", "</s>"])
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    config = LlamaConfig(vocab_size=len(pieces), **sizes, **heads, **ids)
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (directory / "special_tokens_map.json").write_text(json.dumps(special))
    sharded = place / "sharded"
    shutil.copytree(directory, sharded)
    names = tensor_shapes(directory / "model.safetensors")
    index = {"weight_map": dict.fromkeys(names, "model.safetensors")}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))

    def convert(path: Path) -> object:
        return converted(open_source(str(path)))

    files = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json")
    packed = place / "gguf"
    packed.mkdir()
    config = LlamaConfig(vocab_size=len(pieces_and_merges()[0]), rope_theta=500.0, **SIZES)
    written(packed / "model.gguf", LlamaForCausalLM(config))
    marian = place / "marian"
    marian.mkdir()
    marian_files(marian)
    vocabulary_size = len(json.loads((marian / "vocab.json").read_text()))
    sizes = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    ids = {"pad_token_id": vocabulary_size - 1, "eos_token_id": 0}
    start = {"decoder_start_token_id": vocabulary_size - 1, "forced_eos_token_id": 0}
    MarianMTModel(
        MarianConfig(vocab_size=vocabulary_size, **sizes, **layers, **heads, **ids, **start)
    ).save_pretrained(marian)
    cutting = ("vocab.json", "source.spm", "target.spm", "tokenizer_config.json")
    return [
        Target("gguf", packed, ("model.gguf",), lambda path: convert(path / "model.gguf"), 2),
        Target("sentencepiece", marian, cutting, convert),
        Target("convert", directory, (*files, "model.safetensors"), convert),
        Target("convert-sharded", sharded, ("model.safetensors.index.json",), convert),
    ]
