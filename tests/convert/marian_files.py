"""The files of a Marian tokenizer, trained on a few lines."""

import json

import sentencepiece

ENGLISH = [
    "the cat sat on the mat .",
    "a dog and a cat",
    "the dog ran to the mat",
    "Two dogs run , and a cat sits !",
] * 9
GERMAN = [
    "die Katze saß auf der Matte .",
    "ein Hund und eine Katze",
    "der Hund lief zur Matte",
    "zwei Hunde",
] * 9


def marian_files(place):
    """Write one SentencePiece model a language and one joint vocabulary; return the directory."""
    pieces = {}
    for side, texts in (("source", ENGLISH), ("target", GERMAN)):
        file = place / "text"
        file.write_text("\n".join(texts))
        sentencepiece.SentencePieceTrainer.train(
            input=str(file),
            model_prefix=str(place / side),
            vocab_size=48,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        (place / f"{side}.model").rename(place / f"{side}.spm")
        model = sentencepiece.SentencePieceProcessor(model_file=str(place / f"{side}.spm"))
        pieces.update(
            dict.fromkeys(model.id_to_piece(token) for token in range(3, model.vocab_size()))
        )
    names = ["</s>", "<unk>", *sorted(pieces), ">>deu<<", ">>nld<<", "<pad>"]
    (place / "vocab.json").write_text(
        json.dumps({piece: token for token, piece in enumerate(names)})
    )
    settings = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    return place
