"""Texts from sources: summaries, sentences from concepts, continuations of prompts."""
