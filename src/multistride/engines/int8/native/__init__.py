"""Kernels of our own for the int8 engine, which compute a whole pass in one call."""
