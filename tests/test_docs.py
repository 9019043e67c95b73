"""README and docs as a reader meets them: every command runs, every link leads somewhere."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from docs.make import FOLDER, REFERENCES
from search_spaces import SweepConfig, check_samples, custom_functions, parse_config
from tests import documents
from tests.documents import Block, Step

LANGUAGES = {"sh", "python", "yaml", "text", "json"}
# Blocks that are not run here, by their text, and why.
NOT_RUN: Mapping[str, str] = {
    "python benchmarks/tutorial_table.py\n": "33 core-minutes; tests/test_benchmarks.py runs less",
    "sweep launch tutorial\n": "16 minutes; the page runs it small",
    "sweep launch all_families --set space.momentum=0.0\n": "an hour; runs in no test",
    "sweep ui small\n": "serves until Ctrl-C",
}
# Pages whose commands need more than one machine and its packages, and what tests them instead.
PAGES_NOT_RUN: Mapping[str, str] = {
    "docs/how-to/cluster.md": "tests/cluster/test_cluster.py",
    "docs/how-to/detach.md": "tests/cluster/test_jobs.py",
    "docs/how-to/docker.md": "tests/cluster/test_manifests.py",
    "docs/how-to/kubernetes.md": "tests/cluster/test_manifests.py",
    "docs/how-to/object-store.md": "tests/cluster/test_stores.py",
    "docs/how-to/notebook.md": "tests/sweep/test_notebook.py",
}
# The synopsis of the commands, which tests/test_project.py compares with the program.
SYNOPSIS = "sweep init [FILE]  "
FRAGMENTS_OF = """\
version: 1
name: whole
data: {dataset: digits, validation_examples: 287}
training: {num_epochs: 10, batch_size: 64}
space: {schedule: {constant: {peak_lr: {log_uniform: [1e-3, 1]}}}}
search: {num_trials: 8}
"""
ALL_PAGES = documents.pages()


def runnable(page: str) -> list[Step]:
    if page in PAGES_NOT_RUN:
        return []
    chosen = [block for block in documents.blocks(page) if block.text not in NOT_RUN]
    return [step for block in chosen for step in documents.steps(block)]


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What all pages share: compiled programs and prepared data, so that each is made once."""
    return {
        "JAX_COMPILATION_CACHE_DIR": tmp_path_factory.mktemp("programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0,
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": -1,
        "SWEEP_CACHE_DIR": tmp_path_factory.mktemp("data"),
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", [page for page in ALL_PAGES if runnable(page)])
def test_a_page_does_what_it_shows(
    page: str, tmp_path: Path, variables: dict[str, object], request: pytest.FixtureRequest
) -> None:
    todo = runnable(page)
    if any(re.search(r"tutorial|fashion_mnist", step.command) for step in todo):
        variables = variables | {"SWEEP_MANUAL_DIR": request.getfixturevalue("manual_dir")}
    ran = documents.run_page(tmp_path, todo, **variables)
    assert "\n".join(documents.faults(ran)) == ""


@pytest.mark.parametrize("page", ALL_PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    text = (documents.ROOT / page).read_text()
    found = documents.blocks(page)
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(found)
    for block in found:
        assert block.language in LANGUAGES or block.text.startswith(SYNOPSIS), block


@pytest.mark.parametrize("page", ALL_PAGES)
def test_sweep_files_are_valid(page: str) -> None:
    for block in documents.blocks(page):
        if block.language == "yaml" and block.text not in NOT_RUN:
            config = whole(block)
            if not any(".py:" in function for function in custom_functions(config)):
                check_samples(config)  # the others are checked where their page is run


def whole(block: Block) -> SweepConfig:
    """The sweep file that a block is, or is a part of."""
    read = YAML(typ="safe").load
    given = read(block.text)
    missing = {} if "version" in given else read(FRAGMENTS_OF)
    lines = [f"{key}: {value!r}\n" for key, value in missing.items() if key not in given]
    return parse_config("".join(lines) + block.text)


@pytest.mark.parametrize("page", ALL_PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in documents.links(page):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        path = documents.ROOT / page if not target else (documents.ROOT / page).parent / target
        assert path.exists(), link
        if anchor:
            name = str(path.resolve().relative_to(documents.ROOT))
            assert anchor in documents.anchors(name), link


def test_the_index_leads_to_every_page() -> None:
    index = documents.ROOT / "docs"
    found = {(index / link).resolve() for link in documents.links("docs/README.md")}
    for page in ALL_PAGES:
        path = documents.ROOT / page
        assert path in found or path.name == "README.md", page


@pytest.mark.parametrize("name", REFERENCES)
def test_the_references_are_those_of_the_program(name: str) -> None:
    assert (FOLDER / name).read_text() == REFERENCES[name](), "run make docs"


def test_what_is_not_run_stands_on_a_page() -> None:
    texts = {block.text for page in ALL_PAGES for block in documents.blocks(page)}
    assert set(NOT_RUN) <= texts
    assert all(NOT_RUN.values())
    assert set(PAGES_NOT_RUN) <= set(ALL_PAGES)
    assert all((documents.ROOT / test).exists() for test in PAGES_NOT_RUN.values())


@pytest.mark.slow
def test_a_page_that_is_wrong_is_found(tmp_path: Path) -> None:
    session = (
        "$ echo one two\none ...\n$ false\n$ echo $?\n1\n$ echo three\nfour\n$ false\n$ true\n"
    )
    todo = list(documents.steps(Block("page.md", 7, "sh", session)))
    found = list(documents.faults(documents.run_page(tmp_path, todo)))
    assert [fault.splitlines()[:2] for fault in found] == [
        ["page.md:7: $ echo three", "shows"],
        ["page.md:7: $ false", "ended with exit code 1:"],
        ["page.md:7: $ true", "was not reached, or took too long:"],
    ]


def test_the_readme_ends_a_launch_as_a_launch_does() -> None:
    """The session of another page, which is run, has the same last lines."""
    pages = "README.md", "docs/how-to/own-schedule.md"
    texts = [block.text for page in pages for block in documents.blocks(page)]
    (shown, run) = (text for text in texts if "\nwinner " in text)
    assert first_words(shown) == first_words(run)


def first_words(text: str) -> list[str]:
    """What the last lines of a launch begin with, from the winner on."""
    _, winner, rest = text.partition("\nwinner ")
    return re.findall(r"^\w+", (winner + rest).strip(), re.MULTILINE)


@pytest.mark.parametrize(
    ("shown", "output", "equal"),
    [
        ("a b\n", "a  b \n", True),
        ("a ... c\n", "a b c\n", True),
        ("a ... c\n", "a b d\n", False),
        ("...\na\n", "a\n", True),
        ("a\n...\n", "a\n", True),
        ("a\n...\nb\n", "a\nb\n", True),
        ("a\n...\nb\n", "a\n1\n2\nb\n", True),
        ("", "a\n", False),
        ("a\n", "", False),
    ],
)
def test_what_a_page_shows_is_held_against_what_is_printed(
    shown: str, output: str, equal: bool
) -> None:
    assert documents.same(shown, output) is equal
