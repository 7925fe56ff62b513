"""A space and an experiment on the digits that are as small as tests need."""

from __future__ import annotations

TINY_SPACE = {
    "family": "spikformer",
    "time_steps": [2, 3],
    "stages": [
        {
            "embed_dim": [8, 16],
            "embedding": {"stride": 4},
            "depth": [1, 2],
            "block": {
                "num_heads": [1, 2],
                "mlp_ratio": [1, 2],
                "neuron": {"v_threshold": [0.5, 1.0], "tau": [1.5, 2.0]},
            },
        }
    ],
}

TINY_EXPERIMENT = {
    "seed": 3,
    "space": TINY_SPACE,
    "data": {"name": "digits", "image_size": 8, "search_share": 0.1, "test_share": 0.1},
    "training": {"epochs": 2, "batch_size": 256, "learning_rate": 0.01, "warmup_epochs": 0, "checkpoint_epochs": 1},
    "evaluation": {"calibration_images": 64, "calibration_batch_size": 64, "batch_size": 64},
    "search": {"algorithm": "nsga2", "population": 6, "generations": 3},
}
