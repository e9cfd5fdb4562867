"""The rules of the house, so that nobody has to say them: arrows, lengths, unsafe, clocks, stubs, names."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PURE = ("model", "wire", "store", "query")

# Crate -> the crates of ours that it may name. `query` sees storage through `model::Source` only.
RUST_ARROWS = {
    "model": set(),
    "wire": {"model"},
    "store": {"model"},
    "query": {"model"},
    "python": {"model", "wire", "store", "query"},
}
# Python rooms, lowest first; a room imports from rooms above it in this list only, never from its own line.
PYTHON_ORDER: list[set[str]] = [
    {"errors", "clock", "files", "heap", "lines", "logs", "_native"},
    {"times", "sizes", "histograms", "values"},
    {"web"},
    {"config", "frames"},
    {"explain", "expressions", "scan", "storage", "subscribe", "charts", "writes"},
    {"adapters", "lifecycle"},
    {"cold", "durability", "incidents", "limits", "precision", "retention", "rollups"},
    {"alerts"},
    {"database"},
    {"testing"},
    {"server"},
    {"demo"},
    {"cli"},
]
# What a pure crate may not touch: time, threads, sockets, chance, files, the outside of the process. (`RandomState`,
# the secret key of a hash table, decides no answer and is allowed; so is a scoped thread, which ends with its call.)
FORBIDDEN_IN_RUST = re.compile(
    r"std::time::(?:Instant|SystemTime)|Instant::now|SystemTime::now|thread::spawn|thread::sleep|std::net\b|std::fs\b"
    r"|std::process|std::env\b|\brand::|\bgetrandom\b|println!|eprintln!|dbg!"
)
FORBIDDEN_IN_PYTHON = {
    ("time", "time"), ("time", "time_ns"), ("time", "monotonic"), ("datetime", "now"), ("datetime", "utcnow"),
    ("random", "random"), ("random", "randint"), ("random", "choice"),
}  # fmt: skip
# Where the machine's own clock may be read: the clock, and what only measures how long a person waits.
MAY_READ_TIME = {"metricsdb/clock.py", "metricsdb/demo.py"}
UNSAFE_FILES = {"rust/store/src/codec/simd.rs", "rust/store/src/chunk/block.rs", "rust/python/src/expressions/ffi.rs"}
LINES_SOFT, LINES_MAX, FUNCTION_LINES_MAX = 700, 900, 70


def rust_files(*crates: str) -> list[Path]:
    return sorted(p for crate in crates for p in (ROOT / "rust" / crate / "src").rglob("*.rs"))


def is_rust_test(path: Path) -> bool:
    return path.stem in ("tests", "testing", "naive") or "tests" in path.parts


def rust_product(path: Path) -> str:
    """The file without its test module (by our habit the last item) and without comments."""
    text = path.read_text()
    cut = re.search(r"^#\[cfg\((?:all\()?test", text, re.MULTILINE)
    while cut is not None and re.match(r"#\[cfg\(test\)\]\s*(?:pub(?:\([a-z]+\))? )?mod \w+;", text[cut.start() :]):
        # `#[cfg(test)] mod tests;` names a file; what follows it is product.
        end = text.index(";", cut.start()) + 1
        text = text[: cut.start()] + text[end:]
        cut = re.search(r"^#\[cfg\((?:all\()?test", text, re.MULTILINE)
    text = text if cut is None else text[: cut.start()]
    return re.sub(r"//[^\n]*", "", text)


def python_files() -> list[Path]:
    return sorted(p for p in (ROOT / "metricsdb").rglob("*.py"))


def code_lines(text: str) -> int:
    return sum(1 for line in text.splitlines() if line.strip())


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("crate", RUST_ARROWS)
def test_crates_name_only_the_crates_beneath_them(crate):
    manifest = tomllib.loads((ROOT / "rust" / crate / "Cargo.toml").read_text())
    named = {n.removeprefix("metricsdb-") for n in manifest.get("dependencies", {}) if n.startswith("metricsdb-")}
    assert named <= RUST_ARROWS[crate]


@pytest.mark.parametrize("crate", PURE)
def test_pure_crates_know_neither_python_nor_polars(crate):
    manifest = tomllib.loads((ROOT / "rust" / crate / "Cargo.toml").read_text())
    assert not {"pyo3", "numpy", "polars", "pyo3-polars", "tokio", "rand"} & set(manifest.get("dependencies", {}))


@pytest.mark.parametrize("path", rust_files(*PURE), ids=relative)
def test_pure_crates_touch_no_clock_thread_socket_or_chance(path):
    if is_rust_test(path):
        return
    assert not FORBIDDEN_IN_RUST.findall(rust_product(path))


def test_unsafe_stands_only_in_the_files_that_say_why():
    found = {relative(p) for p in rust_files(*RUST_ARROWS) if re.search(r"\bunsafe\s*(?:\{|fn|impl)", rust_product(p))}
    assert found <= UNSAFE_FILES
    for name in found:
        text = (ROOT / name).read_text()
        assert text.count("SAFETY:") >= len(re.findall(r"\bunsafe\s*\{", text))


@pytest.mark.parametrize("path", [*rust_files(*RUST_ARROWS), *python_files()], ids=relative)
def test_files_end_before_900_lines_and_say_why_after_700(path):
    product = rust_product(path) if path.suffix == ".rs" and not is_rust_test(path) else path.read_text()
    lines = code_lines(product)
    assert lines <= LINES_MAX
    if lines > LINES_SOFT:
        head = "\n".join(path.read_text().splitlines()[:30])
        assert re.search(r"\b(?:long|lines|length)\b", head), "over 700 lines: the head must say why"


RUST_FUNCTION = re.compile(r"^( *)(?:pub(?:\([a-z ]+\))? )?(?:const )?(?:async )?(?:unsafe )?fn (\w+)", re.MULTILINE)


def rust_functions(text: str) -> list[tuple[str, list[str]]]:
    """Name and body lines of each function; rustfmt closes a body at the indent it began with."""
    lines, found = text.splitlines(), []
    for start, line in enumerate(lines):
        match = RUST_FUNCTION.match(line)
        if match is None:
            continue
        for end in range(start, len(lines)):
            if lines[end].rstrip() == match[1] + "}" or (end == start and line.rstrip().endswith(("}", ";"))):
                found.append((match[2], lines[start : end + 1]))
                break
            if lines[end].rstrip().endswith(";") and "{" not in "".join(lines[start : end + 1]):
                break
    return found


def is_flat_table(body: list[str]) -> bool:
    """A function that is one `match` or one literal table: as long as its subject."""
    arms = sum(1 for line in body if "=>" in line or re.match(r"\s*(?:[A-Z]\w+|row|entry)\b.*[({,]", line))
    return arms * 2 >= len(body) - 6


@pytest.mark.parametrize("path", rust_files(*RUST_ARROWS), ids=relative)
def test_rust_functions_fit_a_screen(path):
    if is_rust_test(path):
        return
    long = {
        name: len(body)
        for name, body in rust_functions(rust_product(path))
        if len(body) > FUNCTION_LINES_MAX and not is_flat_table(body)
    }
    assert not long


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@pytest.mark.parametrize("path", python_files(), ids=relative)
def test_python_functions_fit_a_screen(path):
    long = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES_MAX
    }
    assert not long


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "metricsdb" and len(parts) > 1 else None


def level_of(room: str) -> int:
    return next(i for i, rooms in enumerate(PYTHON_ORDER) if room in rooms)


def imported_rooms(path: Path) -> set[str]:
    tree, found = parsed(path), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []  # names for the type checker alone
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {room for alias in node.names if (room := room_of(alias.name))}
        elif isinstance(node, ast.ImportFrom) and node.module == "metricsdb":
            rooms = set().union(*PYTHON_ORDER)
            found |= {alias.name for alias in node.names if alias.name in rooms}
        elif isinstance(node, ast.ImportFrom) and node.module and (room := room_of(node.module)):
            found.add(room)
    return found


@pytest.mark.parametrize("path", python_files(), ids=relative)
def test_python_names_only_rooms_beneath(path):
    room = path.relative_to(ROOT / "metricsdb").parts[0].removesuffix(".py")
    if room in ("__init__", "__main__"):
        return
    others = imported_rooms(path) - {room}
    assert all(level_of(other) < level_of(room) for other in others), others


@pytest.mark.parametrize("path", python_files(), ids=relative)
def test_time_and_chance_come_in_as_arguments(path):
    if relative(path) in MAY_READ_TIME:
        return
    calls = {
        (node.func.value.id, node.func.attr)
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name)
    }
    assert not calls & FORBIDDEN_IN_PYTHON


@pytest.mark.parametrize("path", python_files(), ids=relative)
def test_no_data_is_run(path):
    """What is read is never code: no pickles, no YAML that builds objects, no shell, no evaluation of text."""
    modules, calls = set[str](), set[str]()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call):
            calls.add(ast.unparse(node.func))
            assert not any(word.arg == "shell" for word in node.keywords)
    assert not modules & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    assert not {call for call in calls if call in ("eval", "exec", "compile", "os.system", "os.popen")}
    assert {call for call in calls if call.startswith("yaml.")} <= {"yaml.safe_load"}


def stub_names(nodes: list[ast.stmt]) -> dict[str, list[ast.stmt]]:
    found: dict[str, list[ast.stmt]] = {}
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            found[node.name] = node.body
        elif isinstance(node, ast.FunctionDef):
            found[node.name] = []
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = []
    return found


def public(names: list[str]) -> set[str]:
    return {n for n in names if not n.startswith("_")}


def test_the_stub_says_what_the_native_module_has():
    native = importlib.import_module("metricsdb._native")
    stub = stub_names(parsed(ROOT / "metricsdb" / "_native.pyi").body)
    assert public(list(stub)) == public(dir(native))
    for name, body in stub.items():
        thing = getattr(native, name)
        if not inspect.isclass(thing):
            continue
        methods = stub_names(body)
        assert public(list(methods)) == public(dir(thing)), name
        for node in body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                arguments = [a.arg for a in node.args.args if a.arg != "self"]
                real = [p for p in inspect.signature(getattr(thing, node.name)).parameters if p != "self"]
                assert arguments == real, f"{name}.{node.name}"


def test_every_error_class_is_named_by_a_test():
    errors = importlib.import_module("metricsdb.errors")
    tests = "\n".join(p.read_text() for p in (ROOT / "tests").rglob("test_*.py") if p != Path(__file__))
    unnamed = {name for name in errors.__all__ if not re.search(rf"\b{name}\b", tests)}
    assert not unnamed


def test_every_error_stands_in_the_tree_at_the_top_of_its_file():
    errors = importlib.import_module("metricsdb.errors")
    drawn = set(re.findall(r"(?:── |^)([A-Z]\w+)(?:$|  )", errors.__doc__ or "", re.MULTILINE))
    assert drawn == set(errors.__all__)
    defined = {n for n, c in vars(errors).items() if inspect.isclass(c) and issubclass(c, Exception)}
    assert defined == set(errors.__all__)


def test_all_names_the_whole_public_face_and_nothing_else():
    metricsdb = importlib.import_module("metricsdb")
    assert sorted(metricsdb.__all__, key=str.lower) == sorted(set(metricsdb.__all__), key=str.lower)
    assert all(hasattr(metricsdb, name) for name in metricsdb.__all__)
    errors = importlib.import_module("metricsdb.errors")
    assert set(errors.__all__) <= set(metricsdb.__all__)


@pytest.mark.parametrize("path", python_files(), ids=relative)
def test_what_a_module_declares_public_is_there(path):
    declared = [
        node for node in parsed(path).body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
    ]  # fmt: skip
    if not declared or path.name == "__main__.py":
        return
    names = set(ast.literal_eval(declared[0].value))
    bound = {n.name for n in parsed(path).body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    for node in parsed(path).body:
        if isinstance(node, ast.Assign):
            bound |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            bound.add(node.target.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(a.asname or a.name).split(".")[0] for a in node.names}
    assert names <= bound
