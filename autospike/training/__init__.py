"""Supernet training: setup, steps, loop, checkpoints, ranks."""
