"""A model in the formats of other tools, each compared with the model after it is written."""
