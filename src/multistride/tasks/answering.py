"""Answering questions: what a model reads of a record, and how its answers are judged."""

from __future__ import annotations

OPENING = ":"
INSTRUCTION = "Answer the question with a few words copied from the passage."


def source_text(question: str, passage: str) -> str:
    """What an encoder reads. Source: Raffel et al. 2020, arXiv 1910.10683, appendix D, for SQuAD."""
    return f"question: {_plain(question)} passage: {_plain(passage)}"


def target_text(answer: str) -> str:
    """What an encoder's decoder writes: the answer behind `OPENING` and a blank, as a blank stands before it in the
    passage, so that it is cut into the same tokens there and can be copied.
    """
    return f"{OPENING} {_plain(answer)}"


def chat_turn(question: str, passage: str) -> str:
    """What a user says to a chat model."""
    return f"{INSTRUCTION}\n\nPassage: {_plain(passage)}\n\nQuestion: {_plain(question)}"


def _plain(text: str) -> str:
    return " ".join(text.split())
