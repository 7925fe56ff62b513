"""Upper bounds of what an architecture or a search space may contain.

They are far above the published networks: at most 66 million parameters, width 768, 16 time steps, 10 blocks. A larger value is a
mistake, which would otherwise end in a hang or in memory that cannot be allocated.
"""

from __future__ import annotations

from autospike.errors import quoted

MAX_TIME_STEPS = 1024
MAX_EMBED_DIM = 16_384
MAX_DEPTH = 256  # blocks of a stage
MAX_STAGES = 16
MAX_MLP_RATIO = 64.0
MAX_LEVELS = 64  # of an integer neuron; the published ones have 4 and 8
MAX_NUMBER = 1e6  # thresholds, time constants, scales
MIN_THRESHOLD = 1e-6  # float32 potentials are far coarser
MAX_CHOICES = 100  # values of a gene
MAX_PARAMETERS = 500_000_000  # of the largest subnet, without the head: 2 GB in float32
MAX_ACTIVATION = 2**34  # values of a residual stream in one forward pass: 64 GiB in float32


def check_at_most(name: str, number: float, highest: float) -> None:
    """Check an upper bound.

    Args:
        name: Name of the field, for the error message.
        number: Its value.
        highest: The largest allowed value.

    Raises:
        ValueError: The value is larger.
    """
    if number > highest:
        raise ValueError(f"{name} must be at most {highest:,g}, got {quoted(number)}")


def check_parameters(what: str, parameters: int) -> None:
    """Check the number of parameters of a network.

    Args:
        what: The network, for the error message.
        parameters: The number, without the head.

    Raises:
        ValueError: There are too many.
    """
    if parameters > MAX_PARAMETERS:
        raise ValueError(
            f"{what} has {parameters:,} parameters, and at most {MAX_PARAMETERS:,} are allowed; "
            "reduce embed_dim, depth or mlp_ratio"
        )
