"""Architecture search: algorithms, by-product candidates, fitness, archive and selection rules."""
