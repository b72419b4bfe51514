"""The model that ships: there whole, small, with its notices, and worth trying out."""

import copy
import json
import pickle
import re
from pathlib import Path

import pytest

import multistride
from multistride.data.pieces import GROUP_BAR, group_texts
from multistride.decode.draft_head import DraftHead
from multistride.decode.options import DecodeOptions
from multistride.decode.phrases import PhraseTable
from multistride.errors import UsageError, UserError
from multistride.generator import Generator
from multistride.shipped import DEFAULT, directory, names, origins
from multistride.tasks.sentences import SentenceTranslator
from multistride.text_model import MOST_PLANS
from multistride.translator import Translator

SENTENCES = {
    "Where is the station?": "Wo ist der Bahnhof?",
    "My sister works in a hospital.": "Meine Schwester arbeitet im Krankenhaus.",
    "The file could not be opened.": "Die Datei konnte nicht geöffnet werden.",
    "I do not know.": "Ich weiß es nicht.",
}


@pytest.fixture(scope="module")
def model():
    return multistride.load()


@pytest.fixture(scope="module")
def reference():
    return multistride.load(engine="eager")


def test_objects_show_themselves_in_one_line(model):
    # Guards: an address in memory, or pages of settings, where someone looks at what he has.
    shape = "4 encoder + 4 decoder layers of width 256, 8,000 tokens, K=1,2,4,6,8"
    assert repr(model) == f"Translator(english-german: {shape}, engine {model.engine.name})"
    assert repr(model.vocabulary) == "Vocabulary(8,000 tokens)"
    plan = model.plan(4, "adaptive", threshold=0.25)
    options = "DecodeOptions(group_size=4, mode='adaptive', threshold=0.25)"
    assert repr(plan) == f"Plan(options={options}, layout='lookahead', drafts='masks')"
    assert eval(options, {"DecodeOptions": DecodeOptions}) == plan.options
    short, long = model.translate(["Where is the station?", "a " * 300], 4)
    steps = len(short.trace)
    assert repr(short) == (
        f"Translation('Wo ist der Bahnhof?', {len(short.tokens)} tokens in {steps} steps, "
        "ending='end')"
    )
    assert repr(long) == f"Translation(problem={long.problem!r})"


def test_the_card_names_licences_and_attribution():
    card = (DEFAULT / "README.md").read_text(encoding="utf-8")
    for named in (
        "CC BY 2.0 FR",
        "www.manythings.org/anki and tatoeba.org",
        "CC0",
        "Apache-2.0",
        "BSD-3-Clause",
    ):
        assert named in card
    assert {path.name for path in DEFAULT.glob("LICENSE.*")} == {
        "LICENSE.django",
        "LICENSE.homeassistant.md",
    }


def test_it_is_small_enough_to_ship():
    assert sum(path.stat().st_size for path in DEFAULT.iterdir()) < 25e6


@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_it_translates_plain_sentences(model, group_size):
    # Guards: weights that do not fit the vocabulary or the code, which a test of shapes alone would
    # let pass.
    written = [each.text for each in model.translate(list(SENTENCES), group_size=group_size)]
    right = sum(text == wanted for text, wanted in zip(written, SENTENCES.values(), strict=True))
    assert right >= 3, written


def test_the_readme_shows_what_it_writes(model):
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    command = re.search(
        r'echo "(.+)" \| multistride translate --group-size (\d+) --show-groups\n(.+)\n', page
    )
    source, group_size, shown = command.groups()
    [result] = model.translate([source], group_size=int(group_size))
    assert (
        GROUP_BAR.join(
            group_texts([model.vocabulary.pieces(group.tokens) for group in result.trace])
        )
        == shown
    )


def test_exact_mode_writes_what_k1_writes(model):
    sources = [
        *SENTENCES,
        "I have never seen such a beautiful garden.",
        "What time does the train leave tomorrow?",
    ]
    checked = model.translate(sources, group_size=4, mode="exact")
    assert [each.tokens for each in checked] == [each.tokens for each in model.translate(sources)]


