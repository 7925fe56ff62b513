"""An experiment: the complete configuration of a run, in one YAML file.

`data`, `training` and `search` document every field, `fields` has their types, `experiment` combines the sections, `loading` reads
a file and applies overrides, and `checks` has the constraints between fields.
`--set a.b=c` overrides any field. A run stores its resolved experiment, including the search space, as `RUN/experiment.yaml`.
"""

from autospike.config.data import AugmentationConfig, DataConfig, NormalisationConfig
from autospike.config.experiment import Experiment, continued, fixed_part, with_normalisation, with_start
from autospike.config.loading import narrowing_overrides
from autospike.config.search import (
    ConstraintsConfig,
    EvaluationConfig,
    ExecutionConfig,
    ExportConfig,
    FitnessConfig,
    SearchConfig,
)
from autospike.config.training import RetrainConfig, RivalName, RivalsConfig, TeacherConfig, TrainingConfig

__all__ = [
    "AugmentationConfig",
    "ConstraintsConfig",
    "DataConfig",
    "EvaluationConfig",
    "ExecutionConfig",
    "Experiment",
    "ExportConfig",
    "FitnessConfig",
    "NormalisationConfig",
    "RetrainConfig",
    "RivalName",
    "RivalsConfig",
    "SearchConfig",
    "TeacherConfig",
    "TrainingConfig",
    "continued",
    "fixed_part",
    "narrowing_overrides",
    "with_normalisation",
    "with_start",
]
