import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multistride.data.batch import PairedTokens, PreparedData, collate, token_batches
from multistride.data.prepare import prepare
from multistride.data.prepare_pairs import CorpusFiles, PrepareConfig
from multistride.errors import DataError, UsageError

lengths = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), max_size=150)
seeds = st.one_of(st.none(), st.integers(0, 2**32))


def columns(pairs):
    array = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def as_lists(batches):
    return [batch.tolist() for batch in batches]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    pairs = [("a b c", "x"), ("a", "x y z z"), ("b b", "y y")]
    (directory / "train.tsv").write_text(
        "".join(f"{source}\t{target}\n" for source, target in pairs)
    )
    files = CorpusFiles(pairs=directory / "train.tsv")
    prepare(PrepareConfig(output=directory / "out", train=(files,), vocabulary_kind="words"))
    return directory / "out"


# Guards: a pair that is trained on twice, or never.
@settings(max_examples=60, deadline=None)
@given(lengths, st.integers(1, 200), seeds, st.integers(0, 5))
def test_every_row_is_in_one_batch(pairs, budget, seed, epoch):
    batches = token_batches(*columns(pairs), budget, seed, epoch)
    assert sorted(row for batch in batches for row in batch.tolist()) == list(range(len(pairs)))


# Guards: batches that exceed the memory they were planned for, and batches without a row.
@settings(max_examples=60, deadline=None)
@given(lengths, st.integers(1, 200), seeds)
def test_batches_keep_the_budget(pairs, budget, seed):
    source, target = columns(pairs)
    for batch in token_batches(source, target, budget, seed, 0):
        longest = max(source[batch].max(), target[batch].max())
        assert len(batch) == 1 or len(batch) * longest <= budget
        assert len(batch) > 0


# Guards: a resumed run that sees other batches than the one it continues.
@settings(max_examples=30, deadline=None)
@given(lengths, seeds, st.integers(0, 5))
def test_batches_are_deterministic(pairs, seed, epoch):
    first, second = (token_batches(*columns(pairs), 100, seed, epoch) for _ in range(2))
    assert as_lists(first) == as_lists(second)


# Guards: every epoch, or every seed, in the same order; and neighbours that stay together for ever.
def test_epochs_and_seeds_differ():
    generator = np.random.default_rng(0)
    source, target = generator.integers(1, 50, (2, 2000))
    orders = [
        as_lists(token_batches(source, target, 500, *key))
        for key in [(1, 0), (1, 1), (2, 0), (0, 1)]
    ]
    members = [{frozenset(batch) for batch in order} for order in orders]
    for number, order in enumerate(orders):
        for other in range(number):
            assert order != orders[other]
            assert len(members[number] & members[other]) < len(order) / 10


# Guards: rows of unlike length together, which pads most of the batch away.
def test_batches_waste_little():
    generator = np.random.default_rng(0)
    source = generator.integers(2, 60, 20_000)
    target = np.clip(source + generator.integers(-3, 4, 20_000), 1, None)
    batches = token_batches(source, target, 4000, 7, 0)
    longest = np.maximum(source, target)
    padded = sum(len(batch) * longest[batch].max() for batch in batches)
    assert longest.sum() / padded > 0.93


# Guards: batches ordered by length in training, a curriculum nobody asked for.
def test_order_by_length_only_without_a_seed():
    source = np.arange(1, 400)
    plain = [source[batch].max() for batch in token_batches(source, source, 1000, None, 0)]
    shuffled = [source[batch].max() for batch in token_batches(source, source, 1000, 3, 0)]
    assert plain == sorted(plain)
    assert shuffled != sorted(shuffled)
    assert as_lists(token_batches(source, source, 1000, None, 0)) == as_lists(
        token_batches(source, source, 1000, None, 9)
    )


# Guards: a budget of zero that gives one row a batch silently.
def test_budget_is_checked():
    with pytest.raises(UsageError, match="tokens_per_batch is 0; it must be at least 1"):
        token_batches(np.array([1]), np.array([1]), 0, None, 0)


