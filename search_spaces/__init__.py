"""What may be searched: sweep files, their spaces, and the points in them."""

from search_spaces.checks import check_samples, planned_steps, value_at
from search_spaces.config import SweepConfig
from search_spaces.distributions import Choice, Distribution, IntUniform, Scalar, Uniform
from search_spaces.faults import ConfigError, Fault
from search_spaces.loading import (
    changed_keys,
    config_sha256,
    config_to_yaml,
    load_config,
    parse_config,
    preset_path,
    presets,
)
from search_spaces.parameters import (
    concrete_config,
    custom_functions,
    flat_parameters,
    free_parameters,
    grid_points,
    is_concrete,
    point_to_parameters,
    sample_space,
)

__all__ = [
    "Choice",
    "ConfigError",
    "Distribution",
    "Fault",
    "IntUniform",
    "Scalar",
    "SweepConfig",
    "Uniform",
    "changed_keys",
    "check_samples",
    "concrete_config",
    "config_sha256",
    "config_to_yaml",
    "custom_functions",
    "flat_parameters",
    "free_parameters",
    "grid_points",
    "is_concrete",
    "load_config",
    "parse_config",
    "planned_steps",
    "point_to_parameters",
    "preset_path",
    "presets",
    "sample_space",
    "value_at",
]
