"""Execution of jobs on shards of the data: in this process, in worker processes, or in a Ray cluster."""
