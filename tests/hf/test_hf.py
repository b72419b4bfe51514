"""Model directories in transformers: what its classes compute and write is what multistride
does."""

import re

import numpy as np
import pytest
import torch
from originals import causal_slots, sequences, small_tokenizer
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    TextIteratorStreamer,
    pipeline,
    pipelines,
)

import multistride
import multistride.hf
from multistride.convert.run import convert
from multistride.data.vocab import train_vocabulary
from multistride.decode.choosing.policy import fixed
from multistride.decode.phrases import PHRASES
from multistride.distill.phrases import phrases_of
from multistride.errors import DataError, MissingExtraError, UsageError
from multistride.hf.required import check_version
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer
from multistride.model.weights import load_model, save_model

TEXTS = ["a small dog runs over the grass", "two cats", "ein Hund und eine Katze laufen weit"]


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    """A directory with a small random encoder-decoder whose texts differ and end."""
    place = tmp_path_factory.mktemp("translator")
    vocabulary = train_vocabulary(TEXTS, 300, "bpe")
    torch.manual_seed(4)
    sizes = {
        "hidden_size": 32,
        "feedforward_size": 48,
        "heads": 4,
        "encoder_layers": 2,
        "decoder_layers": 2,
    }
    config = TransformerConfig(
        vocabulary_size=len(vocabulary),
        max_positions=48,
        group_sizes=(1, 2, 4),
        markov_rank=4,
        **sizes,
    )
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.7)
    save_model(place / "ours", model, vocabulary, {}, "# card\n")
    return place / "ours"


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    """A directory with a small converted causal model, with a chat template."""
    place = tmp_path_factory.mktemp("causal")
    size = small_tokenizer(
        place / "theirs", unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    (place / "theirs" / "chat_template.jinja").write_text(
        "<s>{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    torch.manual_seed(4)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
    }
    LlamaForCausalLM(
        LlamaConfig(vocab_size=size, max_position_embeddings=128, initializer_range=0.3, **sizes)
    ).save_pretrained(place / "theirs")
    convert(str(place / "theirs"), place / "ours")
    return place / "ours"


def encoded(directory, texts=TEXTS, side="right"):
    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side=side)
    return tokenizer(
        texts, return_tensors="pt", padding=True, return_token_type_ids=False
    ), tokenizer


@pytest.mark.parametrize(
    "choices",
    [
        {"group_size": 1},
        {"group_size": 4},
        {"group_size": 4, "mode": "exact"},
        {"num_beams": 3, "group_size": 1},
    ],
)
def test_translations_are_those_of_multistride(translator, choices):
    """Sources without EOS, padding that is seen, another start: one loop that is called in two
    ways."""
    model = AutoModelForSeq2SeqLM.from_pretrained(translator)
    inputs, tokenizer = encoded(translator)
    written = model.generate(
        **inputs, custom_generate=multistride.hf.generate, max_new_tokens=20, **choices
    )
    ours = {{"num_beams": "beam"}.get(name, name): value for name, value in choices.items()}
    expected = multistride.load(translator, engine="eager").translate(
        TEXTS, limit_ratio=0.01, limit_extra=20, **ours
    )
    assert tokenizer.batch_decode(written, skip_special_tokens=True) == [
        each.text for each in expected
    ]


@pytest.mark.parametrize("beams", [1, 2])
def test_the_loop_of_transformers_writes_the_same(translator, beams):
    """`forward` and the encoder, which our loop does not use; beam search there repeats every
    row."""
    model = AutoModelForSeq2SeqLM.from_pretrained(translator)
    inputs, _ = encoded(translator)
    settings = {"max_new_tokens": 12, "num_beams": beams, "bad_words_ids": [[0], [1], [3]]}
    theirs = model.generate(**inputs, custom_generate=None, **settings)
    del settings["bad_words_ids"]
    if beams == 1:
        ours = model.generate(**inputs, group_size=1, **settings)
        assert theirs.equal(ours[:, : theirs.shape[1]])
    else:
        assert theirs.shape[0] == len(TEXTS)


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_causal_texts_are_those_of_the_loop_of_transformers(causal, mode):
    """Prompts padded on the left, prompts in the output, EOS in the middle of a batch."""
    model = AutoModelForCausalLM.from_pretrained(causal)
    inputs, _ = encoded(causal, side="left")
    settings = {"max_new_tokens": 16, "do_sample": False}
    ours = model.generate(**inputs, mode=mode, **settings)
    theirs = model.generate(
        **inputs, custom_generate=None, bad_words_ids=[[model.config.mask_token]], **settings
    )
    assert ours.equal(theirs)


