"""What can be asked of `generate`: each setting is followed, or refused in one line."""

import logging
import shutil
import time
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from directories import SOURCES, directory_of, inputs_of
from draft_heads import head_tensors
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    StoppingCriteria,
)

from multistride import shipped
from multistride.decode.choosing.policy import fixed
from multistride.decode.draft_head import DRAFT_HEAD
from multistride.errors import UsageError
from multistride.generator import Generator
from multistride.shipped import DEFAULT
from multistride.translator import Translator

CLASSES = {"causal": AutoModelForCausalLM, "translator": AutoModelForSeq2SeqLM}
KINDS = pytest.mark.parametrize("kind", CLASSES)


def opened(kind, request):
    directory = request.getfixturevalue(kind)
    model = CLASSES[kind].from_pretrained(directory).eval()
    with torch.no_grad():  # texts that differ
        for parameter in model.parameters():
            parameter.mul_(1.7)
    return model, inputs_of(directory, side="left" if kind == "causal" else "right")


class Stop(StoppingCriteria):
    def __call__(self, input_ids, scores, **others):
        return torch.tensor([input_ids.shape[1] >= self.length] * len(input_ids))


class Only(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return torch.full_like(scores, float("-inf")).index_fill(1, torch.tensor([9]), 0.0)


@KINDS
@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 2},
        {"bad_words_ids": [[40]]},
        {"min_new_tokens": 5},
        {"num_beams": 3, "num_return_sequences": 2},
        {"use_cache": False},
        {"output_scores": True, "return_dict_in_generate": True},
        {"output_attentions": True, "return_dict_in_generate": True},
        {"output_hidden_states": True, "return_dict_in_generate": True, "use_cache": True},
        {"prompt_lookup_num_tokens": 2},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_of_transformers_work_at_k1_and_are_refused_with_groups(kind, settings, request):
    # Guards: a setting that is accepted and not followed.
    model, inputs = opened(kind, request)
    if "prompt_lookup_num_tokens" in settings:  # transformers does this for one text
        inputs = {name: tensor[:1, -2:] for name, tensor in inputs.items()}
    limit = {"max_new_tokens": 8, "do_sample": False}
    never = {"suppress_tokens": list(model.transformer.config.unpicked)}
    expected = model.generate(**inputs, custom_generate=None, **limit, **never, **settings)
    found = model.generate(**inputs, group_size=1, **limit, **settings)
    if "return_dict_in_generate" in settings:
        assert found.keys() == expected.keys()
        found, expected = found.sequences, expected.sequences
    assert found.equal(expected)
    name = next(iter(settings))
    name = "num_return_sequences" if name == "num_beams" else name
    with pytest.raises(UsageError, match=f"group_size 2 was given together with {name}"):
        model.generate(**inputs, group_size=2, **limit, **settings)


@KINDS
def test_criteria_and_processors_are_followed(kind, request):
    model, inputs = opened(kind, request)
    criterion = Stop()
    begin = inputs["input_ids"].shape[1] if kind == "causal" else 1
    criterion.length = begin + 3
    written = model.generate(
        **inputs, group_size=1, stopping_criteria=[criterion], max_new_tokens=9
    )
    assert written.shape[1] == criterion.length
    forced = model.generate(**inputs, group_size=1, logits_processor=[Only()], max_new_tokens=4)
    assert forced[:, begin:].eq(9).all()
    for choice in ({"stopping_criteria": [criterion]}, {"logits_processor": [Only()]}):
        with pytest.raises(UsageError, match="which sees one token at a time"):
            model.generate(**inputs, group_size=2, max_new_tokens=9, **choice)


@pytest.mark.parametrize("group_size", [1, 4])
def test_a_setting_of_nobody_is_refused_by_its_name(group_size, causal):
    # Guards: "max_new_token 9 sees one token at a time", for a slip of the pen.
    model, inputs = AutoModelForCausalLM.from_pretrained(causal), inputs_of(causal)
    with pytest.raises(ValueError, match=r"not used by the model: \['max_new_token'\]"):
        model.generate(**inputs, group_size=group_size, max_new_token=9)


@KINDS
def test_an_assistant_drafts_at_k1(kind, request):
    model, inputs = opened(kind, request)
    inputs = {name: tensor[:1, -2:] for name, tensor in inputs.items()}
    limit = {"max_new_tokens": 8, "do_sample": False}
    expected = model.generate(**inputs, group_size=1, **limit)
    assert model.generate(**inputs, group_size=1, assistant_model=model, **limit).equal(expected)
    with pytest.raises(UsageError, match="assistant_model, which sees one token"):
        model.generate(**inputs, group_size=2, assistant_model=model, **limit)


