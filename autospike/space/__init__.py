"""Architectures, the search spaces that contain them, and the published networks. Torch-free."""
