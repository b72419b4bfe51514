"""The Transformer, its cache and its files."""
