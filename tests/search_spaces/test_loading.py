"""Sweep files and overrides: what is refused, in which words, and where it is said to stand."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import (
    ConfigError,
    SweepConfig,
    config_sha256,
    config_to_yaml,
    load_config,
    parse_config,
    preset_path,
    presets,
)

SOUND = """\
version: 1
name: t
data: {dataset: digits, validation_examples: 100}
training: {model: cnn, optimizer: sgd, num_epochs: 10, batch_size: 64}
space:
  schedule:
    constant: {peak_lr: {log_uniform: [1e-3, 1]}}
  momentum: 0.9
search: {num_trials: 8}
"""
ENTRIES = Path(__file__).with_name("bad_configs.txt").read_text().split("\n\n")[1:]


def faulty(entry: str) -> tuple[str, list[str]]:
    """A faulty text and the faults that it must be refused with."""
    old, new, *faults = entry.rstrip("\n").split("\n")
    piece = old.encode().decode("unicode_escape")
    replacement = new.removeprefix("=> ").encode().decode("unicode_escape")
    assert piece in SOUND
    return SOUND.replace(piece, replacement, 1), [fault.removeprefix("    ") for fault in faults]


def refusal(text: str, **options: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, **options)  # pyright: ignore[reportArgumentType]
    return str(caught.value).split("\n")


def test_the_sound_file_is_sound():
    config = parse_config(SOUND)
    assert (config.name, config.search.num_trials, config.search.goal) == ("t", 8, "maximize")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.split("\n")[1][3:40])
def test_every_fault_is_named_where_it_stands(entry: str):
    text, faults = faulty(entry)
    assert refusal(text, filename="a.yaml") == [f"a.yaml:{fault}" for fault in faults]


def test_a_momentum_has_a_value_or_a_curve():
    scheduled = "  momentum_schedule: {mirror: {low: 0.8, high: 0.9}}"
    text = SOUND.replace("  momentum: 0.9", f"  momentum: 0.9\n{scheduled}")
    assert refusal(text) == [
        "<string>:8:3: space.momentum: momentum_schedule drives momentum, which must not be given "
        "too; drop one of them"
    ]


def test_faults_of_all_sections_come_together():
    text = SOUND.replace("cnn", "resnet").replace("[1e-3, 1]", "[1, 1]").replace("8}", "0}")
    text += "pruning: {algorithm: asha, grace_epochs: 10}\n"
    lines = [line.split(":")[1] for line in refusal(text)]
    assert lines == ["4", "7", "9"], "a rule between two sections waits until both are sound"
    lines = [line.split(":")[1] for line in refusal(text.replace("resnet", "cnn"))]
    assert lines == ["7", "9", "10"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "f:1:1: a sweep file must be a mapping of sections, but got an empty file"),
        ("# x", "f:1:1: a sweep file must be a mapping of sections, but got an empty file"),
        ("3", "f:1:1: a sweep file must be a mapping of sections, but got 3"),
        ("[1, 2]", "f:1:1: a sweep file must be a mapping of sections, but got [1, 2]"),
        ("%YAML 1.1\n---\na: 1", "f:2:1: the text must be YAML 1.2, but says otherwise"),
        ("a: 1\n...\nb", "f:3:1: a file must hold one document, but has more"),
        ("x" * (2**20 + 1), "f:1:1: a file must hold at most 1048576 characters, but got 1048577"),
        ("- " * 1000, "f:1:43: nesting <= 20 must hold, but got more"),
    ],
)
def test_texts_that_are_no_config(text: str, fault: str):
    assert refusal(text, filename="f") == [fault]


BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (BOMB, "anchors are not allowed, but got '&a'"),
        ("a: *b", "aliases are not allowed, but got '*b'"),
        ("a: !!python/object/apply:os.system ['touch pwned']", "tags are not allowed"),
        ("!!python/object/new:type {}", "tags are not allowed"),
        ("%TAG ! tag:evil,2000:\n---\n!a b", "tags are not allowed"),
        ("&a : 1", "a key must be a plain word"),
        ("? {a: 1}\n: 2", "a key must be a plain word"),
        ("{" * 2000, "a key must be a plain word"),
        ("[" * 100_000, "nesting <= 20 must hold"),
    ],
)
def test_hostile_texts_are_refused_before_they_act(
    text: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert rule in refusal(text)[0]
    assert not list(tmp_path.iterdir())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_file_is_a_config_or_a_config_error(data: st.DataObject):
    path = preset_path(data.draw(st.sampled_from(presets())))
    assert path is not None
    text = path.read_text()
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, min(len(text), start + 30)))
    piece = st.text(alphabet="-:,?[]{}#&*!|>'\"%@`\\ \n\t\x00\ufeff0.9e~<xU", max_size=6)
    try:
        parse_config(text[:start] + data.draw(piece) + text[stop:])
        lines = [1]
    except ConfigError as error:
        lines = [fault.line for fault in error.faults]
    assert lines
    assert min(lines) >= 1


@pytest.mark.parametrize(
    "text", ["\ufeff" + SOUND, SOUND.replace("\n", "\r\n"), f"---\n{SOUND}..."]
)
def test_byte_order_marks_and_line_ends_do_not_matter(text: str, tmp_path: Path):
    file = tmp_path / "sweep.yaml"
    file.write_bytes(text.encode())
    assert load_config(file) == parse_config(text) == parse_config(SOUND)


@pytest.mark.parametrize(
    ("word", "value"),
    [("1e-3", 1e-3), ("1E-3", 1e-3), (".5", 0.5), ("1.", 1.0), ("010", 10), ("0x10", 16)],
)
def test_numbers_follow_yaml_1_2(word: str, value: float):
    config = parse_config(SOUND.replace("{log_uniform: [1e-3, 1]}", word))
    assert config.space.schedule["constant"]["peak_lr"] == value


@pytest.mark.parametrize("word", ["1_000", "1:30", "2001-01-01", "'1'", "on"])
def test_texts_that_only_look_like_numbers_are_refused(word: str):
    assert (
        "peak_lr must be a number, but got the text"
        in refusal(SOUND.replace("{log_uniform: [1e-3, 1]}", word))[0]
    )


def test_files_that_cannot_be_read(tmp_path: Path):
    large, latin = tmp_path / "large.yaml", tmp_path / "latin.yaml"
    large.write_bytes(b"#" * (2**18 + 1))
    latin.write_bytes(b"version: 1\nname: \xe9\n")
    rules = {
        tmp_path / "none.yaml": "none.yaml: the file must exist, but there is none of that name",
        tmp_path: ": a sweep must be a file, but this is a directory",
        large: "large.yaml: a file must hold at most 262144 bytes, but this has more; shorten it",
        latin: "latin.yaml:2:7: the text must be UTF-8, but it has the byte 0xe9",
        Path("/dev/null"): "/dev/null: a sweep must be a regular file, but this is not",
        Path("a\x00b"): "the file must be readable, but: ",
    }
    for file, rule in rules.items():
        with pytest.raises(ConfigError) as caught:
            load_config(file)
        assert rule in str(caught.value)


def test_an_override_counts_like_the_file():
    overrides = [
        "search.num_trials=3",
        "pruning.algorithm=asha",
        "space.schedule.cosine_decay={peak_lr: {choice: [0.1, 1e-2]}}",
        "space.schedule.constant.peak_lr.log_uniform.1=0.5",
    ]
    config = parse_config(SOUND, overrides=overrides)
    written = SOUND.replace("8}", "3}\npruning: {algorithm: asha}").replace("-3, 1]", "-3, 0.5]")
    written = written.replace(
        "  momentum", "    cosine_decay: {peak_lr: {choice: [0.1, 0.01]}}\n  momentum"
    )
    assert config == parse_config(written)


CMAES = "search.algorithm=cmaes"
GRID = "search.algorithm=grid"
PIECES = (
    "space.schedule={piecewise_constant: {values: [1, {uniform: [0, 1]}], boundaries_steps: [3]}}"
)


@pytest.mark.parametrize(
    ("overrides", "faults"),
    [
        (
            ["search.num_trials=x"],
            ["1:19: search.num_trials: num_trials must be a whole number, but got the text 'x'"],
        ),
        (
            ["search.seed=1", "search.num_trial=3"],
            ["2:1: search.num_trial: unknown key 'num_trial'; did you mean 'num_trials'?"],
        ),
        (["search"], ["1:1: an override must read key.path=value, but got the text 'search'"]),
        (["a..b=3"], ["1:1: an override must read key.path=value, but got the text 'a..b=3'"]),
        (
            ["training.model.x=1"],
            ["1:1: training.model: a mapping must stand here to set 'x' in it, "
             "but got the text 'cnn'"],
        ),
        (
            ["enqueue=[3]", "enqueue.1=4"],
            ["2:1: enqueue: a place in a list must lie below 1, but got the text '1'"],
        ),
        (
            ["space.momentum={uniform: [0, 2]}"],
            ["1:30: space.momentum.uniform[1]: 0 <= momentum < 1 must hold, but got 2"],
        ),
        (
            ["space.momentum={uniform: [0, 1"],
            ["1:31: the text must be YAML, but expected ',' or ']', but got '<stream end>'"],
        ),
        (["name=&a x"], ["1:6: anchors are not allowed, but got '&a'"]),
        (
            ["search.num_trials="],
            ["1:19: search.num_trials: num_trials must be given, but is missing; or give hours"],
        ),
        (
            [CMAES, "space.momentum={choice: [0, 0.9]}"],
            ["2:16: space.momentum: cmaes must have ranges of numbers, but momentum is a choice; "
             "fix it, or search with tpe"],
        ),
        (
            [GRID, "space.schedule.constant.peak_lr={int_uniform: [1, 10001]}"],
            ["1:18: search.algorithm: points in a grid <= 10000 must hold, but got 10001; "
             "shorten the choices, or search with tpe"],
        ),
        (
            [PIECES, "enqueue=[{schedule: {piecewise_constant: {values: [1]}}}]"],
            ["2:51: enqueue[0].schedule.piecewise_constant.values: "
             "values must be a list of 2 entries, but got [1]"],
        ),
        (
            [PIECES, "enqueue=[{schedule: {piecewise_constant: {values: [1, 2]}}}]"],
            ["2:55: enqueue[0].schedule.piecewise_constant.values[1]: "
             "values[1] must lie in uniform [0.0, 1.0], but got 2"],
        ),
        (
            ["enqueue=[{schedule: {constant: {peak_lr: 0.1}, cosine_decay: {}}}]"],
            ["1:21: enqueue[0].schedule: a point must have one of constant, "
             "but got a mapping of 2 keys"],
        ),
    ],
)  # fmt: skip
def test_faults_of_overrides(overrides: list[str], faults: list[str]):
    found = refusal(SOUND, overrides=overrides)
    assert found == [f"--set:{fault}" for fault in faults]


def test_cmaes_takes_one_schedule():
    overrides = [CMAES, "space.schedule.cosine_decay={peak_lr: 1}"]
    rule = "cmaes must have one schedule, but got constant, cosine_decay; keep one, or search with"
    assert refusal(SOUND, overrides=overrides) == [f"<string>:7:5: space.schedule: {rule} tpe"]
    config = parse_config(SOUND, overrides=[CMAES, "space.momentum={uniform: [0, 0.9]}"])
    assert config.search.algorithm == "cmaes"


def test_the_goal_follows_the_metric():
    goals = {"val_accuracy": "maximize", "val_loss": "minimize", "train_loss": "minimize"}
    for metric, goal in goals.items():
        assert parse_config(SOUND, overrides=[f"search.metric={metric}"]).search.goal == goal
    both = ["search.metric=val_loss", "search.goal=maximize"]
    assert parse_config(SOUND, overrides=both).search.goal == "maximize"


@pytest.mark.parametrize("value", ["auto", "0", "0.25", "1", "4"])
def test_gpus_are_whole_or_a_share_of_one(value: str):
    config = parse_config(SOUND, overrides=[f"resources.gpus_per_trial={value}"])
    assert str(config.resources.gpus_per_trial) in (value, f"{value}.0")


def test_an_end_is_needed_unless_the_space_has_one():
    assert parse_config(SOUND.replace("num_trials: 8", "hours: 0.5")).search.hours == 0.5
    grid = SOUND.replace("num_trials: 8", "algorithm: grid").replace("log_uniform", "choice")
    assert parse_config(grid).search.num_trials is None


@pytest.mark.parametrize("name", presets())
def test_yaml_and_pickle_give_the_config_back(name: str):
    path = preset_path(name)
    assert path is not None
    config = load_config(path)
    again = parse_config(config_to_yaml(config))
    assert again == config == pickle.loads(pickle.dumps(config))
    assert config_to_yaml(again) == config_to_yaml(config)
    assert config_sha256(again) == config_sha256(config)


def test_the_hash_is_of_what_a_sweep_does():
    plain = config_sha256(parse_config(SOUND))
    assert len(plain) == 64
    same = ["name=u", "description=x", "expected={value: 1}", "tracking.experiment=y"]
    assert config_sha256(parse_config(SOUND, overrides=[*same, "search.goal=maximize"])) == plain
    others = ["training.seed=1", "space.momentum=0.8", "search.num_trials=9", "data.dataset=mnist"]
    hashes = {config_sha256(parse_config(SOUND, overrides=[other])) for other in others}
    assert len(hashes | {plain}) == 5


def test_a_config_error_survives_a_process_border():
    with pytest.raises(ConfigError) as caught:
        parse_config("a: 1\nb: 2", filename="f")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.faults) == (str(caught.value), caught.value.faults)


def test_the_json_schema_describes_every_key():
    schema = SweepConfig.model_json_schema()
    sections = [schema, *(schema["$defs"][name] for name in ("Data", "Training", "Search"))]
    for section in sections:
        assert section["additionalProperties"] is False
        assert all(
            key == "space" or "description" in entry or "$ref" in entry
            for key, entry in section["properties"].items()
        )
    space = schema["properties"]["space"]["properties"]
    default, body = space["schedule"]["properties"]["warmup_stable_decay"]["anyOf"]
    assert default == {"const": "default"}
    assert set(body["properties"]) >= {"peak_lr", "decay_epochs", "interval", "shape"}
    assert {"enum": ["linear", "cosine", "1-sqrt", "exponential"]} in (
        body["properties"]["shape"]["anyOf"]
    )
    assert set(space["momentum_schedule"]["properties"]["mirror"]["properties"]) == {"low", "high"}
    assert set(space) >= {"warmup_fraction", "warmup_shape", "warmup_init_fraction", "momentum"}
