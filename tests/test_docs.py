"""What the documentation prints can be typed: every command is parsed, every Python block compiled, nothing trained.

A command that no check knows is a failure. Those of other programs are in `command_checks.OTHER_PROGRAMS`.
"""

import ast
import contextlib
import importlib
import importlib.util
import inspect
import itertools
import re
import shlex
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from command_checks import Wrong, check

from mgc_jax.config.keys import default, leaves

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "tfds_fma" / "README.md", ROOT / "examples" / "README.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]  # fmt: skip
SCRIPTS = [*sorted((ROOT / "launch").iterdir()), ROOT / ".ci" / "run"]

OF_THE_READER = ("my_config.py",)  # files that a reader writes
PLACEHOLDERS = ("key", "a.b", "x.y", "json", "py")  # `--config.key=value`, config.json


class Command(NamedTuple):
    """A command line as printed, and where."""

    where: str
    text: str


# ---- What is printed where


def fenced(path: Path, languages: str) -> Iterator[tuple[int, str]]:
    """Yields (line, text) of the fenced blocks of a page in these languages."""
    text = path.read_text()
    for found in re.finditer(rf"^```(?:{languages})(?: \w+)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, found.start()) + 2, found[1]


def indented(text: str, prefix: str) -> str:
    """Returns the lines that begin with a prefix, without it."""
    return "\n".join(line.removeprefix(prefix) for line in text.splitlines() if line.startswith(prefix))


def commands() -> Iterator[Command]:
    """Yields every command of the pages, of the configurations' docstrings and of the scripts' headers."""
    blocks: list[tuple[Path, int, str]] = []
    for path in PAGES:
        blocks += [(path, line, text) for line, text in fenced(path, "bash|shell|sh|console")]
    for path in sorted((ROOT / "configs").glob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        blocks.append((path, 1, indented(docstring, "    ")))
    for path in SCRIPTS:
        header = re.split(r"^[^#]", path.read_text(), maxsplit=1, flags=re.MULTILINE)[0]
        blocks.append((path, 1, indented(header, "#   ")))
    for path, line, text in blocks:
        for offset, joined in logical_lines(text):
            yield from (Command(f"{path.relative_to(ROOT)}:{line + offset}", part) for part in parts_of(joined))


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yields (line, text) with continued lines joined, without empty ones and comments."""
    start, held = 0, ""
    for number, line in enumerate(text.splitlines()):
        start = start if held else number
        held += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        if held.strip() and not held.lstrip().startswith("#"):
            yield start, held.strip()
        held = ""


def parts_of(line: str) -> list[str]:
    """Cuts `a && b` in two."""
    words = shlex.split(line, comments=True)
    cuts = [-1, *(i for i, word in enumerate(words) if word == "&&"), len(words)]
    return [shlex.join(words[a + 1 : b]) for a, b in itertools.pairwise(cuts)]


# ---- Python


def blocks() -> Iterator[Command]:
    """Yields every block of Python in the pages."""
    for path in PAGES:
        yield from (Command(f"{path.relative_to(ROOT)}:{line}", text) for line, text in fenced(path, "python"))


def check_python_block(text: str) -> None:
    """Compiles a block; what it imports of ours exists, and functions of `mgc_jax` take the arguments that it gives.

    Raises:
        Wrong: a name does not exist, or a call does not fit.
        SyntaxError: it is no Python.
    """
    tree = ast.parse(textwrap.dedent(text))
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and is_ours(node.module):
            for alias in node.names:
                found(node.module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if is_ours(alias.name):
                    importlib.import_module(alias.name)
                    modules[alias.asname or "mgc_jax"] = alias.name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            found(modules[node.value.id], node.attr)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id in modules:
                function = found(modules[owner.id], node.func.attr)
                try:
                    keywords = {word.arg: None for word in node.keywords}
                    inspect.signature(function).bind(*node.args, **keywords)
                except TypeError as error:
                    raise Wrong(f"{ast.unparse(node)}: {error}") from error


def is_ours(module: str | None) -> bool:
    """Whether a module is of this project."""
    return (module or "").split(".")[0] in ("mgc_jax", "tfds_fma")


def found(module: str, name: str) -> Any:
    """Returns a name of a module, which may be a module itself."""
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        raise Wrong(f"there is no module {module}") from error
    with contextlib.suppress(AttributeError):
        return getattr(loaded, name)
    try:
        return importlib.import_module(f"{module}.{name}")
    except ImportError as error:
        raise Wrong(f"{module} has no {name}") from error


# ---- Tests


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def printed(entries: Callable[[], Iterator[Command]]) -> Any:
    """A test per entry, called by its place."""
    every = list(entries())
    return pytest.mark.parametrize("text", [entry.text for entry in every], ids=[entry.where for entry in every])


@printed(commands)
def test_command(text):
    if not any(name in text for name in OF_THE_READER):
        check(text)


@printed(blocks)
def test_python(text):
    check_python_block(text)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script(path):
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.parametrize(
    "command",
    [
        "python -m mgc_jax.main --config configs/fma_small_mels.py:mat --config.data.arrays.clips=mels.npz",
        "python -m mgc_jax.main --config configs/none.py",
        "python -m mgc_jax.main --config configs/prcnn.py --config.train.epoch=3",
        "python -m mgc_jax.main --config configs/prcnn.py --config.train.epochs=0",
        "python -m mgc_jax.main --config configs/prcnn.py --epochs 3",
        "python -m mgc_jax.main --config configs/prcnn.py --mode evaluate",
        "python -m mgc_jax.main --config configs/svm.py:feature=mfcc",
        "python -m mgc_jax.tables ubc --only table1",
        "python -m mgc_jax.report",
        "python -m mgc_jax.report runs/a runs/b --output page.html",
        "python -m tfds_fma.prepare --download --source fma --subset huge",
        "python -m tfds_fma.prepar --download",
        "python benchmarks/peers.py --gpu",
        "launch/gpus.sh --config configs/prcnn.py --config.batch.row=2",
        "launch/sweeps.sh",
        "SEED=1 CONFIGS=configs/prcnn.py launch/sweep.sh",
        "pip install '.[cuda11]'",
        "train --config configs/prcnn.py",
    ],
)
def test_a_wrong_command_is_found(command):
    with pytest.raises(Wrong):
        check(command)


def test_a_wrong_block_is_found():
    for text in ("from mgc_jax.config import defaults", "import mgc_jax\nmgc_jax.train_all()"):
        with pytest.raises(Wrong):
            check_python_block(text)


INLINE = sorted({(path, code) for path in PAGES for code in re.findall(r"`([^`\n]+)`", path.read_text())})


def test_what_the_text_mentions_exists():
    """Configuration files, modules and keys that the pages mention within a line."""
    keys = {key for key, _ in leaves(default())}
    groups = {key.rpartition(".")[0] for key in keys} | {"optimizer.options", "optimizer.schedule_options"}
    free = ("model.encoder", "model.pooling", "optimizer.options", "optimizer.schedule_options", "baseline", "demo")
    wrong = []
    for path, code in INLINE:
        for name in re.findall(r"\bconfigs/\w+\.py", code):
            if not (ROOT / name).is_file():
                wrong.append((path.name, name))
        for key in re.findall(r"(?:^|--)config\.([a-z_.]+[a-z_])", code):
            if key not in keys | groups and not key.startswith(free) and key not in PLACEHOLDERS:
                wrong.append((path.name, f"config.{key}"))
        for module in re.findall(r"(?:python -m |^)((?:mgc_jax|tfds_fma|benchmarks)(?:\.[a-z_]\w*)+)$", code):
            if not module.endswith(".py") and not is_there(module):
                wrong.append((path.name, module))
    assert wrong == []


def is_there(dotted: str) -> bool:
    """Whether it is a module, or something in one."""
    names = dotted.split(".")
    value = importlib.import_module(names[0])
    for depth, name in enumerate(names[1:], 1):
        if not hasattr(value, name):
            try:
                importlib.import_module(".".join(names[: depth + 1]))
            except ImportError:
                return False
        value = getattr(value, name)
    return True


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "tfds_fma/README.md"])
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)", (ROOT / page).read_text())
    lost = [link for link in links if "://" not in link and not (ROOT / page).parent.joinpath(link).exists()]
    assert lost == []


def test_the_readme_is_a_screen_and_a_half():
    assert len((ROOT / "README.md").read_text().split()) <= 900
