"""Spaces are tried out by building curves before anything is trained."""

from pathlib import Path

import pytest

from search_spaces import Choice, ConfigError, check_samples, load_config, parse_config

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
            "piecewise_constant: {values: [1, 2], boundaries_fraction: [-0.5]}",
            "piecewise_constant.boundaries_fraction",
            "boundaries.0 >= 0 must hold, but got -0.5",
        ),
        (
            "custom: {function: 'random:randint', a: 1, b: 99}",
            "custom.function",
            "function must return a number for every tick",
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


def test_a_function_that_is_not_pure_is_found(tmp_path: Path):
    (tmp_path / "dice.py").write_text("import random\ndef roll(t):\n    return random.random()\n")
    text = f"{HEAD}space: {{schedule: {{custom: {{function: 'dice.py:roll'}}}}}}"
    with pytest.raises(ConfigError, match="function must return the same each time it is called"):
        check_samples(parse_config(text, folder=tmp_path))


def test_a_bad_sample_is_named_where_its_parameter_stands(tmp_path: Path):
    file = tmp_path / "bad.yaml"
    file.write_text(f"""{HEAD}
space:
  schedule:
    cosine_decay: {{peak_lr: 1, final_fraction: {{choice: [0, 1.5]}}}}
    rex: default
""")
    assert "rex" in load_config(file).space.schedule
    with pytest.raises(ConfigError) as caught:
        load_config(file, ["space.schedule.rex.peak_lr=-1"], samples=20)
    lines = [line.split(" (in the sample")[0] for line in str(caught.value).split("\n")]
    assert lines == [
        "--set:1:28: space.schedule.rex.peak_lr: peak_lr >= 0 must hold, but got -1",
        f"{file}:9:48: space.schedule.cosine_decay.final_fraction: "
        "0 <= final_fraction <= 1 must hold, but got 1.5",
    ]


def test_a_key_of_a_default_space_can_be_overridden():
    text = f"{HEAD}space: {{schedule: {{cosine_decay: default, rex: default}}}}"
    config = parse_config(text, overrides=["space.schedule.cosine_decay.peak_lr=0.25"])
    assert config.space.schedule["cosine_decay"] == {
        "peak_lr": 0.25,
        "final_fraction": Choice((0, 0.01, 0.1)),
    }
    assert config.space.schedule["rex"] == parse_config(text).space.schedule["rex"]


def test_files_of_functions_are_found_from_the_sweep_file_wherever_they_stand(tmp_path: Path):
    text = f"""{HEAD}
space:
  schedule: {{custom: {{function: {{choice: ['a.py:f', 'b.py:f', 'math:exp']}}}}}}
enqueue: [{{schedule: {{custom: {{function: 'b.py:f'}}}}}}]
"""
    names = [f"{tmp_path}/a.py:f", f"{tmp_path}/b.py:f", "math:exp"]
    config = parse_config(text, folder=tmp_path)
    assert config.space.schedule["custom"]["function"] == Choice(tuple(names))
    assert config.enqueue[0]["schedule"]["custom"]["function"] == names[1]
