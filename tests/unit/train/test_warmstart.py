"""What a run begins with when it starts from another model."""

import pytest
import torch

from multistride.data.vocab import train_vocabulary
from multistride.data.vocabulary_files import load_vocabulary
from multistride.errors import DataError, UsageError
from multistride.model.weights import load_model, save_model
from multistride.shipped import DEFAULT
from multistride.train.config import GroupsConfig, RunConfig
from multistride.train.warmstart import first_model


@pytest.fixture
def vocabulary():
    return train_vocabulary(["a b c d e f g h i j k l m n"], 19, "words")


@pytest.fixture
def start(tiny, vocabulary, tmp_path):
    """Writes a model whose reach embeddings are trained, and returns its directory."""

    def write(**changes):
        model = tiny(vocabulary_size=len(vocabulary), **changes)
        torch.nn.init.normal_(model.reach.beyond_one.weight)
        save_model(tmp_path / "start", model, vocabulary, {}, "# A model\n")
        return tmp_path / "start"

    return write


def run_config(place, tmp_path, **groups):
    return RunConfig(
        data=tmp_path / "data",
        run=tmp_path / "run",
        start_from=place,
        groups=GroupsConfig(**groups),
    )


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_all_weights_are_inherited(start, vocabulary, tmp_path, positions):
    # Guards: a decoder, a norm or a reach embedding that begins anew, and a larger table that loses
    # the old one.
    place = start(positions=positions)
    model = first_model(
        run_config(place, tmp_path, sizes={1: 1.0, 2: 1.0, 6: 1.0}, markov_rank=3), vocabulary
    )
    old, new = load_model(place)[0].state_dict(), model.state_dict()
    assert new.keys() - old.keys() == {"markov.previous.weight", "markov.following"}
    for name, weights in old.items():
        assert torch.equal(new[name][: len(weights)], weights), name
    assert (new["reach.beyond_one.weight"][4:] == 0).all()
    assert (new["markov.following"] == 0).all()
    assert (model.config.group_sizes, model.config.max_group_size, model.config.markov_rank) == (
        (1, 2, 6),
        6,
        3,
    )


def test_a_markov_head_is_kept(start, vocabulary, tmp_path):
    # Guards: a head that the next stage of training drops, or cuts to another rank.
    place = start(markov_rank=3)
    kept = first_model(run_config(place, tmp_path), vocabulary)
    assert torch.equal(kept.markov.previous.weight, load_model(place)[0].markov.previous.weight)
    with pytest.raises(
        UsageError,
        match=r"groups\.markov_rank is 4, that of .* is 3: leave it out or name the same",
    ):
        first_model(run_config(place, tmp_path, markov_rank=4), vocabulary)


def test_what_a_run_cannot_start_from(start, vocabulary, tmp_path):
    # Guards: embeddings of other words, and groups no sentence has room for.
    other = train_vocabulary(["o p q r s t u v w x y z 1 2"], 19, "words")
    with pytest.raises(DataError, match="was trained with another vocabulary"):
        first_model(run_config(start(), tmp_path), other)
    with pytest.raises(UsageError, match="names K=300; the model writes at most 256 tokens"):
        first_model(run_config(start(), tmp_path, sizes={300: 1.0}), vocabulary)


def test_sizes_that_the_data_decides_are_not_silently_others(tmp_path, vocabulary):
    # Guards: model.vocabulary_size, which was replaced by that of the data without a word.
    shape = {"hidden_size": 8, "heads": 2, "feedforward_size": 8, "vocabulary_size": 5}
    config = RunConfig(data=tmp_path, run=tmp_path, model=shape, groups=GroupsConfig())
    with pytest.raises(UsageError, match=r"vocabulary_size is 5, and the data makes it 1\d"):
        first_model(config, vocabulary)


def test_what_a_configuration_asks_for_in_vain_is_one_line(start, vocabulary, tmp_path):
    # Guards: a traceback of pydantic; a largest group size that is replaced without a word.
    shape = {"hidden_size": 8, "heads": 2, "feedforward_size": 8, "max_group_size": 8}
    sizes = GroupsConfig(sizes={1: 0.5, 16: 0.5})
    config = RunConfig(data=tmp_path, run=tmp_path, model=shape, groups=sizes)
    with pytest.raises(UsageError, match=r"names K=16, and model\.max_group_size is 8"):
        first_model(config, vocabulary)
    place = start(encoder_layers=0)
    deep = {"rank": 4, "layers": 5}
    drafts = GroupsConfig(sizes={2: 1.0}, lookahead=1.0)
    config = RunConfig(data=tmp_path, run=tmp_path, start_from=place, adapter=deep, groups=drafts)
    with pytest.raises(UsageError, match=r"adapter\.layers is 5; adapters are for causal models"):
        first_model(config, vocabulary, causal=True)


def test_a_model_that_ships_is_started_from_by_its_name(tmp_path):
    # Guards: a recipe that only runs beside the source, where the package's models lie.
    names = {"start_from": "english-german", "groups": GroupsConfig(sizes={1: 1.0})}
    config = RunConfig(data=tmp_path / "data", run=tmp_path / "run", **names)
    model = first_model(config, load_vocabulary(DEFAULT))
    [shipped, _] = load_model(DEFAULT)
    assert torch.equal(model.target_embedding.weight, shipped.target_embedding.weight)
