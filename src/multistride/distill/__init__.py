"""Sequence-level knowledge distillation: a corpus as a teacher would have translated it."""
