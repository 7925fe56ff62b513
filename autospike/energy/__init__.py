"""Operation counts of a network and the energy that they need under a named convention. Torch-free."""
