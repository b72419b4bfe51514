"""Model directories: what is written comes back exactly, and what is broken is refused in one
line."""

import errno
import json
import os
import shutil
import stat
import sys

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import multistride
from multistride.data.vocab import train_vocabulary
from multistride.data.vocabulary_files import save_vocabulary
from multistride.errors import DataError, UserError
from multistride.groups import equal_sizes, teacher_forced
from multistride.model import weights
from multistride.model.config import TransformerConfig
from multistride.model.directory import load_config, load_provenance, weights_digest
from multistride.model.transformer import Transformer
from multistride.model.weights import load_model, save_model

FILES = {
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "README.md",
    "provenance.json",
    "modeling_multistride.py",
}
VOCABULARY = train_vocabulary(["a b c d e f g"], 50, "words")


def new_model(**changes):
    sizes = {
        "vocabulary_size": len(VOCABULARY),
        "hidden_size": 16,
        "feedforward_size": 16,
        "heads": 2,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "max_positions": 16,
        "max_group_size": 4,
        "group_sizes": (1, 4),
    }
    model = Transformer(TransformerConfig(**{**sizes, **changes}))
    with torch.no_grad():
        model.reach.beyond_one.weight[1:].normal_()
    return model.eval()


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "model"
    save_model(directory, new_model(), VOCABULARY, {"seed": 7}, "# A card\n")
    return directory


@pytest.fixture
def saved(saved_once, tmp_path):
    """A model directory that the test may break."""
    return shutil.copytree(saved_once, tmp_path / "model")


def refusal(directory):
    """The one line with which a broken model is refused."""
    with pytest.raises(DataError) as caught:
        load_model(directory)
    message = str(caught.value)
    assert "\n" not in message
    assert message
    return message


def change_config(directory, **changes):
    path = directory / "config.json"
    stored = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in stored.items() if value is not ...}))


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_embeddings": False, "positions": "learned"},
        {"encoder_layers": 0},
        {"norm": "post", "activation": "gelu", "max_group_size": 9},
    ],
    ids=["plain", "untied and learned", "causal", "post"],
)
def test_a_model_comes_back_exactly(tmp_path, changes):
    # Guards: a weight or a setting that is lost, rounded or renamed on its way through the files.
    model = new_model(**changes)
    save_model(tmp_path / "model", model, VOCABULARY, {}, "")
    loaded, vocabulary = load_model(tmp_path / "model")
    assert loaded.config == model.config
    assert load_config(tmp_path / "model") == model.config
    assert vocabulary.digest() == VOCABULARY.digest()
    assert not loaded.training
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    source, lengths = torch.tensor([[5, 6, 2]]), torch.tensor([3])
    slots, _ = teacher_forced(source, lengths, equal_sizes(lengths, 2), 1)
    pair = (source, lengths) if model.config.encoder_layers else (None, None)
    assert torch.equal(model(*pair, slots), loaded(*pair, slots))


def test_every_promised_file_is_there(saved):
    # Guards: a directory that does not load alone, or says nothing of its origin.
    assert {path.name for path in saved.iterdir()} == FILES
    assert (saved / "README.md").read_text() == "# A card\n"
    assert load_provenance(saved)["seed"] == 7
    assert "multistride" in load_provenance(saved)
    generation = json.loads((saved / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["group_size"], generation["max_length"]) == (
        2,
        4,
        16,
    )


def test_saving_again_replaces_the_whole_directory(saved):
    # Guards: files of an older model left beside the new one.
    (saved / "training.pt").write_text("old")
    model = new_model(norm="post")
    save_model(saved, model, VOCABULARY, {}, "")
    assert {path.name for path in saved.iterdir()} == FILES
    assert load_model(saved)[0].config == model.config
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_everybody_may_read_a_model(saved_once):
    # Guards: weights that only the account that trained them can read, on a shared machine or in a
    # container.
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in saved_once.iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights(saved, kept):
    # Guards: a traceback, or a half-read model, after a copy that broke off.
    path = saved / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    message = refusal(saved)
    assert "model.safetensors is truncated or corrupt" in message
    assert "copy the model again" in message


def test_weights_that_are_no_weights(saved):
    # Guards: a traceback on a text file where weights should be, such as a Git LFS pointer.
    (saved / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    )
    assert "truncated or corrupt" in refusal(saved)


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("config.json", "is no model directory: it has no config.json"),
        ("model.safetensors", "has no model.safetensors"),
        ("tokenizer.json", "cannot read tokenizer.json"),
    ],
)
def test_missing_file(saved, missing, expected):
    # Guards: a traceback, or a guess, where a file of the model is missing.
    (saved / missing).unlink()
    assert expected in refusal(saved)


