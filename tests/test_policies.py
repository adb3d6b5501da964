"""Rules of the code that a linter does not know, each checked over the sources."""

import ast
import inspect
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import fastxent

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fastxent"
SOURCES = sorted(PACKAGE.rglob("*.py"))
KERNELS = [path for path in SOURCES if path.parent.name == "kernels"]
PUBLIC = [name for name in fastxent.__all__ if not name.startswith("__")]
LONGEST_MODULE = 470  # lines, docstrings apart


def module(path):
    return path.relative_to(ROOT).as_posix()


def syntax(path):
    return list(ast.walk(ast.parse(path.read_text())))


def names_used(path):
    for node in syntax(path):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            if not (isinstance(node.value, ast.Name) and node.value.id == "jax"):  # a peer's own compiler
                yield node.attr
        elif isinstance(node, ast.alias):
            yield node.name.rpartition(".")[2]


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_only_jit_compiles(path):
    if module(path) != "fastxent/kernels/jit.py":
        assert not {"njit", "jit", "vectorize", "guvectorize", "cfunc", "stencil"} & set(names_used(path))


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_only_batch_is_parallel(path):
    imported = {
        alias.name
        for node in syntax(path)
        if isinstance(node, ast.ImportFrom) and node.module == "fastxent.kernels.jit"
        for alias in node.names
    }
    if module(path) != "fastxent/kernels/batch.py":
        assert not {"parallel", "prange"} & imported


def freed_early(source):
    """Arrays that a function makes and last mentions where it takes a pointer, outside of loops.

    Numba frees an array after its last use, whatever points into it: memory.in_use is the use to put at the end.
    """
    makers, found = {"empty", "zeros", "room", "copy_buffer"}, []
    for function in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)):
        nodes = list(ast.walk(function))
        made = set()
        for node in (node for node in nodes if isinstance(node, ast.Assign)):
            for target in node.targets:
                pair = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                for name, value in zip(target.elts, node.value.elts) if pair else [(target, node.value)]:
                    if isinstance(name, ast.Name) and makers & {
                        getattr(x, "id", getattr(x, "attr", "")) for x in ast.walk(value)
                    }:
                        made.add(name.id)
        looped = {id(x) for node in nodes if isinstance(node, (ast.For, ast.While)) for x in ast.walk(node)}
        pointed = {
            id(x)
            for node in nodes
            if (isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("pointer", "aligned"))
            or (isinstance(node, ast.Attribute) and node.attr == "ctypes")
            for x in ast.walk(node)
        }
        for name in made:
            uses = [x for x in nodes if isinstance(x, ast.Name) and x.id == name and isinstance(x.ctx, ast.Load)]
            last = max(uses, key=lambda x: (x.lineno, x.col_offset), default=None)
            if last is not None and id(last) in pointed - looped:
                found.append(f"{function.name}: {name}")
    return found


@pytest.mark.parametrize("path", KERNELS, ids=module)
def test_no_pointer_outlives_its_array(path):
    assert freed_early(path.read_text()) == []


def test_a_pointer_that_outlives_its_array_is_found():
    kernel = "def f(n):\n    a, b = np.empty(n), room(n)\n    p, q = pointer(a, 0), aligned(b)\n    return p[0]\n"
    assert sorted(freed_early(kernel)) == ["f: a", "f: b"]
    assert freed_early(kernel.replace("    return", "    in_use(b)\n    return")) == ["f: a"]


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_no_fastmath(path):
    relaxed = {"fastmath", "fast", "reassoc", "nnan", "ninf", "nsz", "arcp", "contract", "afn"}  # LLVM's flags
    words = {node.value for node in syntax(path) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert "fastmath" not in {node.arg for node in syntax(path) if isinstance(node, ast.keyword)}
    assert path not in KERNELS or not relaxed & words


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_modules_stay_short(path):
    lines = len(path.read_text().splitlines())
    for node in syntax(path):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            lines -= node.body[0].end_lineno - node.body[0].lineno + 1
    assert lines <= LONGEST_MODULE


def test_the_oracle_does_not_know_the_package():
    imported = set()
    for node in syntax(ROOT / "tests" / "reference.py"):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert "fastxent" not in imported


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_load_and_are_listed(name):
    assert getattr(fastxent, name).__name__ == name
    assert name in dir(fastxent)


def test_type_checkers_see_the_public_names():
    seen = {
        alias.name
        for node in syntax(PACKAGE / "__init__.py")
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fastxent.")
        for alias in node.names
    }
    assert seen == set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_have_their_sections(name):
    thing = getattr(fastxent, name)
    text = inspect.getdoc(thing)
    assert text, f"{name} has no docstring"
    if inspect.isclass(thing):
        methods = {k: v for k, v in vars(thing).items() if inspect.isfunction(v) and not k.startswith("_")}
        assert not [method for method, function in methods.items() if not inspect.getdoc(function)]
        return
    signature = inspect.signature(thing)
    wanted = ["Examples"]
    if signature.parameters:
        wanted += ["Parameters", "Raises"]
    if signature.return_annotation not in (None, "None"):
        wanted += ["Returns"]
    sections = dict(re.findall(r"^(\w[\w ]+)\n-+\n(.*?)(?=^\w[\w ]+\n---|\Z)", text, re.MULTILINE | re.DOTALL))
    assert not [section for section in wanted if section not in sections]
    assert not [p for p in signature.parameters if not re.search(rf"\b{p}\b", sections.get("Parameters", ""))]


def tracked_files():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [Path(line) for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def test_top_level_holds_nothing_else():
    expected = {"pyproject.toml", "README.md", "LICENSE", "fastxent", "tests", "bench", "ci"}
    assert {path.parts[0] for path in tracked_files() if not path.parts[0].startswith(".")} <= expected


def test_no_file_depends_on_one_machine():
    machine = re.compile(r"""(?<![\w.:/<>-])/(?:home|root|work|Users|mnt)/\w|(?:extra-)?index[-_]url|find[-_]links""")
    found = []
    for path in tracked_files():
        try:
            text = (ROOT / path).read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{path}:{i}: {line}" for i, line in enumerate(text.splitlines(), 1) if machine.search(line)]
    assert not found


def test_no_file_that_is_published_is_large():
    """The sdist holds what the repository has of these folders."""
    listed = subprocess.run(["git", "ls-files", "fastxent", "tests", "bench", "ci"], cwd=ROOT, capture_output=True)
    paths = [ROOT / name for name in listed.stdout.decode().splitlines()] or [
        path for folder in ("fastxent", "tests", "ci") for path in (ROOT / folder).rglob("*") if path.is_file()
    ]
    sizes = {path.name: path.stat().st_size for path in paths if path.exists() and path.suffix != ".pyc"}
    assert len(sizes) > 100
    assert max(sizes.values()) <= 1_000_000
    assert sum(path.stat().st_size for path in paths if "corpus" in path.parts) <= 200_000
