"""Parses a command line as its program would, without doing the work."""

import argparse
import ast
import importlib
import importlib.util
import inspect
import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from absl import flags
from ml_collections import ConfigDict

from mgc_jax.__main__ import COMMANDS
from mgc_jax.config.loading import load_config
from mgc_jax.errors import UserError
from mgc_jax.models.encoders import ENCODERS
from mgc_jax.models.pooling import POOLINGS

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
OTHER_PROGRAMS = ("git", "ls", "source", "pre-commit", "ruff", "mypy", "lint-imports", "mkdocs", "tensorboard", "dask")


class Wrong(Exception):
    """A command, or a block of Python, that does not work as printed."""


def check(command: str) -> None:
    """Parses a command as its program would.

    Raises:
        Wrong: it would be refused, or it is of a program that no check knows.
    """
    words = shlex.split(command)
    variables = {}
    while re.match(r"[A-Z_]+=", words[0]):
        name, _, value = words.pop(0).partition("=")
        variables[name] = value
    program = re.sub(r"^(\.venv/bin/)", "", words[0])
    arguments = words[1:]
    if program in ("python", "python3"):
        return check_python(arguments)
    if program == "mgc-jax":
        word = arguments[0] if arguments else ""
        return check_argparse(COMMANDS[word], arguments[1:]) if word in COMMANDS else check_main(arguments)
    if program == "sbatch":
        program, arguments = next((w, arguments[i + 1 :]) for i, w in enumerate(arguments) if w.startswith("launch/"))
    if program.startswith("launch/"):
        return check_launch(program, arguments, variables)
    if program in (".ci/run", ".ci/newest") or program in OTHER_PROGRAMS:
        return None
    if program == "pip":
        return check_pip(arguments)
    raise Wrong(f"no check knows the program {program}; see OTHER_PROGRAMS")


def check_python(arguments: list[str]) -> None:
    """Checks `python -m MODULE ...` and `python FILE ...`."""
    if arguments[0] == "-m":
        module, rest = arguments[1], arguments[2:]
    else:
        path = ROOT / arguments[0]
        if not path.is_file():
            raise Wrong(f"{arguments[0]} does not exist")
        module, rest = arguments[0].removesuffix(".py").replace("/", "."), arguments[1:]
    if module in ("venv", "pip") or module.startswith("apache_beam."):
        return
    if module == "pytest":
        options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
        registered = [re.match(r"\w+", marker).group() for marker in options["markers"]]
        if not {word for word in " ".join(rest).split() if word.isidentifier()} <= {*registered, "not"}:
            raise Wrong(f"pytest has no such marker: {rest}")
        return
    known = {"mgc_jax.main": check_main, "mgc_jax.tables": check_tables}
    if module in known:
        return known[module](rest)
    if module.startswith("examples."):
        return
    if not module.startswith(("mgc_jax.", "tfds_fma.", "benchmarks.")):
        raise Wrong(f"no check knows the module {module}")
    check_argparse(module, rest)


def check_main(arguments: list[str]) -> None:
    """Parses flags of `mgc_jax.main` and loads the configuration with its overrides."""
    config, values = parse("mgc_jax.main", arguments)
    if config is None and not values.workdir and not values.predictions:
        raise Wrong("neither --config nor --workdir nor --predictions")


def check_tables(arguments: list[str]) -> None:
    """Parses flags of `mgc_jax.tables`."""
    from mgc_jax.tables.plan import PARTS

    if not arguments or arguments[0] not in PARTS:
        raise Wrong(f"the papers are {', '.join(PARTS)}")
    _, values = parse("mgc_jax.tables.__main__", arguments[1:])
    if not set(values.only) <= set(PARTS[arguments[0]]):
        raise Wrong(f"the parts of {arguments[0]} are {', '.join(PARTS[arguments[0]])}")


