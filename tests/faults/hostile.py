"""Hostile sweep files by kind: each makes a text, or bytes, from a random source and a size."""

import codecs
import re
from collections.abc import Callable
from random import Random

from search_spaces import preset_path, presets

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
LEAF = "{log_uniform: [1e-3, 1]}"
CONSTANT = f"constant: {{peak_lr: {LEAF}}}"
CALL = "!!python/object/apply:os.system ['touch pwned']"
SIGNS = ["-", "? ", ": ", ",", "[", "]", "{", "}", "#", "&a ", "*a ", "!t ", "'", '"', "%", "\t"]
TOKENS = [*SIGNS, "a", "1", " ", "\n", "\r\n", "\n  ", "- ", " #", "!!", "!<", "|\n", ">\n", "é"]
TOKENS += ["---\n", "...\n", "<<: *a", "\ufeff", "\u2028", "\x85", "\\", "`", "|2-\n", CALL]
CONTROLS = [chr(code) for code in (*range(9), *range(14, 32), 127, *range(128, 133), 0xFFFE)]


def filled(piece: str, size: int) -> str:
    return (piece * (size // len(piece) + 1))[:size]


def inserted(r: Random, text: str, pieces: list[str]) -> str:
    for _ in range(r.randint(1, 5)):
        at = r.randint(0, len(text))
        text = text[:at] + r.choice(pieces) + text[at:]
    return text


def numbered(word: str, number: int, after: str = ": 1, ") -> str:
    return "".join(f"{word}{index}{after}" for index in range(number))


def preset_text(r: Random) -> str:
    path = preset_path(r.choice(presets()))
    assert path is not None
    return path.read_text()


def bombs(r: Random, size: int) -> str:
    width = r.randint(2, 9)
    number = size // (width * 8 + 20)
    levels = (f"k{n}: &k{n} [{f'*k{n - 1},' * width}]\n" for n in range(1, number))
    many = filled(r.choice(["&a x,", "*a,", "&a [*a],", "{<<: *a},"]), size)
    return r.choice([f"k0: &k0 [x]\n{''.join(levels)}", f"a: [{many}]", f"{SOUND}b: &b {{a: *b}}"])


def deep(r: Random, size: int) -> str:
    stairs = "".join(" " * depth + "a:\n" for depth in range(int((2 * size) ** 0.5) - 2))
    flow = filled(r.choice(["[", "{", "{a: ", "[{", "[\n", "- ", "? ", "- - ? ", "[[],"]), size)
    return r.choice([flow, flow, f"a: {flow}", SOUND.replace(LEAF, flow), stairs])


def tags(r: Random, size: int) -> str:
    name = r.choice(["name:os.system", "module:pwn", "object/apply:eval", "object/new:type"])
    tag = r.choice([f"!!python/{name} x", CALL, f"!{'x' * size} x", f"!<{filled('%41', size)}> x"])
    spot = r.choice([LEAF, "cnn", "0.9", "100", "t\n", "{num_trials: 8}"])
    handles = numbered("%TAG !e", size // 20, "! tag:x,1:\n")
    odd = r.choice([f"{tag}\n", "!" * size, f"{handles}---\n{SOUND}? !e1!a"])
    return r.choice([SOUND.replace(spot, f"{tag}\n", 1), odd])


def keys(r: Random, size: int) -> str:
    line = r.choice(SOUND.splitlines(keepends=True))
    flood = numbered(r.choice(["peak_lr", "k", "x"]), min(size // 12, r.choice([98, 9999])))
    point = f"{{schedule: {{constant: {{{flood}}}}}}}, "
    wide = f"{SOUND}enqueue: [{point * min(14_000 // 98, 1 + size // len(point))}]"
    odd = r.choice(["1: x", "null: x", "[a]: b", "{a: b}: c", "&a b: c", "*a : c", "<<: {a: 1}"])
    spot = r.choice([(LEAF, f"{{{flood}}}"), ("t\n", f"t\n{odd}\n"), ("{peak", f"{{{flood}peak")])
    return r.choice([SOUND.replace(line, line * 2), wide, wide, SOUND.replace(*spot)])


def lists(r: Random, size: int) -> str:
    """Many values for one rule to look at: options, points, ends, or each against each."""
    options = numbered("", min(size // 20, r.choice([460, 1990, 99_999])), ", ")
    ranges = "{uniform: [0, 1]}, " * min(size // 20, r.choice([110, 9999]))
    entry = r.choice(["x", "{}", "[]", "{schedule: {constant: {peak_lr: x}}}", "[[{a: {}}]]", "''"])
    points = f"{entry}, " * min(size // (len(entry) + 2), r.choice([1990, 9999]))
    free = r.choice([CONSTANT, f"constant: {{peak_lr: {{choice: [{options}]}}}}"])
    many = f"interpolate: {{values: [{ranges}], knots_fraction: [{ranges}]}}"
    text = SOUND.replace(CONSTANT, r.choice([free, free, many]))
    return text.replace("num_trials: 8", "hours: x") + f"enqueue: [{points}]\n"


def samples(r: Random, size: int) -> str:
    """Sound but for what is found once every curve is tried."""
    options = numbered("1e-", min(1 + size // 20, 300), ", ")
    leaf = r.choice([LEAF, f"{{choice: [{options}]}}"])
    families = "\n    ".join(f"{name}: default" for name in r.sample(FAMILIES, r.randint(1, 6)))
    warmup = f"  warmup_steps: {leaf}\n  warmup_init_fraction: 2\n"
    text = SOUND.replace(CONSTANT, r.choice([CONSTANT, families]).replace(LEAF, leaf))
    return text.replace("  momentum", f"{warmup}  momentum")


def line_ends(r: Random, size: int) -> str:
    text = SOUND.replace("\n", r.choice(["\r\n", "\r", "\n\r", "\x85", "\u2028", " \n"]))
    text = inserted(r, text, ["\ufeff", "\r", "\u2029", "\x85"])
    return text + filled(r.choice("\n#\r"), size // 8)


def controls(r: Random, size: int) -> str:
    return inserted(r, SOUND + "#" * size, CONTROLS)


def encodings(r: Random, size: int) -> bytes:
    raw = bytearray((SOUND + "# é " + "x" * size).encode())
    at = r.randrange(len(raw))
    raw[at:at] = r.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe9"])
    name = r.choice(["utf-16", "utf-16-be", "utf-32", "cp037"])
    other = r.choice([codecs.encode(SOUND, name), codecs.encode(raw, "zlib"), r.randbytes(size)])
    return r.choice([bytes(raw), other])


def scalars(r: Random, size: int) -> str:
    body = filled(r.choice(["x", "x ", "x\n ", "\\n", "\\u0041", "''", "\n", "%", "k: v "]), size)
    forms = ["a: {}", "a: '{}'", 'a: "{}"', "a: |\n {}", "a: >\n {}", "? {}\n: 1", "{}", "&{} a"]
    return r.choice([r.choice(forms).format(body), f"{SOUND}{body}z: 1"])


def numbers(r: Random, size: int) -> str:
    digits = "9" * size
    number = r.choice([digits, f"-{digits}", f"0x{digits}", f"0.1e{digits}", "1e999999", ".inf"])
    spot = r.choice(["version: 1", "epochs: 10", "size: 64", "trials: 8", "examples: 100", "[1e-3"])
    return SOUND.replace(spot, re.sub("[0-9].*", number, spot))


def names(r: Random, size: int) -> str:
    name = r.choice(["../../x", "/etc/x", "..", "~", "a\\nb", "\\0", "a/b", "-rf", ".", "", "é"])
    return SOUND.replace("name: t", f'name: "{name}{r.choice(["/", "x" * size + "/", "x" * 300])}"')


def functions(r: Random, size: int) -> str:
    """Functions that a sound file may name, in files that are not sound."""
    name = r.choice(["os:system", "pwn:f", "pwn.py:f", "./pwn.py:f", "../else/pwn.py:f", "pwn:g"])
    leaf = r.choice([f"'{name}'", f"{{choice: ['{name}', 'math:exp']}}"])
    spoilt = [("n: 1", "n: 2"), ("8}", "0}"), ("8}", "8"), ("0.9", "1.9"), ("data:", "date:")]
    text = SOUND.replace(CONSTANT, f"custom: {{function: {leaf}}}")
    return text.replace(*r.choice(spoilt)) + "#" * size


def documents(r: Random, size: int) -> str:
    more = r.choice(["---\n", "...\n---\na: 1\n", "--- x\n", "%YAML 1.1\n---\n", "...\n%TAG ! x\n"])
    first = f"%YAML 1.{size}\n---\n{SOUND}"
    return r.choice([SOUND + more + SOUND, f"{SOUND}{filled(more, size)}a", first])


def escapes(r: Random, size: int) -> str:
    piece = r.choice(["\\UFFFFFFFF", "\\uD800", "\\q", "\\x", "\\u12", "\\e[2J", "\\0", "\\U0011"])
    spot = r.choice(["name", "constant", "cnn", "digits"])
    return SOUND.replace(spot, f'"{filled(piece, r.choice([len(piece), size]))}"')


def soups(r: Random, size: int) -> str:
    piece = "".join(r.choice(TOKENS) for _ in range(r.randint(1, r.choice([2, 8, 400]))))
    start = r.choice(["", "a: ", 'a: "', "a: '", "a: [", "a: |\n "])
    return f"{start}{filled(piece, size)}\n? [x]"


def too_large(r: Random, size: int) -> str:
    return SOUND + filled(r.choice(["#", "\n", "# x\n", "a: 1\n", "[", " "]), 2**18 + 8 * size)


def wrong_types(r: Random, size: int) -> str:
    spots = [match.span(1) for match in re.finditer(r": ([\w.-]+|\{.*\})(?=[,}\n])", SOUND)]
    start, stop = r.choice(spots)
    kinds = ["[]", "[[x]]", "{}", "{a: 1}", "{choice: {a: 1}}", "null", "'1'", "-1", "1e3"]
    return SOUND[:start] + r.choice([*kinds, f"[{'1,' * (size // 9)}]"]) + SOUND[stop:]


def mutated(r: Random, size: int) -> bytes:
    raw = bytearray(preset_text(r).encode())
    for _ in range(r.randint(1, 1 + size // 2000)):
        at, length = r.randrange(len(raw)), r.choice([0, 1, 1, 2, 30])
        raw[at : at + length] = r.choice([r.choice(SIGNS).encode(), r.randbytes(r.randint(0, 2))])
    return bytes(raw)


def truncated(r: Random, size: int) -> str:
    text, other = preset_text(r), preset_text(r)
    cut = text[: r.randrange(len(text))]
    spliced = cut + other[r.randrange(len(other)) :]
    return r.choice([cut, spliced, inserted(r, text, ["\t", "  ", "\n"])])


KINDS: tuple[Callable[[Random, int], str | bytes], ...] = (
    *(bombs, deep, tags, keys, lists, samples, line_ends, controls, encodings, scalars, numbers),
    *(names, functions, documents, escapes, soups, too_large, wrong_types, mutated, truncated),
)
MAY_BE_SOUND = (line_ends, wrong_types, mutated, truncated)


OPTIONS = f"{{choice: [{numbered('', 450, ', ')}]}}"
POINT = "{schedule: {constant: {peak_lr: x}}}, "
UNKNOWN = f"{{schedule: {{constant: {{{numbered('peak_l', 97)}}}}}}}, "
FAMILIES = ("rex", "cosine_decay", "one_cycle", "cyclic", "interpolate", "reduce_on_plateau")
HEAVIEST = (  # close below the bounds of what a file may hold
    f"a: [{('[' + '[], ' * 1990 + '], ') * 9}]",
    f"{SOUND}enqueue: [{UNKNOWN * 148}]",
    SOUND.replace(LEAF, OPTIONS) + f"enqueue: [{POINT * 1990}]",
    SOUND.replace(CONSTANT, "\n    ".join(f"{family}: default" for family in FAMILIES)).replace(
        "momentum: 0.9", f"warmup_steps: {OPTIONS}\n  warmup_init_fraction: 2"
    ),
)


def hostile(kind: Callable[[Random, int], str | bytes], number: int) -> bytes:
    """The document of a kind with this number, the same every time; the first are the largest."""
    r = Random(f"{kind.__name__} {number}")
    size = 260_000 if number < 3 else int(10 ** r.uniform(1.6, 5))
    document = kind(r, size)
    return document if isinstance(document, bytes) else document.encode("utf-8", "surrogatepass")