def test_what_is_no_directory(saved):
    # Guards: a traceback on a file, or on a place that is not there.
    for place in (saved / "README.md", saved / "nowhere", str(saved / "nowhere")):
        message = refusal(place)
        assert str(place) in message
        assert "no model directory" in message


@pytest.mark.parametrize("text", ["", "{", "\xff", "[]", "null", '"multistride"', "{}"])
def test_config_that_is_none(saved, text):
    # Guards: a traceback on a config.json that was cut short or belongs to something else.
    (saved / "config.json").write_bytes(text.encode("latin-1"))
    assert "config.json" in refusal(saved)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "marian"}, "not of a multistride model"),
        ({"model_type": ...}, "not of a multistride model"),
        ({"hiden_size": 16}, "unknown key 'hiden_size'"),
        ({"heads": 3}, "hidden_size is 16; it must be even and a multiple of heads (3)"),
        ({"group_sizes": [1, 9]}, "group_sizes is [1, 9]; each must lie in 1 ... 4"),
        (
            {"norm": "middle\n"},
            "norm: Input should be 'pre', 'post', 'sandwich' or 'output' (given: 'middle\\n')",
        ),
        ({"hidden_size": 32}, "is (12, 16), expected (12, 32)"),
        ({"max_group_size": 6}, "reach.beyond_one.weight is (4, 16), expected (6, 16)"),
        ({"decoder_layers": 2}, "is missing, expected"),
        ({"encoder_layers": 0}, "expected nothing"),
        ({"markov_rank": 65536}, "markov_rank makes a matrix of more than all its"),
        ({"markov_rank": 2**63}, "markov_rank: Input should be less than or equal to 65536"),
        ({"decoder_layers": 10**19}, "decoder_layers: Input should be less than or equal to 1024"),
        ({"hidden_size": 2**31}, "hidden_size: Input should be less than or equal to 65536"),
        (
            {"vocabulary_size": 99},
            f"target_embedding.weight is ({len(VOCABULARY)}, 16), expected (99, 16)",
        ),
    ],
    ids=str,
)
def test_config_that_does_not_fit(saved, changes, expected):
    # Guards: a message that does not say which value is wrong, or weights forced into another
    # model.
    change_config(saved, **changes)
    assert expected in refusal(saved)


def test_config_without_a_vocabulary_size(saved):
    # Guards: an assertion meant for us shown to somebody whose file is damaged.
    change_config(saved, vocabulary_size=...)
    refusal(saved)


def test_weights_of_another_shape(saved):
    # Guards: weights that are broadcast or cut to fit.
    path = saved / "model.safetensors"
    tensors = load_file(path)
    tensors["decoder_norm.weight"] = tensors["decoder_norm.weight"][:8].clone()
    save_file(tensors, path)
    message = refusal(saved)
    assert "decoder_norm.weight is (8,), expected (16,)" in message
    assert "use the two files of one model" in message


def test_tokenizer_of_another_size(saved):
    # Guards: text written with the tokens of another vocabulary.
    other = train_vocabulary(["a b c"], 50, "words")
    save_vocabulary(other, saved)
    assert f"has {len(other)} entries, the model {len(VOCABULARY)}" in refusal(saved)


def test_tokenizer_that_is_none(saved):
    # Guards: the tokenizer library's own errors, some of which have many lines.
    (saved / "tokenizer.json").write_text('{"version": "1.0"}\n')
    assert "is not a tokenizer" in refusal(saved)