@KINDS
@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_end_and_padding_are_those_that_were_given(kind, group_size, request):
    # Guards: an end that is written on; padding of another token.
    model, inputs = opened(kind, request)
    begin = inputs["input_ids"].shape[1] if kind == "causal" else 1
    limit = {"max_new_tokens": 12, "group_size": group_size}
    free = model.generate(**inputs, **limit, eos_token_id=[])[:, begin:]
    end = int(free[0, 5])
    found = model.generate(**inputs, **limit, eos_token_id=end, pad_token_id=7)[:, begin:]
    listed = model.generate(**inputs, **limit, eos_token_id=[end, 2], pad_token_id=7)
    tensor = model.generate(**inputs, **limit, eos_token_id=torch.tensor([end, 2]), pad_token_id=7)
    assert tensor.equal(listed)
    for row, expected in zip(found.tolist(), free.tolist(), strict=True):
        kept = expected[: expected.index(end) + 1] if end in expected else expected
        assert row[: len(kept)] == kept[: len(row)]
        assert set(row[len(kept) :]) <= {7}
    assert listed[:, begin:].equal(found) or 2 in free


@KINDS
@pytest.mark.parametrize("group_size", [1, 4])
def test_padding_without_a_mask_is_told_by_its_token(kind, group_size, request):
    # Guards: sources whose padding was read as text.
    model, inputs = opened(kind, request)
    settings = {"max_new_tokens": 12, "group_size": group_size}
    expected = model.generate(**inputs, **settings)
    assert model.generate(inputs["input_ids"], **settings).equal(expected)


@KINDS
def test_time_ends_a_text(kind, request):
    model, inputs = opened(kind, request)
    inputs = {name: tensor[:1] for name, tensor in inputs.items()}
    begin = inputs["input_ids"].shape[1] if kind == "causal" else 1

    def slow(state):
        time.sleep(0.05)
        return slow.fixed(state)

    from multistride.decode.choosing.policy import fixed  # noqa: PLC0415

    slow.fixed = fixed(1)
    written = model.generate(**inputs, policy=slow, max_time=0.12, max_new_tokens=20)
    assert written.shape[1] - begin <= 4


@KINDS
def test_defaults_are_those_of_generation_config(kind, request, tmp_path):
    # Guards: `group_size` and `mode` of generation_config.json, which nothing read.
    model, inputs = opened(kind, request)
    limit = {"max_new_tokens": 12, "do_sample": False}
    single = model.generate(**inputs, group_size=1, **limit)
    groups = model.generate(**inputs, group_size=4, **limit)
    assert not groups.equal(single)
    assert model.generation_config.group_size == 4  # as `save_model` writes it
    assert model.generate(**inputs, **limit).equal(groups)
    model.generation_config.group_size = 1
    assert model.generate(**inputs, **limit).equal(single)
    model.generation_config.group_size, model.generation_config.mode = 4, "exact"
    model.generation_config.save_pretrained(tmp_path / "exact")
    read = GenerationConfig.from_pretrained(tmp_path / "exact")
    assert model.generate(**inputs, generation_config=read, **limit).equal(single)
    assert model.generate(**inputs, generation_config=read, mode="fast", **limit).equal(groups)


def test_groups_of_the_file_give_way_with_a_warning(translator, caplog):
    model = AutoModelForSeq2SeqLM.from_pretrained(translator)
    inputs = inputs_of(translator)
    with caplog.at_level(logging.WARNING):
        model.generate(**inputs, max_new_tokens=4, repetition_penalty=1.3)
    said = [record.getMessage() for record in caplog.records if "multistride" in record.name]
    assert said == [
        "generation_config.json asks for group_size 4, and repetition_penalty 1.3 needs one token "
        "at a time: generating with group_size 1"
    ]


def test_embeddings_of_a_prompt(causal):
    model = AutoModelForCausalLM.from_pretrained(causal)
    inputs = inputs_of(causal, SOURCES[:1])
    expected = model.generate(**inputs, group_size=1, max_new_tokens=6)
    vectors = model.get_input_embeddings()(inputs["input_ids"])
    found = model.generate(inputs_embeds=vectors, group_size=1, max_new_tokens=6)
    assert found.equal(expected[:, inputs["input_ids"].shape[1] :])
    with pytest.raises(UsageError, match="inputs_embeds, which sees one token at a time"):
        model.generate(inputs_embeds=vectors, group_size=2, max_new_tokens=6)


