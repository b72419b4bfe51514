"""What a training run accepts, and the one line for what it does not."""

import pytest
from pydantic import ValidationError

from multistride.config import read_config
from multistride.errors import UsageError
from multistride.train.config import GroupsConfig, RunConfig

BASE = "data: prepared\nrun: runs/one\n"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "train.yaml"


def read(path, text="", *settings):
    path.write_text(BASE + text)
    return read_config(path, RunConfig, settings)


def refusal(path, text="", *settings):
    with pytest.raises(UsageError) as caught:
        read(path, text, *settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_smallest_configuration_is_autoregressive(path):
    # Guards: defaults that train groups nobody asked for.
    config = read(path)
    assert config.groups.sizes == {1: 1.0}
    assert config.groups.random_borders == 0
    assert config.model is None
    assert config.start_from is None


def test_group_sizes_come_in_order(path):
    # Guards: reports and checkpoints whose order depends on how the YAML was written.
    assert list(read(path, "groups: {sizes: {8: 1, 1: 2, 4: 0.5}}\n").groups.sizes.items()) == [
        (1, 2.0),
        (4, 0.5),
        (8, 1.0),
    ]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("0", "each group size must be at least 1"),
        ("-1", "each group size must be at least 1"),
        ("four", "groups.sizes.four"),
        ("2.5", "groups.sizes.2.5"),
        ("true", "stands twice"),  # in Python True is 1
        ("null", "groups.sizes.None"),
        ("[1]", "is not YAML"),
    ],
)
def test_group_sizes_that_are_none(path, size, expected):
    # Guards: a K that fails deep inside the first update, or trains something else.
    message = refusal(path, f"groups: {{sizes: {{1: 1.0, {size}: 1.0}}}}\n")
    assert expected in message
    assert str(path) in message


def test_a_switch_is_no_group_size(path):
    # Guards: `true`, which is an integer to Python, read as K=1.
    assert "groups.sizes: a number belongs here" in refusal(path, "groups: {sizes: {true: 1.0}}\n")


@pytest.mark.parametrize("size", ["0", "-1", "four"])
def test_group_sizes_that_are_none_by_set(path, size):
    # Guards: --set as a way around the checks of the file.
    assert "groups.sizes" in refusal(path, "", f"groups.sizes={{{size}: 1.0}}")
    assert "groups.sizes" in refusal(path, "", f"groups.sizes.{size}=1.0")


@pytest.mark.parametrize(
    "share",
    [
        "0",
        "-1",
        "many",
        "null",
        pytest.param(".nan"),
        pytest.param(".inf"),
    ],
)
def test_shares_that_are_none(path, share):
    # Guards: a mixture that cannot be drawn from, found out after the data was loaded.
    assert "groups.sizes" in refusal(path, f"groups: {{sizes: {{1: 1.0, 2: {share}}}}}\n")


@pytest.mark.parametrize("sizes", ["{}", "4", "[1, 4]", "null"])
def test_sizes_that_are_no_table(path, sizes):
    # Guards: a list of group sizes, which has no shares, half accepted.
    assert "groups.sizes" in refusal(path, f"groups: {{sizes: {sizes}}}\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "modle: {}\n",
            "unknown key 'modle'; known here: adapter, classifier, data, groups, model, run, "
            "start_from",
        ),
        (
            "groups: {size: {1: 1}}\n",
            "unknown key 'groups.size'; known here: anchors, curriculum, glancing, lookahead, "
            "markov_rank, partial",
        ),
        (
            "training: {lr: 1}\n",
            "unknown key 'training.lr'; known here: accumulate, adam_betas, clip_norm",
        ),
        pytest.param(
            "model: {hiden_size: 64}\n",
            "unknown key 'model.hiden_size'; known here: activation, adapter, attention_bias",
        ),
        (
            "training: {updates: 0}\n",
            "training.updates: Input should be greater than or equal to 1 (given: 0)",
        ),
        (
            "training: {label_smoothing: 1}\n",
            "training.label_smoothing: Input should be less than 1 (given: 1)",
        ),
        (
            "training: {learning_rate: -1}\n",
            "training.learning_rate: Input should be greater than 0 (given: -1)",
        ),
        (
            "training: {schedule: sqrt}\n",
            "'inverse_sqrt', 'cosine', 'linear', 'wsd' or 'constant' (given: 'sqrt')",
        ),
        ("training: {precision: fp8}\n", "'auto', 'float32' or 'bfloat16' (given: 'fp8')"),
        (
            "model: {hidden_size: 30, heads: 4}\n",
            "hidden_size is 30; it must be even and a multiple of heads (4)",
        ),
        ("model: {group_sizes: [1, 9]}\n", "group_sizes is [1, 9]; each must lie in 1 ... 8"),
        ("model: {}\nstart_from: there\n", "model and start_from exclude each other"),
        (
            "groups: {curriculum: [{until: 0.5, sizes: {0: 1}}]}\n",
            "each group size must be at least 1",
        ),
        (
            "groups: {curriculum: [{until: 0.5, sizes: {2: 1}}]}\n",
            "curriculum trains K=2, which sizes does not name",
        ),
        (
            "groups: {curriculum: [{until: 1.5, sizes: {1: 1}}]}\n",
            "groups.curriculum.0.until: Input should be less",
        ),
        (
            "groups: {curriculum: [{until: 0.5, sizes: {1: 1}}, {until: 0.5, sizes: {1: 1}}]}\n",
            "curriculum ends its stages at [0.5, 0.5]; each must end after the one before it",
        ),
        (
            "groups: {random_borders: 1.5}\n",
            "groups.random_borders: Input should be less than or equal to 1",
        ),
    ],
)
def test_one_line_for_what_is_wrong(path, text, expected):
    # Guards: a setting that is silently dropped, and messages without the value or the way out.
    assert expected in refusal(path, text)


def test_set_reaches_every_section(path):
    # Guards: --set that works for the top of the file only.
    config = read(
        path,
        "training: {updates: 7, seed: 3}\n",
        "training.updates=9",
        "model.hidden_size=64",
        "groups.sizes={1: 1, 4: 3}",
        "run=elsewhere",
    )
    assert (config.training.updates, config.training.seed) == (9, 3)
    assert config.model.hidden_size == 64
    assert config.groups.sizes == {1: 1.0, 4: 3.0}
    assert str(config.run) == "elsewhere"


def test_set_adds_a_group_size(path):
    # Guards: --set groups.sizes.4=1 that replaces the table, or sets "4" beside 4.
    text = "groups: {sizes: {1: 1.0, 4: 2.0}}\n"
    assert read(path, text, "groups.sizes.8=1").groups.sizes == {1: 1.0, 4: 2.0, 8: 1.0}
    assert read(path, text, "groups.sizes.4=5").groups.sizes == {1: 1.0, 4: 5.0}


def test_configurations_are_frozen(path):
    # Guards: a setting changed after run.yaml was written.
    config = read(path)
    with pytest.raises(ValidationError):
        config.run = "elsewhere"
    with pytest.raises(ValidationError):
        config.groups.random_borders = 1.0


def test_a_configuration_survives_its_own_json():
    # Guards: group sizes that become text on their way through provenance.json.
    config = GroupsConfig(sizes={1: 1.0, 4: 2.0})
    assert GroupsConfig.model_validate(config.model_dump(mode="json")) == config
    assert GroupsConfig.model_validate_json(config.model_dump_json()) == config
