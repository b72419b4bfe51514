"""Averages of weights against the same arithmetic done by hand."""

import pytest
import torch

from multistride.data.vocab import train_vocabulary
from multistride.errors import DataError, UsageError
from multistride.model.directory import load_provenance
from multistride.model.weights import load_model, save_model
from multistride.train.average import MovingAverage, average_models, newest_checkpoints


def walk(model, average, updates):
    """Move all weights a little, update by update; returns the values of one of them, the first
    included."""
    weight = model.decoder_norm.weight
    path = [weight.detach().clone()]
    for update in updates:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
        average.take(update)
        path.append(weight.detach().clone())
    return path


def test_a_moving_average_is_the_weighted_sum(tiny):
    # Guards: an average of the wrong weights, or one that never leaves the first ones.
    model = tiny()
    average = MovingAverage(model, 0.5)
    path = walk(model, average, range(1, 60))
    expected = path[0]
    for update, weights in enumerate(path[1:], start=1):
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * weights
    with average.in_place():
        torch.testing.assert_close(model.decoder_norm.weight.detach(), expected)
    assert torch.equal(model.decoder_norm.weight, path[-1])


def test_training_goes_on_from_its_own_weights(tiny):
    # Guards: an error in a validation that leaves the averaged weights in training, and a resumed
    # run that does.
    model = tiny()
    average = MovingAverage(model, 0.9)
    walk(model, average, range(1, 4))
    trained = {name: weights.detach().clone() for name, weights in model.named_parameters()}
    with pytest.raises(ValueError, match="in validation"), average.in_place():
        raise ValueError("in validation")
    with average.in_place():
        resumed, kept = (
            tiny(seed=2),
            {name: weights.clone() for name, weights in average.other.items()},
        )
        resumed.load_state_dict(model.state_dict())
    again = MovingAverage(resumed, 0.9)
    again.train_on(kept)
    for (name, weights), (_, other) in zip(
        model.named_parameters(), resumed.named_parameters(), strict=True
    ):
        assert torch.equal(weights, trained[name])
        assert torch.equal(weights, other)
        assert torch.equal(average.other[name], again.other[name])


@pytest.fixture
def save(tiny, tmp_path):
    vocabulary = train_vocabulary(["a b c d e f g h i j k l m n"], 19, "words")

    def write(name, seed, **changes):
        model = tiny(seed, vocabulary_size=len(vocabulary), **changes)
        save_model(tmp_path / name, model, vocabulary, {"seed": seed}, "# A model\n")
        return tmp_path / name

    return write


def test_the_mean_of_checkpoints(save, tmp_path):
    # Guards: a sum, a mean of two at a time, or an origin that is forgotten.
    places = [save(f"checkpoints/step_{seed}", seed) for seed in (1, 2, 10)]
    average_models(newest_checkpoints(tmp_path, 3), tmp_path / "mean")
    mean, parts = load_model(tmp_path / "mean")[0], [load_model(place)[0] for place in places]
    for name, weights in mean.state_dict().items():
        expected = torch.stack([part.state_dict()[name] for part in parts]).mean(0)
        torch.testing.assert_close(weights, expected)
    assert load_provenance(tmp_path / "mean")["average_of"] == [str(place) for place in places]


def test_a_default_of_decoding_is_that_of_the_last(save, tmp_path):
    # Guards: a run that cannot be averaged with the model it began from, for a default of decoding.
    one, other = save("one", 1), save("other", 2, group_beam=2)
    for places, beam in (([one, other], 2), ([other, one], 1)):
        average_models(places, tmp_path / "mean")
        assert load_model(tmp_path / "mean")[0].config.group_beam == beam


def test_what_cannot_be_averaged(save, tmp_path):
    # Guards: a mean of different models, which would load and write nonsense.
    one, other = save("checkpoints/step_1", 1), save("checkpoints/step_2", 2, heads=4)
    with pytest.raises(
        DataError, match=r"differ \(heads is 2 and 4\): average the models of one run"
    ):
        average_models([one, other], tmp_path / "mean")
    with pytest.raises(UsageError, match="1 model directory was given, an average needs 2"):
        average_models([one], tmp_path / "mean")
    with pytest.raises(DataError, match="holds 2 checkpoints, 5 were asked for"):
        newest_checkpoints(tmp_path, 5)
    assert not (tmp_path / "mean").exists()


def test_an_output_that_holds_what_is_averaged_is_refused(save, tmp_path):
    # Guards: `average RUN --last 2 --output RUN` deleting the run; a thesis deleted beside it.
    save(tmp_path / "checkpoints/step_1", 1.0)
    save(tmp_path / "checkpoints/step_2", 2.0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("x")
    checkpoints = newest_checkpoints(tmp_path, 2)
    for place in (tmp_path, tmp_path / "checkpoints", checkpoints[0], tmp_path / "other"):
        with pytest.raises(UsageError, match="name another"):
            average_models(checkpoints, place)
    assert newest_checkpoints(tmp_path, 2) == checkpoints
    assert (tmp_path / "other" / "thesis.txt").read_text() == "x"


def test_a_model_without_a_card_is_averaged(tiny, tmp_path):
    # Guards: a file that every other reader can do without.
    vocabulary = train_vocabulary(["a b c"] * 3, 300, "bpe")
    for name in ("one", "two"):
        save_model(tmp_path / name, tiny(vocabulary_size=len(vocabulary)), vocabulary, {}, "card")
        (tmp_path / name / "README.md").unlink()
    average_models([tmp_path / "one", tmp_path / "two"], tmp_path / "mean")
    assert "The weights are the mean of" in (tmp_path / "mean" / "README.md").read_text()


def test_a_model_named_twice_weighs_twice(save, tmp_path):
    # Guards: names taken as a set, which would make two thirds and one third to halves.
    places = [save(name, seed) for seed, name in enumerate(("one", "two"), start=1)]
    average_models([places[0], *places], tmp_path / "mean")
    mean, (one, two) = load_model(tmp_path / "mean")[0], (load_model(each)[0] for each in places)
    for name, weights in mean.state_dict().items():
        expected = (2 * one.state_dict()[name] + two.state_dict()[name]) / 3
        torch.testing.assert_close(weights, expected)
