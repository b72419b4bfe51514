"""Small tokenizers with the decoders of the models that are converted, each with its own pieces."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from multistride.data.foreign import UNWRITTEN, ForeignVocabulary

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<mask>")
ALPHABET = "▁abdehinorstuwzäöüHBW,.!'"
WORDS = ("▁d", "ei", "ein", "▁H", "au", "aus", "Ha", "▁▁", "n▁H", "ie", "▁die")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
BLANKS = decoders.Replace("▁", " ")
LLAMA = [BLANKS, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]


def metaspace(scheme):
    """Blanks as T5, mBART and NLLB have them."""
    return (
        pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False),
        decoders.Metaspace(prepend_scheme=scheme),
    )


def in_sequence(*parts):
    return decoders.Sequence(list(parts))


PREPENDED = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
KINDS = {
    "always": metaspace("always"),
    "first": metaspace("first"),
    "never": metaspace("never"),
    "llama": (PREPENDED, in_sequence(*LLAMA)),
    "llama-first": (metaspace("first")[0], in_sequence(*LLAMA)),
    "gemma": (normalizers.Replace(" ", "▁"), in_sequence(*LLAMA[:3])),
    "fallback": (metaspace("always")[0], in_sequence(LLAMA[1], metaspace("always")[1])),
    "marian": (
        metaspace("always")[0],
        in_sequence(decoders.Replace(UNWRITTEN, ""), metaspace("always")[1]),
    ),
    "wordpiece": (pre_tokenizers.Whitespace(), decoders.WordPiece(prefix="##", cleanup=True)),
    "plain": (pre_tokenizers.WhitespaceSplit(), None),
}


def vocabulary_of(kind):
    """The vocabulary of a kind: letters, parts of words, and bytes."""
    first, decoder = KINDS[kind]
    others = {"marian": [UNWRITTEN + "Katz"], "wordpiece": [f"##{piece}" for piece in "abdein"]}
    words = ["Haus", "n't", "'s", *WORDS, *others.get(kind, [])]
    pieces = [*SPECIAL, *BYTES, *ALPHABET, *words]
    if kind in ("wordpiece", "plain"):
        ids = {piece: token for token, piece in enumerate(pieces)}
        tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    else:
        scores = [(piece, 0.0 if piece in SPECIAL else -5.0 / len(piece)) for piece in pieces]
        tokenizer = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
    if isinstance(first, normalizers.Normalizer):
        tokenizer.normalizer = first
    else:
        tokenizer.pre_tokenizer = first
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.add_tokens(["<think>"])
    names = ("unknown", "bos", "eos", "pad", "mask")
    roles = {name: token for token, name in enumerate(names)}
    return ForeignVocabulary(tokenizer, {"multistride": roles, "eos_token": "</s>"})
