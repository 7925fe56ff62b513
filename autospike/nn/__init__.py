"""Neurons, layers and blocks of spiking vision transformers."""
