"""Sealed lines: what is read is what was written, whole and by the driver that had the right."""

import contextlib
import json
import random
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from sweep.lines import DamagedError, Lines, append_lines, sealed, unsealed
from sweep.metrics import put_aside, read_reports

AWKWARD = {"text": 'a "quoted"\nline, ü\u2028', "numbers": [0.1 + 0.2, 5e-324, -0.0, 1e22, 2**63]}


def written(path: Path, *lines: tuple[int, int]) -> Path:
    """A metric file with a line for each (epoch, driver)."""
    for epoch, driver in lines:
        append_lines(path, [{"epoch": epoch, "by": driver}], driver)
    return path


def epochs(path: Path) -> list[tuple[int, int]]:
    return [(line["epoch"], line["by"]) for line in Lines(path).new()]


def test_a_document_comes_back_as_it_was(tmp_path: Path):
    append_lines(tmp_path / "lines", [AWKWARD, {}], 3)
    lines = Lines(tmp_path / "lines")
    assert (lines.new(), lines.driver) == ([AWKWARD, {}], 3)


def test_a_reader_gives_each_line_once(tmp_path: Path):
    path, lines = tmp_path / "lines", Lines(tmp_path / "lines")
    assert lines.new() == []
    written(path, (1, 1), (2, 1))
    assert [line["epoch"] for line in lines.new()] == [1, 2]
    assert lines.new() == []
    written(path, (3, 1))
    assert [line["epoch"] for line in lines.new()] == [3]


def test_a_number_that_json_does_not_know_is_not_written(tmp_path: Path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_lines(tmp_path / "lines", [{"epoch": 1}, {"loss": float("nan")}], 1)
    assert not (tmp_path / "lines").exists()


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ([(1, 1), (2, 1), (3, 2)], [(1, 1), (2, 1), (3, 2)]),
        ([(1, 1), (2, 2), (2, 1), (3, 1)], [(1, 1), (2, 2)]),
        ([(1, 1), (2, 3), (3, 2), (3, 1), (3, 3)], [(1, 1), (2, 3), (3, 3)]),
        ([(1, 5), (2, 4)], [(1, 5)]),
    ],
)
def test_what_an_older_driver_writes_after_a_newer_one_counts_no_more(
    tmp_path: Path, lines: list[tuple[int, int]], kept: list[tuple[int, int]]
):
    path = written(tmp_path / "lines", *lines)
    assert epochs(path) == kept
    reader, seen = Lines(path), []
    path.unlink()
    for line in lines:  # read as it grows, or at once: the same
        written(path, line)
        seen += [(document["epoch"], document["by"]) for document in reader.new()]
    assert seen == kept


def test_every_single_bit_that_flips_is_noticed():
    line = sealed({"epoch": 3, "val_loss": 0.1, "worker": {"pid": 7}}, 2)
    assert unsealed(line) == {"epoch": 3, "val_loss": 0.1, "worker": {"pid": 7}, "driver": 2}
    for position in range(8 * len(line)):
        flipped = bytearray(line)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(ValueError, match="its checksum does not match"):
            unsealed(bytes(flipped))


def test_no_bit_that_flips_in_a_file_changes_a_line_that_is_read(tmp_path: Path):
    """The newlines count too: one that is gone joins lines, one that comes up parts them."""
    path = written(tmp_path / "lines", (1, 1), (2, 1), (3, 1))
    sound = path.read_bytes()
    for position in range(0, 8 * len(sound), 3):
        flipped = bytearray(sound)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        line = sound[: position // 8].count(b"\n")
        if position // 8 == len(sound) - 1:  # the last newline: that line was cut off
            assert epochs(path) == [(1, 1), (2, 1)]
            continue
        with pytest.raises(DamagedError, match=rf":{line + 1} is damaged: its checksum") as caught:
            epochs(path)
        assert [document["epoch"] for document in caught.value.sound] == [1, 2, 3][:line]


def test_a_last_line_that_was_cut_off_is_none_and_makes_way(tmp_path: Path):
    path = written(tmp_path / "lines", (1, 1), (2, 1))
    sound = path.read_bytes()
    for length in range(len(sound)):
        path.write_bytes(sound[:length])
        whole = sound[:length].count(b"\n")
        assert epochs(path) == [(1, 1), (2, 1)][:whole]
        written(path, (9, 1))
        assert epochs(path) == [*[(1, 1), (2, 1)][:whole], (9, 1)]


def test_a_reader_takes_up_a_line_once_it_is_whole(tmp_path: Path):
    path = tmp_path / "lines"
    line, lines = sealed({"epoch": 1}, 1) + b"\n", Lines(path)
    for length in range(len(line)):
        path.write_bytes(line[:length])
        assert lines.new() == []
    path.write_bytes(line)
    assert lines.new() == [{"epoch": 1}]


Small = Callable[[int], AbstractContextManager[None]]


@pytest.fixture
def small_files() -> Small:
    """Gives a context in which no file of this process may be longer."""

    @contextlib.contextmanager
    def limited(length: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (length, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

    return limited


def test_documents_are_appended_all_or_none(tmp_path: Path, small_files: Small):
    path = written(tmp_path / "lines", (1, 1))
    sound = path.read_bytes()
    documents = [{"epoch": epoch, "by": 1} for epoch in (2, 3)]
    length = sum(len(sealed(document, 1)) + 1 for document in documents)
    for room in (0, 1, length // 2, length - 1):
        with small_files(len(sound) + room), pytest.raises(OSError, match=r"\[Errno (27|28)\]"):
            append_lines(path, documents, 1)
        assert path.read_bytes() == sound
    with small_files(len(sound) + length):
        append_lines(path, documents, 1)
    assert epochs(path) == [(1, 1), (2, 1), (3, 1)]


def test_a_damaged_metric_file_is_kept_aside_and_its_sound_epochs_stay(tmp_path: Path):
    path = written(tmp_path / "metrics.jsonl", (1, 1), (2, 1), (3, 1))
    damaged = path.read_bytes().replace(b'"epoch": 3', b'"epoch": 4')
    path.write_bytes(damaged)
    reports, damage = read_reports(path)
    assert [report["epoch"] for report in reports] == [1, 2]
    assert damage == f"{path}:3 is damaged: its checksum does not match"
    put_aside(path, reports, 2)
    assert path.with_name("metrics.jsonl.damaged").read_bytes() == damaged
    assert read_reports(path) == (reports, "")


def test_an_epoch_that_comes_twice_is_the_one_recorded_last(tmp_path: Path):
    path = written(tmp_path / "metrics.jsonl", (1, 1), (2, 1), (2, 2), (3, 2), (5, 2))
    assert [(line["epoch"], line["by"]) for line in read_reports(path)[0]] == [
        *((1, 1), (2, 2), (3, 2))
    ]


def test_random_bytes_are_no_lines(tmp_path: Path):
    dice = random.Random(0)
    path = tmp_path / "lines"
    for size in range(200):
        path.write_bytes(dice.randbytes(size) + b"\n")
        with pytest.raises(DamagedError):
            Lines(path).new()
    for text in (b"\0" * 100, b"", json.dumps(AWKWARD).encode()):  # without an end: cut off
        path.write_bytes(text)
        assert Lines(path).new() == []
