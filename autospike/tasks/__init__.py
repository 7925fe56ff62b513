"""Tasks: what a network is trained for. Each is a head, a loss, and a metric that adds up over parts of the data.

`contract.Task` is all that training, evaluation and export know of a task; `registry.task_of` returns that of a network.
"""
