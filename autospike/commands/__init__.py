"""One file a command: what each of `autospike`'s commands does, told from beginning to end."""
