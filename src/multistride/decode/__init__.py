"""Decoding: propose, pick, accept, commit."""
