"""transformers' Trainer: gradients, generation while it evaluates, and what it writes."""

import subprocess
import sys
import warnings

import pytest
import torch
from directories import SOURCES, TARGETS, directory_of
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
)

import multistride

pytestmark = pytest.mark.filterwarnings("ignore")  # those of accelerate and transformers


class Rows(torch.utils.data.Dataset):
    """Encoded texts."""

    def __init__(self, encoded):
        self.rows = encoded

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return self.rows[row]


def pairs(directory):
    """The rows of the usual recipe: `tokenizer(source, text_target=target)`."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    both = zip(SOURCES, TARGETS, strict=True)
    return Rows([tokenizer(source, text_target=target) for source, target in both]), tokenizer


def settings(place, kind=Seq2SeqTrainingArguments, **choices):
    quiet = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "use_cpu": True}
    return kind(output_dir=str(place / "run"), seed=3, **{**quiet, **choices})


def seq2seq(directory, place, **choices):
    rows, tokenizer = pairs(directory)
    model = AutoModelForSeq2SeqLM.from_pretrained(directory)
    return Seq2SeqTrainer(
        model=model,
        args=settings(place, **choices),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
    )


def causal_trainer(directory, place, **choices):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    texts = [text + tokenizer.eos_token for text in SOURCES]
    rows = Rows([{"input_ids": tokenizer(text)["input_ids"]} for text in texts])
    return Trainer(
        model=AutoModelForCausalLM.from_pretrained(directory),
        args=settings(place, TrainingArguments, **choices),
        train_dataset=rows,
        processing_class=tokenizer,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )


@pytest.mark.parametrize("kind", ["causal", "translator"])
def test_accumulated_gradients_are_those_of_the_whole_batch(kind, tmp_path):
    # Guards: `num_items_in_batch` that is accepted and not followed: gradients N times too large.
    layers = {"causal": 0, "translator": 2}[kind]
    directory = directory_of(tmp_path / "ours", layers, dropout=0.0)
    make = {"causal": causal_trainer, "translator": seq2seq}[kind]
    norms = []
    for steps in (1, 2, 4):
        choices = {"gradient_accumulation_steps": steps, "max_steps": 1, "logging_steps": 1}
        size = {1: 4, 2: 2, 4: 1}[steps]
        trainer = make(
            directory, tmp_path, per_device_train_batch_size=size, learning_rate=0.0, **choices
        )
        trainer.train_dataset.rows = trainer.train_dataset.rows[:4]
        trainer.train()
        norms.append(next(entry["grad_norm"] for entry in trainer.state.log_history))
    assert norms[1:] == pytest.approx([norms[0]] * 2, rel=1e-4)


@pytest.mark.parametrize("kind", ["causal", "translator"])
def test_smoothed_labels_are_those_that_follow(kind, tmp_path):
    # Guards: labels that are not moved by one, or a loss without logits.
    layers = {"causal": 0, "translator": 2}[kind]
    directory = directory_of(tmp_path / "ours", layers, dropout=0.0)
    make = {"causal": causal_trainer, "translator": seq2seq}[kind]
    almost_none = make(directory, tmp_path, label_smoothing_factor=1e-6)
    batch = almost_none.data_collator([almost_none.train_dataset[0]])
    smoothed = almost_none.compute_loss(almost_none.model, dict(batch))
    plain = almost_none.model(**batch).loss
    torch.testing.assert_close(smoothed, plain, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["causal", "translator"])
def test_checkpointed_gradients_are_the_same(kind, tmp_path):
    layers = {"causal": 0, "translator": 2}[kind]
    directory = directory_of(tmp_path / "ours", layers, dropout=0.0)
    make = {"causal": causal_trainer, "translator": seq2seq}[kind]
    grads = []
    for checkpointing in (False, True):
        trainer = make(directory, tmp_path)
        model = trainer.model.train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        batch = trainer.data_collator([trainer.train_dataset[row] for row in range(3)])
        model(**batch).loss.backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    for mine, yours in zip(*grads, strict=True):
        torch.testing.assert_close(mine, yours, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("made", [seq2seq, causal_trainer])
def test_it_evaluates_by_the_loss(made, tmp_path):
    # Guards: names of outputs to leave out that Trainer cannot add its own to: every evaluation
    # that wrote no text ended in a TypeError.
    directory = directory_of(tmp_path / "ours", 2 if made is seq2seq else 0, dropout=0.0)
    trainer = made(directory, tmp_path)
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] > 0


def test_it_evaluates_in_groups(tmp_path):
    # Guards: labels taken for a choice of `generate` that groups cannot follow.
    directory = directory_of(tmp_path / "ours", 2, dropout=0.0)
    trainer = seq2seq(directory, tmp_path, predict_with_generate=True)
    inputs = trainer.data_collator([trainer.eval_dataset[0]])
    for group_size in (1, 4):
        settings = {"max_length": 9, "group_size": group_size}
        found = trainer.predict(trainer.eval_dataset, **settings).predictions[0]
        expected = trainer.model.generate(inputs["input_ids"], **settings)[0]
        assert found.tolist()[: len(expected)] == expected.tolist()


def test_trained_by_the_usual_recipe_it_translates_and_stops(tmp_path):
    """Twenty epochs by the recipe of the course, and `multistride translate` reads what was
    saved."""
    # Guards: labels without EOS (a model that never stops), a directory that only transformers
    # reads, generation while it evaluates.
    directory = directory_of(tmp_path / "ours", 2, group_sizes=(1,), dropout=0.0)
    trainer = seq2seq(
        directory,
        tmp_path,
        max_steps=150,
        learning_rate=3e-3,
        per_device_train_batch_size=5,
        predict_with_generate=True,
        generation_max_length=20,
        save_strategy="steps",
        save_steps=150,
    )
    trainer.train()
    metrics = trainer.predict(trainer.eval_dataset)
    tokens = [[token for token in row if token >= 0] for row in metrics.predictions.tolist()]
    texts = trainer.processing_class.batch_decode(tokens, skip_special_tokens=True)
    assert texts == TARGETS
    trainer.save_model(str(tmp_path / "final"))
    (tmp_path / "sources").write_text("\n".join(SOURCES) + "\n")
    for place in (tmp_path / "final", tmp_path / "run" / "checkpoint-150"):
        found = multistride.load(place, engine="eager").translate(SOURCES)
        assert [each.text for each in found] == TARGETS
        assert {each.ending for each in found} == {"end"}
        command = [sys.executable, "-m", "multistride", "translate", "--model", str(place)]
        command += ["--input", str(tmp_path / "sources")]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert output.splitlines() == TARGETS


def test_a_causal_model_learns_to_stop(tmp_path):
    # Guards: an EOS that is written behind each text, as for every model, and spelled in letters.
    directory = directory_of(tmp_path / "ours", 0, group_sizes=(1,), dropout=0.0)
    trainer = causal_trainer(
        directory, tmp_path, max_steps=150, learning_rate=3e-3, per_device_train_batch_size=5
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    model = multistride.load(tmp_path / "final", engine="eager")
    [found] = model.generate(["a small"], max_tokens=30)
    assert (found.text, found.ending) == (" dog runs over the grass", "end")


def test_a_run_of_trainer_resumes(tmp_path):
    # Guards: weights of a checkpoint under names that `load_state_dict(strict=False)` skips.
    directory = directory_of(tmp_path / "ours", 2)
    whole = seq2seq(directory, tmp_path / "a", max_steps=4, save_strategy="steps", save_steps=2)
    whole.train()
    again = seq2seq(directory, tmp_path / "b", max_steps=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again.train(resume_from_checkpoint=str(tmp_path / "a" / "run" / "checkpoint-2"))
    expected = load_file(tmp_path / "a" / "run" / "checkpoint-4" / "model.safetensors")
    found = again.model.state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[f"transformer.{name}"], tensor)