def check_launch(script: str, arguments: list[str], variables: dict[str, str]) -> None:
    """Checks a script of `launch/`; most hand their arguments on to `mgc_jax.main`."""
    if not (ROOT / script).is_file():
        raise Wrong(f"{script} does not exist")
    unknown = variables.keys() - set(re.findall(r"\$\{?([A-Z_]+)|$", (ROOT / script).read_text()))
    if unknown:
        raise Wrong(f"{script} knows no variable {', '.join(unknown)}")
    if script == "launch/gpu_bench.sh":
        if arguments:
            raise Wrong(f"{script} takes no arguments")
    elif script == "launch/onnx_export.sh":
        if len(arguments) != 1:
            raise Wrong(f"{script} takes the folder of an export")
    elif script == "launch/sweep.sh":
        for config in variables["CONFIGS"].replace("...", "").split() or ["configs/prcnn.py"]:
            check_main(["--config", config, *arguments])
    else:
        check_main(arguments)


def check_pip(arguments: list[str]) -> None:
    """Checks that the extras of `pip install -e '.[EXTRA]'` exist."""
    for extras in re.findall(r"\[(.+?)\]", " ".join(arguments)):
        if not set(extras.split(",")) <= EXTRAS.keys():
            raise Wrong(f"pyproject.toml has no extra {extras}")


class _Parsed(Exception):
    """The arguments are good; the work must not begin."""


def check_argparse(module: str, arguments: list[str]) -> None:
    """Runs a command with argparse up to where its arguments are parsed."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    if module.startswith("benchmarks."):
        loaded = load_file(path)
    else:
        try:
            loaded = importlib.import_module(module if path.is_file() else f"{module}.__main__")
        except ModuleNotFoundError as error:
            raise Wrong(f"there is no module {module}") from error
    parse_known = argparse.ArgumentParser.parse_known_args

    def stop(parser, args=None, namespace=None):
        _, rest = parse_known(parser, args, namespace)
        raise Wrong(f"unknown arguments {rest}") if rest else _Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, *arguments])
        patch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
        try:
            loaded.main(*([arguments] if inspect.signature(loaded.main).parameters else []))
        except _Parsed:
            return
        except SystemExit as error:
            raise Wrong(f"argparse refuses it ({error})") from error
    raise Wrong("the arguments are refused")


def load_file(path: Path) -> Any:
    """Imports a file that belongs to no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path.parent))
        spec = importlib.util.spec_from_file_location(f"_docs_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look there
        spec.loader.exec_module(module)
    return module


# ---- Flags and configurations


def parse(module: str, arguments: list[str]) -> tuple[ConfigDict | None, flags.FlagValues]:
    """Parses a command line with the flags that a module defines.

    The definitions are read from the module's text: `mgc_jax.main` and `mgc_jax.tables` both define `--config`, and
    absl takes it once in a process.

    Returns:
        The configuration with its overrides, None without `--config`; and the other flags.
    """
    values = flags.FlagValues()
    for node in ast.walk(ast.parse(Path(importlib.util.find_spec(module).origin).read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("flags.DEFINE_"):
            given = [ast.literal_eval(argument) for argument in node.args[: 3 if "enum" in node.func.attr else 2]]
            if given[0] != "config":
                getattr(flags, node.func.attr)(*given, "", flag_values=values)
    overrides = dict(
        re.fullmatch(r"--config\.([^=]+)=(.*)", word).groups() for word in arguments if "--config." in word
    )
    others = [word for word in arguments if "--config." not in word]
    file = None
    if "--config" in others:
        at = others.index("--config")
        file = others[at + 1]
        del others[at : at + 2]
    try:
        rest = values(["program", *others])
    except flags.Error as error:
        raise Wrong(str(error)) from error
    if len(rest) > 1:
        raise Wrong(f"unknown arguments {rest[1:]}")
    if file is None and overrides:
        raise Wrong("overrides without --config")
    return None if file is None else load(file, overrides), values


def load(file: str, overrides: dict[str, str]) -> ConfigDict:
    """Loads a configuration as the command does, and checks that it is possible."""
    try:
        config = load_config(file, overrides)
    except UserError as error:
        raise Wrong(str(error)) from error
    if not config.baseline.name:
        for part, registry in ((config.model.encoder, ENCODERS), (config.model.pooling, POOLINGS)):
            if part.name not in registry:
                raise Wrong(f"{part.name!r}: choose one of {', '.join(registry)}")
            options = inspect.signature(registry[part.name].__init__).parameters
            if unknown := set(part) - set(options) - {"name"}:
                raise Wrong(f"{part.name} has no option {', '.join(unknown)}")
    return config