class Passes(TextIteratorStreamer):
    """A streamer that counts the groups it is given: passes of exact mode."""

    count = 0

    def put(self, value):
        self.count += 1
        super().put(value)


def drafted(model, directory, drafts, group_size=6):
    """What exact mode writes after each text alone, and in how many passes."""
    texts, passes = [], 0
    for text in TEXTS:
        inputs, tokenizer = encoded(directory, [text])
        streamer = Passes(tokenizer)
        settings = {"max_new_tokens": 24, "do_sample": False, "streamer": streamer}
        texts.append(
            model.generate(**inputs, mode="exact", group_size=group_size, drafts=drafts, **settings)
        )
        passes += streamer.count - 1  # the prompt is one
    return texts, passes


def test_drafts_from_text_write_what_the_original_writes(causal, tmp_path):
    """Drafts that are not checked, a table that is not read, or left behind by
    `save_pretrained`."""
    theirs = AutoModelForCausalLM.from_pretrained(causal.parent / "theirs")
    one_by_one = {"max_new_tokens": 24, "do_sample": False}
    expected = [theirs.generate(**encoded(causal, [text])[0], **one_by_one) for text in TEXTS]
    model = AutoModelForCausalLM.from_pretrained(causal)
    assert model.phrases is None
    written, passes = drafted(model, causal, "text")
    assert all(ours.equal(original) for ours, original in zip(written, expected, strict=True))
    model.save_pretrained(tmp_path / "with-phrases")
    rows = phrases_of(
        (tokens[0].tolist(), len(text)) for tokens, text in zip(expected, TEXTS, strict=True)
    )
    np.save(tmp_path / "with-phrases" / PHRASES, rows)
    knowing = AutoModelForCausalLM.from_pretrained(tmp_path / "with-phrases")
    again, fewer = drafted(knowing, causal, "text")
    assert all(ours.equal(original) for ours, original in zip(again, expected, strict=True))
    assert fewer < passes <= sum(tokens.shape[1] for tokens in expected)
    knowing.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / PHRASES).is_file()
    inputs, _ = encoded(causal, side="left")
    together = knowing.generate(**inputs, mode="exact", group_size=3, drafts="text", **one_by_one)
    assert together.equal(theirs.generate(**inputs, **one_by_one))


def test_drafts_from_text_translate_as_at_k1(translator):
    model = AutoModelForSeq2SeqLM.from_pretrained(translator)
    inputs, _ = encoded(translator)
    expected = model.generate(**inputs, max_new_tokens=20, group_size=1)
    assert model.generate(
        **inputs, max_new_tokens=20, mode="exact", group_size=7, drafts="text"
    ).equal(expected)


def test_groups_are_searched_as_asked_or_as_the_model_says(translator):
    # The head of the small model has hardly a say, so a stronger one is put in its place.
    model = AutoModelForSeq2SeqLM.from_pretrained(translator)
    with torch.no_grad():
        for weight in model.transformer.markov.parameters():
            weight.normal_(0, 2)
    inputs, _ = encoded(translator)
    asked = {"max_new_tokens": 20, "group_size": 4, "do_sample": False}
    greedy, searched = (model.generate(**inputs, **asked, group_beam=beam) for beam in (1, 4))
    assert not greedy.equal(searched)
    assert model.generate(**inputs, **asked).equal(greedy)
    model.transformer.config = model.transformer.config.model_copy(update={"group_beam": 4})
    assert model.generate(**inputs, **asked).equal(searched)
    with pytest.raises(UsageError, match="group_beam 2 was given, and group size 1 writes"):
        model.generate(**inputs, group_size=1, group_beam=2)


def test_causal_logits_are_those_of_the_model(causal):
    model = AutoModelForCausalLM.from_pretrained(causal)
    own, _ = load_model(causal)
    slots, real = causal_slots(sequences(40))
    with torch.inference_mode():
        expected = own.project(own(None, None, slots))
        found = model(input_ids=slots.token, attention_mask=real.long()).logits
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["causal", "translator"])
def test_the_loss_falls_when_trained(kind, request):
    """Labels that are moved by one too few or too many cannot be learned by heart."""
    directory = request.getfixturevalue(kind)
    torch.manual_seed(2)
    classes = {"causal": AutoModelForCausalLM, "translator": AutoModelForSeq2SeqLM}
    model = classes[kind].from_pretrained(directory).train()
    inputs, _ = encoded(directory)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(30):
        loss = model(**inputs, labels=labels).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.parametrize("kind", ["causal", "translator"])