@pytest.mark.parametrize("text", [None, "", "{", "\xff"])
def test_provenance_is_optional(saved, text):
    # Guards: a model that cannot be used because its history is damaged.
    (saved / "provenance.json").unlink()
    if text is not None:
        (saved / "provenance.json").write_bytes(text.encode("latin-1"))
    assert load_provenance(saved) == {}
    load_model(saved)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are UTF-8 there")
def test_a_path_that_is_no_utf8_is_told_from_a_damaged_file(saved):
    # Guards: "truncated or corrupt: copy the model again" for a sound file below such a directory.
    moved = saved.rename(saved.parent / "m\udcff")
    with pytest.raises(DataError, match=r"bytes in its name that are no UTF-8.*rename its dir"):
        load_model(moved)


def full_disk(kind):
    def fail(tensors, path):
        path.write_bytes(b"half")
        if kind is OSError:
            raise OSError(errno.ENOSPC, "No space left on device")
        raise kind("Error while serializing: I/O error: No space left on device (os error 28)")

    return fail


DISK_FULL = [
    OSError,
    pytest.param(
        SafetensorError,
    ),
]


@pytest.mark.parametrize("kind", DISK_FULL)
def test_full_disk_leaves_the_old_model(saved, monkeypatch, kind):
    # Guards: a good checkpoint lost, or half overwritten, because the next one did not fit.
    before = content(saved)
    monkeypatch.setattr(weights, "save_file", full_disk(kind))
    with pytest.raises(UserError, match=r"No space left on device[^\n]*\Z"):
        save_model(saved, new_model(), VOCABULARY, {}, "")
    assert content(saved) == before
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("kind", DISK_FULL)
def test_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, kind):
    # Guards: a directory that looks like a model and is none.
    monkeypatch.setattr(weights, "save_file", full_disk(kind))
    with pytest.raises(UserError, match=r"No space left on device[^\n]*\Z"):
        save_model(tmp_path / "model", new_model(), VOCABULARY, {}, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(saved, name):
    # Guards: a command that hangs for ever on a directory somebody sent.
    (saved / name).unlink()
    os.mkfifo(saved / name)
    with pytest.raises(DataError, match=name):
        load_model(saved)
    if name == "model.safetensors":
        with pytest.raises(DataError, match="which weights"):
            weights_digest(saved)


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.complex64])
def test_weights_of_another_type(saved, kind):
    # Guards: a traceback of PyTorch, or of the first product.
    tensors = load_file(saved / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name] = tensors[name].to(kind)
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(DataError, match=r"holds .* as torch\.[^\n]*\Z"):
        load_model(saved)


@pytest.mark.parametrize("role", ["pad_token", "start_token", "end_token"])
def test_special_tokens_are_in_the_vocabulary(saved, role):
    # Guards: an IndexError in the first sentence.
    change_config(saved, **{role: len(VOCABULARY)})
    with pytest.raises(DataError, match=f"{role} is {len(VOCABULARY)}"):
        load_model(saved)


@pytest.mark.parametrize("choices", [{"engine": "eager"}, {"engine": "int8"}])
@pytest.mark.parametrize("beam", [1, 2])
def test_weights_that_overflow(saved, choices, beam):
    # Guards: empty lines, "scores": NaN in JSON, and a traceback of the beam.
    tensors = load_file(saved / "model.safetensors")
    save_file({name: 1e30 * each for name, each in tensors.items()}, saved / "model.safetensors")
    with pytest.raises(DataError, match=r"not (finite )?numbers[^\n]*\Z"):
        multistride.load(saved, **choices).translate(["a b c"], beam=beam)


@pytest.mark.parametrize(("value", "said"), [(0.0, "only zeros"), (float("nan"), "not a finite")])
def test_token_vectors_that_cannot_be(saved, value, said):
    # Guards: empty translations and exit code 0 from a download that was cut off.
    tensors = load_file(saved / "model.safetensors")
    tensors["target_embedding.weight"].fill_(value)
    save_file(tensors, saved / "model.safetensors")
    message = refusal(saved)
    assert "target_embedding.weight holds " in message
    assert said in message