@pytest.mark.parametrize(
    ("source", "choices"),
    [
        ("Where is the station?", {"min_tokens": 8}),
        ("Where is the station?", {"max_tokens": 4}),
        ("I have never seen such a beautiful garden.", {"prefix": "So einen"}),
        ("I have never seen such a beautiful garden.", {"banned": ["so"]}),
        ("He ran and ran until he could not run any more.", {"group_size": 4}),
        (
            "He ran and ran until he could not run any more.",
            {"group_size": 4, "no_repeat_ngram": 1},
        ),
        ("I have never seen such a beautiful garden.", {"stop": [" so"]}),
    ],
    ids=str,
)
def test_the_page_on_decoding_shows_what_constraints_write(reference, source, choices):
    # By the reference: in 8 bits a text that is forced to go on differs from CPU to CPU.
    page = (Path(__file__).parents[2] / "docs/decoding.md").read_text(encoding="utf-8")
    [result] = reference.translate([source], **choices)
    shown = [
        line.split("    ")[-1].strip()
        for line in page.splitlines()
        if line.startswith(("--", "K="))
    ]
    assert result.text in shown


def test_a_model_that_ships_has_a_name_and_a_path_comes_first(tmp_path, monkeypatch):
    # Guards: `--model NAME` that hides a directory of one's own with that name.
    assert directory(None) == directory("english-german") == DEFAULT
    assert directory(tmp_path) == tmp_path
    assert str(directory("no-such-model")) == "no-such-model"
    assert "english-german" in names()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "english-german").mkdir()
    assert directory("english-german").resolve() == tmp_path / "english-german"


PHONEMES = {
    "station": "S T EY1 SH AH0 N",
    "garden": "G AA1 R D AH0 N",
    "window": "W IH1 N D OW0",
    "yellow": "Y EH1 L OW0",
    "kitchen": "K IH1 CH AH0 N",
    "market": "M AA1 R K AH0 T",
    "letter": "L EH1 T ER0",
    "number": "N AH1 M B ER0",
    "winter": "W IH1 N T ER0",
    "thunder": "TH AH1 N D ER0",
}


@pytest.fixture(scope="module")
def phonemes():
    return multistride.load("english-phonemes")


def test_the_models_that_ship_are_listed_and_small():
    assert names() == ["english-german", "english-phonemes"]
    sizes = {name: (directory(name) / "model.safetensors").stat().st_size for name in names()}
    assert sizes["english-german"] < 21e6
    assert sizes["english-phonemes"] < 5.1e6
    card = (directory("english-phonemes") / "README.md").read_text(encoding="utf-8")
    assert "Carnegie Mellon University" in card
    assert (directory("english-phonemes") / "LICENSE.cmudict").is_file()


@pytest.mark.parametrize("group_size", [1, 4])
def test_it_pronounces_plain_words(phonemes, group_size):
    # Guards: weights that do not fit the vocabulary or the code.
    written = [each.text for each in phonemes.translate(list(PHONEMES), group_size=group_size)]
    right = sum(text == wanted for text, wanted in zip(written, PHONEMES.values(), strict=True))
    assert right >= 8, written


def test_words_are_read_however_they_are_written(phonemes):
    # Guards: a tokenizer that takes letters with blanks only, or capitals for phonemes.
    ways = ["semicolon", "Semicolon", "SEMICOLON", "s e m i c o l o n"]
    assert len({tuple(tokens) for tokens in phonemes.vocabulary.encode(ways)}) == 1
    assert phonemes.vocabulary.unknown not in phonemes.vocabulary.encode(["O'Brien", "a-b.c."])[1]
    spelled = "S EH1 M IY0 K OW2 L AH0 N"
    assert phonemes.vocabulary.decode(phonemes.vocabulary.encode([spelled])[0]) == spelled