@KINDS
def test_a_dictionary_is_returned_with_groups(kind, request):
    model, inputs = opened(kind, request)
    limit = {"max_new_tokens": 6, "group_size": 2}
    found = model.generate(**inputs, return_dict_in_generate=True, **limit)
    assert found.sequences.equal(model.generate(**inputs, **limit))


@KINDS
def test_types_of_tokens_say_nothing(kind, request):
    # Guards: what tokenizers of older directories return, taken for a setting.
    model, inputs = opened(kind, request)
    types = {"token_type_ids": torch.zeros_like(inputs["input_ids"])}
    for group_size in (1, 4):
        limit = {"max_new_tokens": 6, "group_size": group_size}
        assert model.generate(**inputs, **types, **limit).equal(model.generate(**inputs, **limit))


def test_stop_strings_at_k1(causal):
    model = AutoModelForCausalLM.from_pretrained(causal)
    tokenizer = AutoTokenizer.from_pretrained(causal)
    inputs = inputs_of(causal, SOURCES[:1])
    free = model.generate(**inputs, group_size=1, max_new_tokens=12)
    stop = tokenizer.decode(free[0, -4])
    found = model.generate(
        **inputs, group_size=1, max_new_tokens=12, stop_strings=[stop], tokenizer=tokenizer
    )
    assert found.shape[1] <= free.shape[1]
    with pytest.raises(UsageError, match="stop_strings"):
        model.generate(
            **inputs, group_size=2, max_new_tokens=9, stop_strings=[stop], tokenizer=tokenizer
        )


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}], ids=["greedy", "beam"])
def test_positions_by_distance_have_a_cache_of_their_own(tmp_path, settings):
    # Guards: T5, whose every call of generate ended in an error about shapes.
    directory = directory_of(tmp_path, 2, positions="relative", dropout=0.0)
    model = AutoModelForSeq2SeqLM.from_pretrained(directory).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.7)
    inputs, limit = inputs_of(directory), {"max_new_tokens": 8, **settings}
    never = {"suppress_tokens": list(model.transformer.config.unpicked)}
    expected = model.generate(**inputs, custom_generate=None, **limit, **never)
    assert model.generate(**inputs, **limit, group_size=1).equal(expected)
    if not settings:
        assert model.generate(**inputs, **limit, group_size=4, mode="exact").equal(expected)


def test_a_model_made_of_a_configuration_writes_groups(translator):
    # Guards: what transformers notes of it for itself, taken for a choice.
    loaded = AutoModelForSeq2SeqLM.from_pretrained(translator)
    made = type(loaded)(loaded.config).eval()
    begin = {"decoder_start_token_id": made.transformer.config.start_token}
    given = {**inputs_of(translator), **begin, "max_new_tokens": 4}
    assert made.generate(**given, group_size=2).shape[1] > 1


def test_adaptive_mode_uses_the_calibration(tmp_path):
    # Guards: texts other than those of `multistride translate` with the same directory.
    place = tmp_path / "model"
    shutil.copytree(Path(shipped.__file__).parent / DEFAULT, place)
    asked = {"group_size": 8, "mode": "adaptive", "threshold": 0.3}
    text = "Could you please tell me where the next station is, and when the train leaves?"
    [expected] = Translator.load(place, engine="eager").translate([text], **asked)
    model = AutoModelForSeq2SeqLM.from_pretrained(place).float().eval()
    found = model.generate(**inputs_of(place, [text]), max_new_tokens=60, **asked)
    tokenizer = AutoTokenizer.from_pretrained(place)
    assert tokenizer.decode(found[0], skip_special_tokens=True) == expected.text
    model.save_pretrained(tmp_path / "again")
    [again] = Translator.load(tmp_path / "again", engine="eager").translate([text], **asked)
    assert again.tokens == expected.tokens
    assert len(again.trace) == len(expected.trace), "the calibration came along"
    with torch.no_grad():
        model.transformer.decoder_norm.weight.mul_(1.01)
    model.save_pretrained(tmp_path / "other")
    assert not (tmp_path / "other" / "calibration.json").exists(), "it is of other weights"
    (place / "calibration.json").unlink()
    [other] = Translator.load(place, engine="eager").translate([text], **asked)
    assert len(other.trace) != len(expected.trace), "the sentence tells one from the other"