def test_a_directory_survives_the_way_through_transformers(kind, request, tmp_path):
    """Names with a prefix, keys of transformers in config.json, tensors that were cast, a tokenizer
    left behind."""
    directory = request.getfixturevalue(kind)
    classes = {"causal": AutoModelForCausalLM, "translator": AutoModelForSeq2SeqLM}
    classes[kind].from_pretrained(directory).save_pretrained(tmp_path / "again")
    first, second = (
        load_file(place / "model.safetensors") for place in (directory, tmp_path / "again")
    )
    assert first.keys() == second.keys()
    assert all(
        first[name].equal(second[name]) and first[name].dtype == second[name].dtype
        for name in first
    )
    (model, vocabulary), (again, vocabulary_again) = (
        load_model(directory),
        load_model(tmp_path / "again"),
    )
    assert model.config == again.config
    assert vocabulary.digest() == vocabulary_again.digest()
    assert (directory / "config.json").read_text() != ""


def test_a_template_in_a_file_of_its_own_comes_along(causal, tmp_path):
    # Guards: a chat model without its template; the template of another tokenizer.
    tokenizer = AutoTokenizer.from_pretrained(causal)
    AutoModelForCausalLM.from_pretrained(causal).save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")  # transformers writes it beside the rest
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    model.save_pretrained(tmp_path / "again")
    templates = [load_model(place)[1].chat_template for place in (causal, tmp_path / "again")]
    assert templates[0] == templates[1] is not None
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "other")
    model.save_pretrained(tmp_path / "other")
    assert load_model(tmp_path / "other")[1].chat_template is None


def test_the_wrong_class_says_the_right_one(causal, translator):
    with pytest.raises(UsageError, match="use AutoModelForCausalLM"):
        AutoModelForSeq2SeqLM.from_pretrained(causal)
    with pytest.raises(UsageError, match="use AutoModelForSeq2SeqLM"):
        AutoModelForCausalLM.from_pretrained(translator)
    assert (
        AutoConfig.from_pretrained(causal).vocab_size
        == AutoConfig.from_pretrained(causal).vocabulary_size
    )


def test_pipelines(translator, causal):
    # Guards: a table of transformers that is changed for everybody, a task that only the import
    # order makes work.
    removed = dict(pipelines.REMOVED_TASKS)
    assert "translation" in removed
    translate = multistride.hf.pipeline("translation", model=str(translator))
    [result] = translate(TEXTS[0], group_size=2, max_new_tokens=10)
    [expected] = multistride.load(translator, engine="eager").translate(
        TEXTS[:1], 2, limit_ratio=0.01, limit_extra=10
    )
    assert result["translation_text"] == expected.text
    several = translate(TEXTS[:2], group_size=2, max_new_tokens=10)
    assert several[0] == result
    assert len(several) == 2
    assert translate(TEXTS[:1], group_size=2, max_new_tokens=10) == [result]
    assert removed == pipelines.REMOVED_TASKS
    own_name = pipeline("multistride-translation", model=str(translator))
    assert own_name(TEXTS[0], group_size=2, max_new_tokens=10) == [result]
    write = multistride.hf.pipeline("text-generation", model=str(causal))
    [written] = write("a cat", max_new_tokens=8, do_sample=False)
    assert written["generated_text"].startswith("a cat")
    assert len(written["generated_text"]) > len("a cat")


def test_what_a_pipeline_cannot_do_is_one_line(translator):
    # Guards: a KeyError, an IndexError and faults of the tokenizer from deep inside transformers.
    for name in ("translation", "multistride-translation"):
        with pytest.raises(UsageError, match=r"without a model: give one, as in pipeline"):
            multistride.hf.pipeline(name)
    translate = multistride.hf.pipeline("translation", str(translator))
    short = {"group_size": 2, "max_new_tokens": 10}
    assert translate([]) == translate(()) == []
    assert translate(tuple(TEXTS[:2]), **short) == translate(TEXTS[:2], **short)
    assert [*translate((text for text in TEXTS[:1]), **short)] == [translate(TEXTS[0], **short)]
    for wrong, shown in (
        (5, "5 (int)"),
        ([TEXTS[0], None], "None (NoneType)"),
        (b"a", "b'a' (byt"),
    ):
        with pytest.raises(UsageError, match=rf"^{re.escape(shown)}.*give a text or a list of"):
            translate(wrong)
    with pytest.raises(UsageError, match=r"^5 \(int\) was given"):
        list(translate(text for text in [5]))
    with pytest.raises(DataError, match=r"character 1 is a lone surrogate, U\+D800; remove it"):
        translate("a\ud800")


