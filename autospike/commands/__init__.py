"""One file a command: what each of `autospike`'s commands does, from start to end."""
