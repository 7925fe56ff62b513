"""`python -m autospike` is `autospike`."""

from autospike.cli import main

main()
