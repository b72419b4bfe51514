"""Choosing the size of the next group, and the part of it that is kept."""
