"""Datasets, splits, transforms and batches."""
