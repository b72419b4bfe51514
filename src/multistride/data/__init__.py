"""Parallel text: reading, cleaning, the vocabulary, batches."""
