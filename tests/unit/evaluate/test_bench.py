"""The arithmetic of a benchmark: turns, medians, ratios, bandwidth, gates, names."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.errors import DataError, GateError, MissingExtraError, UsageError, UserError
from multistride.evaluate.bench import contenders
from multistride.evaluate.bench.bandwidth import (
    bytes_per_weight,
    read_bandwidth,
    weights_per_batch,
    weights_per_step,
)
from multistride.evaluate.bench.contenders import baselines
from multistride.evaluate.bench.gate import Requirement, check_measured, check_met
from multistride.evaluate.bench.processes import Worker, environment
from multistride.evaluate.bench.rounds import Entry, Timed, batches_by_length, time_entries, turns
from multistride.evaluate.bench.rows import Conditions, rows_of
from multistride.evaluate.bench.workers import memory
from multistride.evaluate.bench.workers.loop import take_turn, written_at_one
from multistride.evaluate.bench.workers.messages import Answer, Ready, Sentence, Setup, Turn
from multistride.evaluate.bench.workers.own import open_own
from multistride.loading import load
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

SIZES = {
    "hidden_size": 16,
    "feedforward_size": 24,
    "heads": 2,
    "encoder_layers": 2,
    "decoder_layers": 3,
}
CONFIG = TransformerConfig(vocabulary_size=20, group_sizes=(1, 2), **SIZES)


class PretendWorker:
    """Writes the place of each sentence, and says that a batch took the milliseconds it was told
    to."""

    def __init__(self, engine, milliseconds, log=None, precision="float32"):
        self.ready = Ready(engine=engine, precision=precision, libraries_mb=100.0)
        self.milliseconds = iter(milliseconds)
        self.log = log if log is not None else []

    def take(self, turn):
        places = [place for batch in turn.batches for place in batch]
        self.log.append((self.ready.engine, places))
        sentences = tuple(Sentence(tokens=(place,), written=2, steps=2) for place in places)
        return Answer(
            milliseconds=tuple(next(self.milliseconds) for _ in turn.batches),
            sentences=sentences,
            peak_mb=150.0,
        )


class Words:
    def decode_all(self, sequences):
        return [" ".join(f"word{token}" for token in tokens) for tokens in sequences]


def entry(
    engine,
    milliseconds,
    log=None,
    own=False,
    ours=True,
    baseline=None,
    precision="float32",
    **options,
):
    worker = PretendWorker(engine, milliseconds, log, precision)
    return Entry(worker, DecodeOptions(**options), CONFIG, Words(), own, ours, baseline)


@given(some.lists(some.integers(0, 9), min_size=1, max_size=40), some.integers(1, 9))
def test_every_sentence_is_decoded_once(lengths, batch_size):
    # Guards: a sentence left out of a round, or timed twice.
    batches = batches_by_length(lengths, batch_size)
    parts = turns(batches)
    assert sorted(place for part in parts for batch in part for place in batch) == list(
        range(len(lengths))
    )
    assert [batch for part in parts for batch in part] == list(batches)
    assert all(sum(map(len, part)) >= 8 for part in parts[:-1])
    assert all(len(batch) == batch_size for batch in batches[:-1])
    along = [lengths[place] for batch in batches for place in batch]
    assert along == sorted(along)


def test_contenders_take_turns():
    # Guards: one contender measured after the other, so that a busy minute falls on one of them.
    log = []
    entries = [entry(name, [1.0] * 99, log) for name in ("a", "b", "c")]
    time_entries(entries, [1] * 24, 1, rounds=2)
    engines = [engine for engine, _ in log]
    assert engines[:3] == ["a", "b", "c"], "the warm-up"
    assert engines[3:12] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert engines[12:15] == ["b", "c", "a"], "the next round begins with another"
    assert len(log) == 3 + 2 * 3 * 3
    assert all(log[3 * turn][1] == log[3 * turn + 2][1] for turn in range(len(log) // 3)), (
        "not the same sentences"
    )


def test_ratios_by_hand():
    # Guards: the warm-up counted, a ratio upside down, means where medians were promised.
    slow = [9.0, 10.0, 10.0, 30.0]
    fast = [99.0, 5.0, 2.5, 6.0]
    entries = [
        entry("quick", fast, own=True, group_size=2),
        entry("slow", slow, ours=False, baseline="other"),
        entry("quick", [1.0, 8.0, 8.0, 8.0], baseline="own-k1"),
        entry("another", [1.0] * 4, baseline="own-k1"),
    ]
    timed = time_entries(entries, [3, 1, 2, 4], 4, rounds=3)
    conditions = Conditions("Some CPU", 1, 1e9, ["word0", "word1", "word2", "word3"], "none")
    [row], others = rows_of(timed, 4, conditions)
    assert row.ratio_to == {"other": 4.0, "own-k1": pytest.approx(8 / 5)}
    assert row.ratio_spread["other"] == (2.0, 5.0)
    assert row.ms_per_sentence == pytest.approx(5.0 / 4)
    assert row.ms_per_sentence_spread == (2.5 / 4, 6.0 / 4)
    assert row.tokens_per_second == pytest.approx(1000 * 8 / 5.0)
    assert (row.threads, row.cpu, row.engine, row.memory_peak_mb) == (1, "Some CPU", "quick", 150.0)
    assert row.identical_to_k1 == 1.0
    assert row.length_ratio == 1.0
    assert [(other.name, other.engine) for other in others] == [
        ("other", "slow"), ("own-k1", "quick"), ("own-k1", "another")
    ]  # fmt: skip


def test_no_quality_without_references():
    # Guards: a BLEU of 0 where nobody knows it.
    timed = time_entries([entry("quick", [1.0] * 2, own=True)], [1], 1, rounds=1)
    [row], _ = rows_of(timed, 1, Conditions("Some CPU", 1, 1e9, [], "13a"))
    assert (row.bleu, row.bleu_signature, row.length_ratio) == (None, None, None)


def test_weights_are_those_of_the_model():
    # Guards: a fraction of the bandwidth computed from matrices that a step does not read, or not
    # from all it does.
    model = Transformer(CONFIG)
    sizes = {
        name: parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.dim() == 2
    }
    once = sum(
        size for name, size in sizes.items() if name.startswith("encoder.") or "key_value" in name
    )
    step = sum(
        size
        for name, size in sizes.items()
        if name.startswith("decoder.") and "key_value" not in name
    )
    assert weights_per_batch(CONFIG) == once
    assert weights_per_step(CONFIG) == step + model.target_embedding.weight.numel()


def test_bandwidth_by_hand():
    # Guards: bits for bytes, milliseconds for seconds, passes of sentences added up that share a
    # batch.
    timed = time_entries(
        [entry("quick", [1.0, 1.0], own=True, precision="int8")], [1, 1], 2, rounds=1
    )
    [row], _ = rows_of(timed, 2, Conditions("Some CPU", 1, 1e9, [], "13a"))
    weights = 2 * weights_per_step(CONFIG) + weights_per_batch(CONFIG)
    assert row.bandwidth_fraction == pytest.approx(weights / 1e-3 / 1e9)
    assert (
        bytes_per_weight("bfloat16"),
        bytes_per_weight("int8_float32"),
        bytes_per_weight("ternary"),
    ) == (
        2,
        1,
        None,
    )


def test_read_bandwidth_leaves_threads_alone():
    # Guards: everything after the measurement running on other threads.
    before = torch.get_num_threads()
    assert read_bandwidth(1, rounds=1) > 1e6
    assert torch.get_num_threads() == before


def test_peak_memory_is_that_of_the_turn():
    # Guards: the memory of loading a model reported as that of running it.
    if memory.peak_mb() is None:
        pytest.skip("this system does not say how large a process is")
    large = bytearray(60_000_000)
    with_it = memory.peak_mb()
    del large
    memory.forget_peak()
    assert memory.peak_mb() < with_it - 30
    assert memory.peak_mb() >= memory.present_mb() - 1


def test_a_turn_is_timed_batch_by_batch():
    # Guards: sentences handed to the wrong batch.
    class Reverse:
        def write(self, sources, options):
            return [
                Sentence(tokens=tuple(reversed(source)), written=len(source), steps=1)
                for source in sources
            ]

    setup = Setup(model="nowhere", sources=((5, 6), (7,), (8, 9)))
    answer = take_turn(Reverse(), setup, Turn(batches=((2, 0), (1,)), options=DecodeOptions()))
    assert [sentence.tokens for sentence in answer.sentences] == [(9, 8), (6, 5), (7,)]
    assert len(answer.milliseconds) == 2


@pytest.mark.parametrize(
    ("tokens", "limit", "expected"),
    [
        ([5, 6, 2], 9, ((5, 6), 3)),
        ([5, 6, 7], 3, ((5, 6, 7), 3)),
        ([5, 6, 2], 2, ((5, 6), 2)),
        ([2], 1, ((), 1)),
    ],
)
def test_sentences_of_other_programs_keep_their_limit(tokens, limit, expected):
    # Guards: a baseline that is charged with tokens past a sentence's own limit, or EOS counted as
    # text.
    sentence = written_at_one(tokens, limit, 2)
    assert (sentence.tokens, sentence.written) == expected
    assert sentence.steps == sentence.written


def test_names_of_baselines():
    # Guards: a typo that measures nothing, and a baseline measured twice.
    assert baselines(["own-k1", "ctranslate2", "ctranslate2-int8"]) == (
        "own-k1", "ctranslate2-int8", "ctranslate2-float32"
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"'ctranslate'; allowed are own-k1, ctranslate2-int8"):
        baselines(["ctranslate"])


def test_missing_library_is_named(monkeypatch):
    # Guards: minutes of measuring before an ImportError.
    monkeypatch.setattr(contenders, "installed", lambda package: False)
    with pytest.raises(
        MissingExtraError, match=r"transformers-float32 .* pip install 'multistride\[bench\]'"
    ):
        baselines(["own-k1", "transformers-float32"])


def test_requirements():
    # Guards: a gate that no row has to pass, or that the wrong row has to.
    requirement = Requirement.parsed("k=4, batch=1, ctranslate2-int8 >= 2.5")
    assert (requirement.group_size, requirement.batch_size, requirement.ratio) == (4, 1, 2.5)
    for wrong in (
        "ctranslate2-int8",
        "k=4,>=2",
        "k=four,own-k1>=2",
        "beam=2,own-k1>=2",
        "own-k1>=fast",
        "own-k1>=nan",
        "own-k1>=inf",
        "k=2,k=4,own-k1>=1",
    ):
        with pytest.raises(UsageError, match="it takes"):
            Requirement.parsed(wrong)
    check_measured([requirement], ["ctranslate2-int8"], [1, 4], [1], ["fast"])
    with pytest.raises(UsageError, match="names k 4, which is not measured; measured are 1, 2"):
        check_measured([requirement], ["ctranslate2-int8"], [1, 2], [1], ["fast"])
    with pytest.raises(
        UsageError, match="names the baseline ctranslate2-int8, which is not measured"
    ):
        check_measured([requirement], ["own-k1"], [1, 4], [1], ["fast"])


def test_the_gate_names_the_worst_row():
    # Guards: a gate that passes because some row is fast enough, and a failure without the machine
    # it was seen on.
    def row(group_size, ratio):
        facts = {
            "mode": "fast",
            "engine": "quick",
            "threads": 1,
            "cpu": "Some CPU",
            "batch_size": 1,
        }
        return SimpleNamespace(group_size=group_size, ratio_to={"own-k1": ratio}, **facts)

    result = SimpleNamespace(rows=[row(1, 1.0), row(2, 1.8), row(4, 1.6)])
    check_met([Requirement.parsed("k=2,own-k1>=1.8")], result)
    with pytest.raises(
        GateError, match=r"measured 1\.00 \(K=1, batch 1, mode fast, engine quick, 1 thread"
    ) as caught:
        check_met([Requirement.parsed("own-k1>=1.5")], result)
    assert caught.value.exit_code == 5


def test_threads_of_a_worker():
    # Guards: a library that takes all cores whatever was asked, and the trap of sleeping threads.
    assert environment(1)["OMP_NUM_THREADS"] == environment(1)["MKL_NUM_THREADS"] == "1"
    assert environment(2)["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "OMP_WAIT_POLICY" not in environment(1)


def test_what_a_worker_raises_is_raised_here(tmp_path):
    # Guards: a worker's error lost, or turned into another exit code; a worker that ends without a
    # word.
    with pytest.raises(DataError, match="no model directory"):
        Worker("own", Setup(model=tmp_path, sources=()))
    with pytest.raises(UserError, match="ended with code 1"):
        Worker("nobody", Setup(model=tmp_path, sources=()))


def test_timed_is_by_place():
    # Guards: outputs compared with the wrong references, as batches are in order of length.
    [timed] = time_entries([entry("quick", [1.0] * 9)], [5, 1, 3], 1, rounds=1)
    assert isinstance(timed, Timed)
    assert timed.batches == ((1,), (2,), (0,))
    assert [sentence.tokens for sentence in timed.sentences] == [(0,), (1,), (2,)]


def test_adaptive_mode_is_measured_as_it_is_used(tmp_path):
    # Guards: a benchmark that leaves the calibration out, and measures other texts.
    model = load()
    text = "Could you please tell me where the next station is, and when the train leaves?"
    [tokens] = model.encode([text])
    setup = Setup(model=model.directory, sources=(tuple(tokens),), engine="eager")
    options = DecodeOptions(group_size=8, mode="adaptive", threshold=0.3)
    [found] = open_own(setup).write([tokens], options)
    [expected] = model.translate([text], group_size=8, mode="adaptive", threshold=0.3)
    assert found.steps == len(expected.trace)
    [plain] = decode_corpus(model.engine, [tokens], options)
    assert found.steps < plain.steps, "the sentence tells calibrated probabilities from others"
