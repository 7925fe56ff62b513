"""Measurement of candidates: whole populations by trie evaluation, or single models."""