def test_the_drafts_that_ship_are_small_and_fit_the_model_they_are_for():
    [origin] = origins()
    assert origin.name == "smollm2"
    assert sum(path.stat().st_size for path in origin.drafts()) < 10e6
    assert DraftHead.load(origin.directory, 576, 49_153) is not None
    assert PhraseTable.load(origin.directory, 49_153) is not None
    card = (origin.directory / "README.md").read_text(encoding="utf-8")
    for named in ("CC BY-SA 4.0", "CC BY 2.0 FR", "CC BY 3.0", "Apache-2.0", *origin.commands):
        assert named in card


def test_provenance_names_no_machine():
    # Guards: paths of the machine that trained a model, in what ships.
    for place in (*map(directory, names()), *(origin.directory for origin in origins())):
        provenance = json.loads((place / "provenance.json").read_text(encoding="utf-8"))
        assert "/root" not in str(provenance)
        assert "/work" not in str(provenance)


def test_texts_in_python(model):
    # Guards: one string taken for a list of its letters, an iterator of texts, and a traceback.
    assert [each.text for each in model.translate(iter(SENTENCES), group_size=1)]
    with pytest.raises(UserError, match="a text of type int was given: give one string"):
        model.stream(5)
    with pytest.raises(UserError, match=r"no model of that name ships \(there is english-german"):
        multistride.load("english-germn")
    for wrong, said in (
        ("Hello.", r"\[text\]"),
        (["Hello.", None], "text 1 is of type None"),
        (None, r"None was given, a list of texts is expected"),
    ):
        with pytest.raises(UserError, match=said):
            model.translate(wrong)
    for wrong, said in (
        ([("Hello.", "Hallo."), "Hello."], "pair 1 is no pair of texts"),
        ([("Hello.", None)], "pair 0 holds str and NoneType: give two texts"),
        ([(1, 2)], "pair 0 holds int and int"),
        ([5], "pair 0 is no pair of texts"),
        (None, "None was given, a list of pairs is expected"),
        ("Hello.", "a list of pairs is expected"),
        ([("Hello.", b"Hallo.")], "pair 0 holds str and bytes"),
        (
            [("Hello.", [5]), ("No.", [8000])],
            r"pair 1 holds the token 8000; this model has 0 to 79",
        ),
        ([("Hello.", [-1])], "pair 0 holds the token -1"),
        ([("Hello.", ["x"])], "pair 0 holds the token 'x'"),
        ([("Hello.", [2.0])], "pair 0 holds the token 2.0"),
    ):
        with pytest.raises(UserError, match=said):
            model.score(wrong)
    for size in ("auto", 2.5, None):
        with pytest.raises(UserError, match="group_size: Input should be a valid integer"):
            model.score([("Hello.", "Hallo.")], group_size=size)
    pair = [("Hello.", "Hallo.")]
    assert model.score(pair, "2") == model.score(pair, 2.0) == model.score(pair, 2)
    for wrong in (5, ""):
        with pytest.raises(UserError, match="was given as a model: give the path of a model"):
            multistride.load(wrong)
    for wrong in (None, 3):
        with pytest.raises(UserError, match=f"device {wrong} was asked for; allowed are auto, cpu"):
            multistride.load(device=wrong)
    with pytest.raises(UserError, match="no causal model ships with the package: give the direct"):
        Generator.load()
    with pytest.raises(UserError, match="it translates: use translate"):
        model.generate(["Hello."])
    with pytest.raises(UserError, match="this model has no chat template: generate without chat"):
        model.chatting()
    with pytest.raises(
        UserError, match=r"one text was given, several are expected: write \['\.'\]"
    ):
        model.plan(1, stop=".")


def test_what_is_refused_is_refused_before_steps_are_timed(model, monkeypatch):
    # Guards: half a minute of measuring for a combination that nothing takes.
    monkeypatch.setattr(
        "multistride.text_model.cached_costs", lambda *_: pytest.fail("steps were timed")
    )
    with pytest.raises(UsageError, match="drafts all-masks was given, and mode adaptive has none"):
        model.plan(4, "adaptive", policy="cost-model", drafts="all-masks")


