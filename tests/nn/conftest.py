"""Fixtures of layer tests."""

from instruction_sets import implementation, isa  # noqa: F401
