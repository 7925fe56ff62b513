"""An exponential moving average of a supernet's parameters, by timm.

It is over steps, not over draws. A corner that a step does not draw keeps still but for weight decay, and its average moves on
towards where it stands: one that is drawn in one step of k averages over a k-th as many updates of its own.
"""

from __future__ import annotations

from timm.utils import ModelEmaV3

from autospike.supernet import Supernet


class Average(ModelEmaV3):  # type: ignore[misc]
    """The average `module` of a supernet, after each step's `update(supernet, step)`, step counted from 1.

    Args:
        decay: what is kept of the average at a step. In the first ones it is less, `1 - step ** (-2 / 3)`, so that the initial
            parameters are soon forgotten.
    """

    def __init__(self, supernet: Supernet, decay: float) -> None:
        super().__init__(supernet, decay=decay, use_warmup=True)
