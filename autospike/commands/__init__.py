"""One file a command: what `autospike train`, `search`, `export`, `plot` and `describe` do, told from beginning to end."""
