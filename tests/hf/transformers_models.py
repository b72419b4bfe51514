"""Tiny models for the test classes of transformers; `run_transformers_tests.py` puts this file
among them.
"""

import unittest
from typing import ClassVar

import torch

import multistride.hf

from .generation.test_utils import GenerationTesterMixin
from .test_modeling_common import ModelTesterMixin, ids_tensor

SIZES = {
    "vocabulary_size": 99,
    "hidden_size": 32,
    "feedforward_size": 40,
    "heads": 4,
    "decoder_layers": 2,
    "max_positions": 64,
    "dropout": 0.0,
}


class Tester:
    """Makes configurations and inputs."""

    batch_size, seq_length, vocab_size, num_hidden_layers = 5, 7, 99, 2
    hidden_size, num_attention_heads, intermediate_size = 32, 4, 40
    encoder_seq_length = decoder_seq_length = key_length = 7
    is_training = True
    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2

    def __init__(self, parent, **choices):
        self.parent, self.choices = parent, choices

    def get_config(self):
        return multistride.hf.MultistrideConfig(**{**SIZES, **self.choices})

    def tokens(self):
        return ids_tensor([self.batch_size, self.seq_length], self.vocab_size - 5) + 5

    def prepare_config_and_inputs_for_common(self):
        config, tokens = self.get_config(), self.tokens()
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        if config.is_encoder_decoder:
            tokens[:, -1] = self.eos_token_id
            read = self.tokens()
            read[:, 0] = self.bos_token_id
            inputs |= {"decoder_input_ids": read, "decoder_attention_mask": torch.ones_like(read)}
        return config, inputs

    prepare_config_and_inputs = prepare_config_and_inputs_for_common


class Common(ModelTesterMixin, GenerationTesterMixin):
    """What both kinds of models are tested with."""

    # No file of ours bears the year that this test looks for.
    test_can_init_all_missing_weights_before_2023 = True
    choices: ClassVar = {}

    def setUp(self):
        self.model_tester = Tester(self, **self.choices)


class CausalTest(Common, unittest.TestCase):
    """A causal model with rotary positions, which begins with the first token it is given."""

    all_model_classes = (multistride.hf.MultistrideForCausalLM,)
    choices: ClassVar = {"encoder_layers": 0, "positions": "rotary", "start_symbol": False}


class CausalStartTest(Common, unittest.TestCase):
    """A causal model as `multistride train` makes them: sinusoids, and a start symbol."""

    all_model_classes = (multistride.hf.MultistrideForCausalLM,)
    choices: ClassVar = {"encoder_layers": 0}


class Seq2SeqTest(Common, unittest.TestCase):
    """An encoder-decoder as `multistride train` makes them."""

    all_model_classes = (multistride.hf.MultistrideForSeq2SeqLM,)
    is_encoder_decoder = True
    choices: ClassVar = {"encoder_layers": 2}


class Seq2SeqUntiedTest(Common, unittest.TestCase):
    """An encoder-decoder with learned positions and matrices of its own for all embeddings."""

    all_model_classes = (multistride.hf.MultistrideForSeq2SeqLM,)
    is_encoder_decoder = True
    choices: ClassVar = {"encoder_layers": 2, "tie_embeddings": False, "positions": "learned"}
