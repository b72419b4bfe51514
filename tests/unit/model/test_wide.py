"""The wide path: words put together from tokens, weighed and summed, against loops that a person
can read."""

import math
import re
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multistride.data.vocab import train_vocabulary
from multistride.model.classifier import PooledHead
from multistride.model.config import ClassifierConfig, TransformerConfig, WideConfig
from multistride.model.wide import UNUSED, WidePath, Words, number_of

TEXTS = ["ab abba ba", "Ab c ab", "a1b2 über-ab  ab\n\tab", "It's <ab@ba.c> ab_ab", ""]
WORD = re.compile(rb"[a-z0-9\x80-\xff]+")


def vocabulary_of(size):
    return train_vocabulary(TEXTS, size, "bpe")


def slow_words(vocabulary, tokens):
    """Spellings of words: tokens of letters that follow each other without a blank are one; others
    stand alone."""
    found, open_word = [], False
    for token in tokens:
        spelling = vocabulary.spellings[token].lower()
        core = spelling.lstrip(b" ")
        if not WORD.fullmatch(core):
            found.append(spelling)
        elif core == spelling and open_word:
            found[-1] += core
        else:
            found.append(core)
        open_word = bool(WORD.fullmatch(core))
    return found


def flat(documents):
    tokens = torch.tensor([token for document in documents for token in document], dtype=torch.long)
    lengths = torch.tensor([len(document) for document in documents])
    return tokens, torch.arange(len(documents)).repeat_interleave(lengths)


def learned(vocabulary):
    words = Words(len(vocabulary))
    words.learn(vocabulary.spellings)
    return words


@pytest.mark.parametrize("size", [261, 275])
@given(st.lists(st.text(alphabet="aB bé.'\n1", max_size=12), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_words_are_those_of_a_loop(size, texts):
    """A word that goes on over the border of a document, after a full stop, or without its first
    token."""
    vocabulary = vocabulary_of(size)
    documents = vocabulary.encode(texts)
    found = learned(vocabulary)(*flat(documents))
    for number, document in enumerate(documents):
        expected = [number_of(word) for word in slow_words(vocabulary, document)]
        assert found.numbers[found.document == number].tolist() == expected


def test_a_word_is_the_same_however_it_was_cut_and_written():
    """Features that depend on the tokenizer: a word at the beginning, in capitals, or in other
    pieces."""
    numbers = []
    for size in (261, 275):
        vocabulary = vocabulary_of(size)
        numbers += [
            set(learned(vocabulary)(*flat(vocabulary.encode([text]))).numbers.tolist())
            for text in TEXTS[:2]
        ]
    blank = {number_of(b" ")}  # is a token for itself where there are few
    assert numbers[0] - blank == numbers[2] == {number_of(word) for word in (b"ab", b"abba", b"ba")}
    assert numbers[1] - blank == numbers[3] == {number_of(word) for word in (b"ab", b"c")}


def test_numbers_are_of_64_bits_and_tell_words_apart():
    """Digits that overflow to zero, orders of letters that are one."""
    texts = [
        bytes([first, second, 98]) * times
        for first in (97, 98)
        for second in (97, 99)
        for times in (1, 9)
    ]
    numbers = {number_of(text) for text in texts}
    assert len(numbers) == len(texts)
    assert all(-(2**63) <= number < 2**63 for number in numbers)


def wide_path(vocabulary, known):
    torch.manual_seed(3)
    shape = ClassifierConfig(classes=("x", "y", "z"), wide=WideConfig(words=len(known) + 2))
    path = WidePath(shape, len(vocabulary))
    path.words.learn(vocabulary.spellings)
    by_number = sorted(known, key=number_of)
    path.know(
        torch.tensor([number_of(word) for word in by_number]),
        torch.tensor([known[w] for w in by_number]),
    )
    path.take(torch.randn(path.weight.shape), torch.randn(3))
    return path, by_number


def test_bags_and_logits_are_those_of_a_loop():
    """Counts of other documents, weights that are not of length one, words that are not known, an
    empty document."""
    vocabulary = vocabulary_of(275)
    known = {b"ab": 1.5, b"c": 2.0, b"ba": 3.0, b".": 0.5}
    path, by_number = wide_path(vocabulary, known)
    documents = vocabulary.encode(TEXTS)
    found = path(*flat(documents), len(documents))
    assert (path.known[-2:] == UNUSED).all()
    for number, document in enumerate(documents):
        counts = Counter(word for word in slow_words(vocabulary, document) if word in known)
        weights = {word: (1 + math.log(count)) * known[word] for word, count in counts.items()}
        length = math.sqrt(sum(weight**2 for weight in weights.values())) or 1.0
        expected = path.bias.clone()
        for word, weight in weights.items():
            expected += weight / length * path.weight[by_number.index(word)]
        torch.testing.assert_close(found[number], expected)
    torch.testing.assert_close(found[4], path.bias)


def test_a_table_that_was_known_before_is_replaced():
    """Words of earlier data that stay behind those of later data."""
    vocabulary = vocabulary_of(275)
    path, _ = wide_path(vocabulary, {b"ab": 1.5, b"c": 2.0, b"ba": 3.0})
    path.know(torch.tensor([number_of(b"ab")]), torch.tensor([1.0]))
    assert (path.known == UNUSED).sum() == 4
    assert path.rarity.tolist() == [1.0, 0, 0, 0, 0]


def test_a_head_without_the_option_has_no_wide_path_and_a_file_as_before():
    """Checkpoints of earlier versions that no longer load, or new ones that those cannot read."""
    sizes = {
        "vocabulary_size": 30,
        "hidden_size": 16,
        "heads": 2,
        "encoder_layers": 1,
        "decoder_layers": 0,
    }
    sizes["max_positions"] = 300
    plain = TransformerConfig(**sizes, classifier=ClassifierConfig(classes=("x", "y")))
    assert "wide" not in plain.stored()["classifier"]
    assert TransformerConfig.model_validate(plain.stored()) == plain
    assert not any(name.startswith("wide") for name in PooledHead(plain).state_dict())
    wide = TransformerConfig(
        **sizes, classifier=ClassifierConfig(classes=("x", "y"), wide=WideConfig(words=7))
    )
    assert TransformerConfig.model_validate(wide.stored()) == wide
    assert PooledHead(wide).wide is not None


def test_names_of_classes_have_no_wide_path():
    with pytest.raises(
        ValueError, match="wide is a path beside a pooled head; labels have none: leave it out"
    ):
        ClassifierConfig(kind="labels", wide=WideConfig())