def test_a_function_that_chooses_sizes_goes_with_no_beam(translator):
    # Guards: a policy that is accepted and never asked.
    model = AutoModelForSeq2SeqLM.from_pretrained(translator).eval()
    with pytest.raises(UsageError, match="a policy was given with a beam of 2"):
        model.generate(**inputs_of(translator), policy=fixed(2), num_beams=2, max_new_tokens=4)


FORCED = 40
"""A token that the models of these tests seldom begin with."""


def written_after(begin, rows, end, pad):
    """Return what follows `begin` tokens in each row, without EOS and padding."""
    texts = [row[begin:] for row in rows.tolist()]
    return [[token for token in row if token not in (end, pad)] for row in texts]


@pytest.fixture
def forced(tmp_path):
    """A translator whose texts begin with a forced token, as those of BART, mBART and NLLB."""
    return directory_of(tmp_path / "forced", 2, dropout=0.0, first_token=FORCED)


@pytest.mark.parametrize(
    "choices",
    [
        {"group_size": 1},
        {"group_size": 2},
        {"group_size": 4, "mode": "exact"},
        {"group_size": 4, "mode": "exact", "drafts": "text"},
        {"group_size": 1, "num_beams": 3},
        {"group_size": 4, "num_beams": 3},
    ],
    ids=str,
)
def test_groups_follow_a_forced_first_token(choices, forced):
    # Guards: a setting of our own generation_config.json that the user is told to leave out.
    model = AutoModelForSeq2SeqLM.from_pretrained(forced).eval()
    written = model.generate(**inputs_of(forced), max_new_tokens=12, **choices)
    names = {"num_beams": "beam"}
    asked = {names.get(name, name): value for name, value in choices.items()}
    ours = Translator.load(forced, engine="eager").translate(SOURCES, max_tokens=12, **asked)
    assert written_after(1, written, 2, 0) == [list(each.tokens) for each in ours]
    assert all(row[1] == FORCED for row in written.tolist())


@pytest.mark.parametrize("group_size", [1, 2])
def test_a_call_may_force_another_first_token(group_size, forced):
    # Guards: the language of a call (NLLB) that only one token at a time could follow.
    model, inputs = AutoModelForSeq2SeqLM.from_pretrained(forced).eval(), inputs_of(forced)
    choices = {"max_new_tokens": 8, "group_size": group_size}
    found = model.generate(**inputs, forced_bos_token_id=41, **choices)
    assert found[:, 1].eq(41).all()
    if group_size == 1:
        theirs = {"custom_generate": None, "suppress_tokens": [0, 1, 3], "max_new_tokens": 8}
        assert found.equal(model.generate(**inputs, forced_bos_token_id=41, **theirs))
    single = model.generate(**inputs, max_new_tokens=1, group_size=group_size)
    assert single.tolist() == [[1, FORCED]] * len(SOURCES)
    begun = torch.tensor([[1, 50]] * len(SOURCES))
    after = model.generate(**inputs, decoder_input_ids=begun, **choices)
    model.generation_config.forced_bos_token_id = None
    free = model.generate(**inputs, decoder_input_ids=begun, **choices)
    assert after.equal(free), "nothing is forced behind a beginning of one's own"
    assert not model.generate(**inputs, **choices)[:, 1].eq(FORCED).all()


def test_a_model_made_of_a_configuration_forces_its_first_token(forced):
    loaded = AutoModelForSeq2SeqLM.from_pretrained(forced)
    made = type(loaded)(loaded.config).eval()
    made.load_state_dict(loaded.state_dict())
    choices = {**inputs_of(forced), "max_new_tokens": 6, "group_size": 2}
    begin = made.transformer.config.start_token
    found = made.generate(**choices, decoder_start_token_id=begin)
    assert found.equal(loaded.generate(**choices))


@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_beams_of_causal_models_read_prompts(group_size, causal):
    # Guards: a search that was refused after a prompt, which every text of these models has.
    prompts = ["two", "a small dog", "one"]
    model = AutoModelForCausalLM.from_pretrained(causal).eval()
    inputs = inputs_of(causal, prompts, side="left")
    choices = {"num_beams": 3, "max_new_tokens": 8, "group_size": group_size}
    written = model.generate(**inputs, **choices)
    ours = Generator.load(causal, engine="eager")
    expected = ours.generate(prompts, group_size=group_size, beam=3, max_tokens=8)
    begin = inputs["input_ids"].shape[1]
    assert written_after(begin, written, 2, 0) == [list(each.tokens) for each in expected]
    assert written[:, :begin].equal(inputs["input_ids"])
    if group_size == 1:
        theirs = {"custom_generate": None, "suppress_tokens": [0, 1, 3]}
        assert written.equal(model.generate(**inputs, **{**choices, **theirs}))