def test_what_is_planned_takes_what_is_not(model, phonemes):
    # Guards: letters translated one by one, tracebacks, and a text in the tokens of another model.
    plan = model.plan()
    written = [each.text for each in model.written((text for text in SENTENCES), plan)]
    assert written == [each.text for each in model.translate(SENTENCES)]
    for form in (model, SentenceTranslator(model)):
        for wrong, said in (
            ("No.", r"\[text\]"),
            ([3], "text 0 is of type int"),
            (None, "None was"),
        ):
            with pytest.raises(UsageError, match=said):
                form.written(wrong, plan)
    for lines in (["No."], "No.", b"No."):
        with pytest.raises(UsageError, match=r"a line of type (str|int) was given: give bytes of"):
            list(model.translate_lines(lines, plan))
    with pytest.raises(UsageError, match="a buffer of 0 lines was given"):
        list(model.translate_lines([b"No."], plan, buffer=0))
    other = "the plan is of another model .* 8,000 tokens.*: call the method plan of this model"
    for asked in (
        lambda: phonemes.written(["no"], plan),
        lambda: phonemes.streamed("no", plan),
        lambda: list(phonemes.translate_lines([b"no"], plan)),
    ):
        with pytest.raises(UsageError, match=other):
            asked()
    with pytest.raises(UsageError, match="a plan of type DecodeOptions was given"):
        model.written(["No."], DecodeOptions())


def test_switches_of_the_library_are_no_options(model):
    # Guards: an option that is taken and does nothing; a beam that is streamed as if it were none.
    for verb in (
        lambda: model.translate(["No."], streaming=True),
        lambda: model.stream("No.", streaming=True),
        lambda: model.stream("No.", chat=True),
    ):
        with pytest.raises(
            UsageError, match=r"unknown key '(streaming|chat)'; known here: banned,"
        ):
            verb()
    with pytest.raises(UsageError, match="beam 3 was asked for, and its best text is known only"):
        model.streamed("No.", model.plan(beam=3))


def test_plans_are_remembered_and_do_not_pile_up():
    # Guards: an entry for every seed, banned text or prefix as long as a program runs.
    model = multistride.load()
    first = model.plan(4, "exact", temperature=0.5, seed=1, batch_size=2, drafts="text")
    for seed in range(2 * MOST_PLANS):
        other = model.plan(4, "exact", temperature=0.5, seed=seed, drafts="text", batch_size=3)
        assert (other.options.seed, other.options.batch_size) == (seed, 3)
        assert other.economy is first.economy
        assert other.rules is first.rules
    for number in range(2 * MOST_PLANS):
        model.plan(banned=[f"word {number}"])
    assert len(model._known._plans) == MOST_PLANS
    assert SentenceTranslator(model).measured is model.measured


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_opened_again(model, copied):
    # Guards: an error of a library, from deep inside an engine.
    again = copied(model)
    assert type(again) is Translator
    assert again.engine is not model.engine
    assert again.translate(["No."], 4) == model.translate(["No."], 4)
    for other in (SentenceTranslator(model), Translator(model.engine, model.vocabulary)):
        with pytest.raises(UsageError, match="cannot be copied or pickled: open it with multistri"):
            copied(other)


def test_what_stands_around_a_text_changes_nothing():
    # Guards: "Danke. Das Kapitel über die" for a line that kept its end; no model saw such a text.
    around = ["{}", "{}\n", "{}\r\n", "{}\t", "  {}", "\ufeff{}", "\n{}\n\n"]
    model = multistride.load()
    for size in (1, 4):
        texts = model.translate([each.format("Thank you.") for each in around], group_size=size)
        assert len({each.text for each in texts}) == 1
    [streamed] = ["".join(group.text for group in model.stream("Thank you.\n"))]
    assert streamed == model.translate(["Thank you."])[0].text