# Guards: a missing end of sentence, padding on the wrong side, and lengths without the end.
def test_collate(prepared):
    data = PreparedData.load(prepared)
    split = data.split("train")
    batch = collate(split, np.array([1, 0]), data.vocabulary)
    a, b, c, x, y, z = (data.vocabulary.encode([word])[0][0] for word in "abcxyz")
    assert batch.source.tolist() == [[a, 2, 0, 0], [a, b, c, 2]]
    assert batch.source_lengths.tolist() == [2, 4]
    assert batch.target.tolist() == [[x, y, z, z, 2], [x, 2, 0, 0, 0]]
    assert batch.target_lengths.tolist() == [5, 2]
    assert {tensor.dtype for tensor in vars(batch).values() if tensor is not None} == {torch.int64}
    assert split.source_lengths[[1, 0]].tolist() == batch.source_lengths.tolist()
    assert split.target_lengths[[1, 0]].tolist() == batch.target_lengths.tolist()
    assert split.source_lengths.dtype == np.int64
    moved = batch.to("cpu")
    assert torch.equal(moved.target_lengths, batch.target_lengths)


# Guards: a row counted from the end, or an empty text for a row that does not exist.
@pytest.mark.parametrize("row", [-1, 3])
def test_rows_outside_the_split_are_refused(prepared, row):
    split = PreparedData.load(prepared).split("train")
    assert isinstance(split, PairedTokens)
    with pytest.raises(IndexError, match=f"row {row} is outside 0 to 2"):
        split.source(row)
    with pytest.raises(IndexError, match=f"row {row} is outside 0 to 2"):
        split.target(row)


# Guards: whole corpora read into memory by every process.
def test_arrays_are_mapped(prepared):
    split = PreparedData.load(prepared).split("train")
    assert isinstance(split.source_tokens, np.memmap)


# Guards: a split that is absent named by a traceback.
def test_absent_split_is_refused(prepared):
    with pytest.raises(DataError, match="has no validation split, it has train"):
        PreparedData.load(prepared).split("validation")


# Guards: any directory taken for prepared data.
@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"format": 1}'])
def test_load_refuses_other_directories(tmp_path, content):
    if content is not None:
        (tmp_path / "prepare.json").write_text(content)
    with pytest.raises(DataError, match=r"is no prepared directory: it needs prepare\.json"):
        PreparedData.load(tmp_path)


def copy_of(prepared, tmp_path):
    for path in prepared.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


# Guards: tokens read with a tokenizer, or a format, that they were not written for.
def test_load_refuses_an_exchanged_tokenizer_or_format(prepared, tmp_path):
    directory = copy_of(prepared, tmp_path)
    tokenizer = directory / "tokenizer.json"
    original = tokenizer.read_text()
    tokenizer.write_text(original + "\n")
    with pytest.raises(DataError, match="is not the one the data was prepared with"):
        PreparedData.load(directory)
    tokenizer.write_text(original)
    manifest = json.loads((directory / "prepare.json").read_text())
    (directory / "prepare.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(DataError, match="has format 99, this version reads 1"):
        PreparedData.load(directory)


# Guards: damaged arrays that give wrong texts, or run pickled code, instead of an error.
@pytest.mark.parametrize("damage", ["missing", "cut", "pickle", "offsets", "fewer"])
def test_damaged_arrays_are_refused(prepared, tmp_path, damage):
    directory = copy_of(prepared, tmp_path)
    tokens = directory / "train.source.tokens.npy"
    offsets = directory / "train.source.offsets.npy"
    if damage == "missing":
        tokens.unlink()
    elif damage == "cut":
        tokens.write_bytes(tokens.read_bytes()[:-2])
    elif damage == "pickle":
        np.save(tokens, np.array([{}], dtype=object), allow_pickle=True)
    elif damage == "offsets":
        np.save(offsets, np.load(offsets) + 1)
    else:
        np.save(offsets, np.load(offsets)[[0, -1]])
    with pytest.raises(DataError, match="prepare the data again"):
        PreparedData.load(directory).split("train")