@KINDS
def test_a_search_ends_at_the_ends_that_were_given(kind, request):
    model, inputs = opened(kind, request)
    begin = inputs["input_ids"].shape[1] if kind == "causal" else 1
    choices = {"num_beams": 2, "max_new_tokens": 10, "group_size": 2}
    free = model.generate(**inputs, **choices)
    end = int(free[0, begin + 2])
    found = model.generate(**inputs, **choices, eos_token_id=end, pad_token_id=7)
    for row in found[:, begin:].tolist():
        assert end not in row[:-1] or set(row[row.index(end) + 1 :]) <= {7}


def test_a_search_after_decoder_input_ids_is_transformers_own(translator):
    model, inputs = AutoModelForSeq2SeqLM.from_pretrained(translator).eval(), inputs_of(translator)
    begun = torch.tensor([[1, 50]] * len(SOURCES))
    choices = {**inputs, "decoder_input_ids": begun, "num_beams": 2, "max_new_tokens": 6}
    expected = model.generate(**choices, custom_generate=None, suppress_tokens=[0, 1, 3])
    assert model.generate(**choices, group_size=1).equal(expected)
    with pytest.raises(UsageError, match="given together with num_beams 2 with decoder_input_ids"):
        model.generate(**choices, group_size=2)
    alone = {**choices, "decoder_input_ids": begun[:, :1], "group_size": 2}
    without = {name: value for name, value in alone.items() if name != "decoder_input_ids"}
    assert model.generate(**alone).equal(model.generate(**without))


def test_a_draft_head_drafts(causal, tmp_path):
    # Guards: a head that lies in the directory, a message that it does not, a copy without it.
    model = AutoModelForCausalLM.from_pretrained(causal).eval()
    inputs, limit = inputs_of(causal, side="left"), {"max_new_tokens": 12}
    with pytest.raises(UsageError, match="the model's directory holds no draft head"):
        model.generate(**inputs, **limit, group_size=4, mode="exact", drafts="head")
    config = model.transformer.config
    save_file(head_tensors(config.vocabulary_size, config.hidden_size), causal / DRAFT_HEAD)
    model = AutoModelForCausalLM.from_pretrained(causal).eval()
    head, guessed = model.measured.head, []
    guess = head.guess
    head.guess = lambda *given: guessed.append(given) or guess(*given)
    expected = model.generate(**inputs, **limit, group_size=1)
    for choice in ({"drafts": "head"}, {}):
        guessed.clear()
        found = model.generate(**inputs, **limit, group_size=4, mode="exact", **choice)
        assert found.equal(expected)
        assert guessed
    model.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / DRAFT_HEAD).read_bytes() == (causal / DRAFT_HEAD).read_bytes()


@pytest.mark.parametrize(
    "choices",
    [{}, {"repetition_penalty": 1.3}, {"custom_generate": None}],
    ids=["ours", "theirs", "asked"],
)
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "given"])
def test_one_limit_is_not_called_two(choices, stored, causal, caplog):
    # Guards: transformers' warning of a max_length that nobody gave.
    model = AutoModelForCausalLM.from_pretrained(causal).eval()
    limit = {} if stored else {"max_new_tokens": 4}
    if stored:
        model.generation_config.max_new_tokens = 4
    logging.getLogger("transformers").addHandler(caplog.handler)
    inputs = inputs_of(causal, SOURCES[:1])
    written = model.generate(**inputs, **limit, **choices)
    logging.getLogger("transformers").removeHandler(caplog.handler)
    assert written.shape[1] <= inputs["input_ids"].shape[1] + 4
    assert "max_length" not in caplog.text


def test_a_configuration_alone_brings_no_warning_of_settings_beside_it(causal, caplog):
    model = AutoModelForCausalLM.from_pretrained(causal).eval()
    chosen = deepcopy(model.generation_config)
    chosen.max_length = 12
    logging.getLogger("transformers").addHandler(caplog.handler)
    written = model.generate(**inputs_of(causal, SOURCES[:1]), generation_config=chosen)
    logging.getLogger("transformers").removeHandler(caplog.handler)
    assert written.shape[1] <= 12
    assert (chosen.use_cache, caplog.text) == (model.generation_config.use_cache, "")
