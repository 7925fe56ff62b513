"""Tables and figures of a run, computed from the archive and from measurements. Torch-free."""
