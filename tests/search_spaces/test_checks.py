"""Spaces are tried out by building curves before anything is trained."""

import pytest

from search_spaces import ConfigError, check_samples, parse_config

HEAD = """\
version: 1
name: t
data: {dataset: digits, validation_examples: 100}
training: {num_epochs: 10, batch_size: 64}
search: {num_trials: 8}
"""


@pytest.mark.parametrize(
    ("space", "path", "rule"),
    [
        ("constant: {peak_lr: -1}", "constant.peak_lr", "peak_lr >= 0 must hold, but got -1"),
        (
            "constant: {peak_lr: {uniform: [-1e-9, 1]}}",
            "constant.peak_lr",
            "peak_lr >= 0 must hold, but got -1e-09",
        ),
        (
            "cosine_decay: {peak_lr: 1, final_fraction: {choice: [0, 0.1, 1.5]}}",
            "cosine_decay.final_fraction",
            "0 <= final_fraction <= 1 must hold, but got 1.5",
        ),
        (
            "cosine_decay: {peak_lr: 1, decay_epochs: {int_uniform: [0, 9]}}",
            "cosine_decay.decay_epochs",
            "decay > 0 must hold, but got 0",
        ),
        (
            "piecewise_constant: {values: [1, 2], boundaries_epochs: [1, 2]}",
            "piecewise_constant.values",
            "values must hold one more entry than boundaries",
        ),
        (
            "piecewise_constant: {values: [3, 2, 1], boundaries_epochs: [{uniform: [1, 5]}, 3]}",
            "piecewise_constant.boundaries_epochs",
            "boundaries must rise",
        ),
        (
            "custom: {function: 'trainers.schedules:nothing'}",
            "custom.function",
            "function must be importable",
        ),
    ],
)
def test_a_bad_end_is_found_and_named(space: str, path: str, rule: str):
    config = parse_config(f"{HEAD}space: {{schedule: {{{space}}}}}")
    with pytest.raises(ConfigError) as caught:
        check_samples(config)
    (fault,) = caught.value.faults
    assert (fault.file, fault.path) == ("t", f"space.schedule.{path}")
    assert fault.message.startswith(rule)


def test_a_warmup_longer_than_the_training_is_found_in_every_family_once():
    config = parse_config(f"""{HEAD}
space:
  schedule: {{constant: {{peak_lr: 1}}, cosine_decay: {{peak_lr: {{uniform: [0, 1]}}}}}}
  warmup_epochs: {{uniform: [0, 10]}}
""")
    with pytest.raises(ConfigError) as caught:
        check_samples(config)
    (line,) = str(caught.value).split("\n")
    assert line.startswith("t: space.warmup_epochs: warmup_epochs must be shorter than")


def test_a_bad_middle_is_found_by_the_samples():
    config = parse_config(f"""{HEAD}
space:
  schedule:
    piecewise_constant:
      values: [3, 2, 1]
      boundaries_fraction: [{{uniform: [0.1, 0.8]}}, {{uniform: [0.3, 0.9]}}]
""")
    with pytest.raises(ConfigError, match="boundaries must rise"):
        check_samples(config)


def test_a_sound_space_passes():
    space = "{schedule: {cosine_decay: {peak_lr: {log_uniform: [1e-3, 1]}}}, warmup_steps: 3}"
    check_samples(parse_config(f"{HEAD}space: {space}"))
