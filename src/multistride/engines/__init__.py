"""Engines: implementations of `StepModel`, each with its own arithmetic and memory."""