def test_settings_of_generation_that_are_no_configuration(translator):
    # Guards: an AttributeError from deep inside transformers.
    model = AutoModelForSeq2SeqLM.from_pretrained(translator)
    with pytest.raises(UsageError, match=r"is {'max_new_tokens': 5} \(dict\).*as arguments of gen"):
        model.generate(torch.tensor([[5, 6]]), generation_config={"max_new_tokens": 5})


def test_older_versions_of_transformers_are_named():
    # Guards: an ImportError from deep inside, where one line says what to install.
    with pytest.raises(
        MissingExtraError, match=r"multistride.hf needs transformers 5, found 4.57.6"
    ):
        check_version("4.57.6")
    check_version("5.0.0rc1")


def test_groups_are_streamed(causal):
    """Streamers are dropped by transformers where the loop is ours."""
    model = AutoModelForCausalLM.from_pretrained(causal)
    inputs, tokenizer = encoded(causal, TEXTS[:1])
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    written = model.generate(**inputs, max_new_tokens=8, do_sample=False, streamer=streamer)
    assert "".join(streamer) == tokenizer.decode(written[0, inputs["input_ids"].shape[1] :])


def test_sampling_obeys_the_seed_of_torch(causal):
    model = AutoModelForCausalLM.from_pretrained(causal)
    inputs, _ = encoded(causal, TEXTS[:1])
    written = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        written.append(
            model.generate(**inputs, max_new_tokens=12, do_sample=True, num_return_sequences=2)
        )
    assert written[0].equal(written[1])
    assert not written[0][0].equal(written[0][1])


def test_exact_mode_draws_what_sampling_asks_for(translator):
    """Greedy text where `do_sample=True` was said: nothing would tell."""
    model = AutoModelForSeq2SeqLM.from_pretrained(translator)
    inputs, _ = encoded(translator, TEXTS[:1])
    settings = {
        "max_new_tokens": 20,
        "mode": "exact",
        "group_size": 2,
        "do_sample": True,
        "temperature": 3.0,
    }
    written = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        written.append(model.generate(**inputs, **settings))
    assert written[0].equal(written[1])
    assert not written[0].equal(written[2])


def test_a_policy_chooses_every_step(translator):
    model = AutoModelForSeq2SeqLM.from_pretrained(translator)
    inputs, _ = encoded(translator, TEXTS[:1])
    steps = []

    def alternating(state):
        steps.append(state.step)
        return fixed(1 + state.step % 2)(state)

    written = model.generate(**inputs, max_new_tokens=9, policy=alternating)
    assert steps == list(range(len(steps)))
    assert len(steps) < written.shape[1] - 1
    by_name = model.generate(**inputs, max_new_tokens=9, policy="autoregressive")
    assert by_name.equal(model.generate(**inputs, max_new_tokens=9, group_size=1))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"group_size": 9}, "group size 9 was asked for"),
        (
            {"repetition_penalty": 1.5, "group_size": 2},
            "repetition_penalty 1.5, which sees one token at a time",
        ),
        ({"mode": "exact", "policy": fixed(1)}, "a policy was given, and mode exact has its own"),
        (
            {"num_beams": 2, "num_return_sequences": 2, "group_size": 2},
            "group_size 2 was given together with num_return_sequences 2",
        ),
        (
            {"drafts": "text", "group_size": 2},
            "drafts text was given, and mode fast has none: choose mode exact",
        ),
        (
            {"drafts": "words", "mode": "exact"},
            "drafts: Input should be 'masks', 'all-masks', 'text', 'both' or 'head'",
        ),
        ({"drafts": "text", "mode": "exact", "group_size": 17}, "checked at most 16 at a time"),
    ],
)
def test_what_cannot_be_done_is_refused(translator, choices, message):
    model = AutoModelForSeq2SeqLM.from_pretrained(translator)
    inputs, _ = encoded(translator, TEXTS[:1])
    with pytest.raises(UsageError, match=message):
        model.generate(**inputs, max_new_tokens=9, **choices)
