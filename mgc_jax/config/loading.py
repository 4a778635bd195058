"""From the file of an experiment to its configuration."""

import difflib
import importlib.util
import inspect
import json
import linecache
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mgc_jax.config import earlier
from mgc_jax.config.checks import check_effects, validate
from mgc_jax.config.keys import default
from mgc_jax.config.options import CHOICES
from mgc_jax.config.overrides import override
from mgc_jax.errors import UserError
from tfds_fma.paths import local_path

_PACKAGE = Path(__file__).parents[1]
# The one of an installed package, or the repository's.
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def load_config(file: str | Path, overrides: Mapping[str, Any] | None = None) -> ConfigDict:
    """Returns the configuration of an experiment.

        config = load_config("configs/matt_crnn_tf.py", {"train.epochs": 3})
        config = load_config("any:prcnn+set_transformer", {"model.pooling.heads": "2"})
        config = load_config("runs/matt")  # of a run

    Args:
        file: a Python file with a function `get_config`, or the name of an experiment in `configs`; what follows a
            colon is the argument of `get_config`. Or the folder of a run: its configuration, as it was resolved.
        overrides: dotted key -> value, or its text, as `--config.KEY=VALUE` has it. A name (`model.encoder.name`,
            `optimizer.name`, ...) replaces the options of what it replaces.

    Raises:
        UserError: there is no such file, it fails, a key or value is impossible, or an option of the file or of the
            overrides has no effect.
    """
    file = local_path(file)
    of_run = (file / "config.json").is_file()
    if of_run:
        before = _config_of_run(file)
    else:
        name, colon, argument = str(file).partition(":")
        before = run_config_file(find_config(name), argument if colon else None)
    config = override(before, overrides or {})
    validate(config)
    if not of_run:  # a finished run stays as it is
        check_effects(before)
    check_effects(config, overrides or {})  # beside which what the file has may be idle
    return config


def find_config(name: str) -> Path:
    """Returns the file that a path or the name of an experiment means: `my.py`, `configs/prcnn.py`, `prcnn`.

    Raises:
        UserError: there is none.
    """
    path = Path(name)
    if path.is_file():
        return path
    if str(path.parent) in (".", "configs"):
        for folder in (Path("configs"), *_FOLDERS):
            if (folder / f"{path.stem}.py").is_file():
                return folder / f"{path.stem}.py"
    experiments = sorted({file.stem for folder in _FOLDERS for file in folder.glob("*.py")})
    close = difflib.get_close_matches(path.stem, experiments, 1)
    remedy = (
        f"did you mean {close[0]}?" if close else f"the experiments are {', '.join(experiments) or 'not installed'}"
    )
    raise UserError(f"--config {name} does not exist; {remedy}")


def run_config_file(path: Path, argument: str | None = None) -> ConfigDict:
    """Returns what `get_config` of a file returns.

    Args:
        path: the file.
        argument: of `get_config`; None: none.

    Raises:
        UserError: whatever goes wrong in the file, which is code: it can raise anything.
    """
    spec = importlib.util.spec_from_file_location(f"config_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--config {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    arguments = () if argument is None else (argument,)
    sys.modules[spec.name] = module  # where dataclasses look for it
    try:
        spec.loader.exec_module(module)
        get_config = module.get_config
        parameters = inspect.signature(get_config)
        if argument is not None and not parameters.parameters:
            raise UserError(f"--config {path} takes no argument after its name and a colon")
        if argument is None and any(p.default is p.empty for p in parameters.parameters.values()):
            raise UserError(f"--config {path} needs an argument: write {path}:ARGUMENT")
        config = get_config(*arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the configuration fails at {_place(error, path)}: {_cause(error)}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"get_config() of {path} returned {config!r}; it must return a ConfigDict")
    return config


def _config_of_run(workdir: Path) -> ConfigDict:
    """Returns the configuration of a run; keys and groups of keys that are newer than the run have their default."""
    saved = earlier.current(read_config(workdir / "config.json"))
    config = ConfigDict(_completed(_tuples(saved), default().to_dict()))
    if config.data.corpus == "demo":  # its values are in place; versions of before left them here, too
        config.demo = ConfigDict()
    return config


def _completed(saved: dict[str, Any], usual: dict[str, Any], group: str = "") -> dict[str, Any]:
    """Returns what was saved in a group of keys, and the default of what is not there.

    The options of an encoder, an optimizer and so on are those of its name: where there are some, none is added.
    """
    if group.removesuffix(".") in {choice.options for choice in CHOICES}:
        return saved
    inside = {
        key: _completed(saved[key], value, f"{group}{key}.")
        for key, value in usual.items()
        if isinstance(value, dict) and key in saved
    }
    return usual | saved | inside


def _tuples(value: Any) -> Any:
    """Turns JSON's lists into tuples."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def read_config(path: Path) -> dict[str, Any]:
    """Reads the `config.json` of a run."""
    try:
        config = json.loads(path.read_text())
        _check_groups(config, default().to_dict(), "it")
        return config
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}). If the run's checkpoints are still wanted, delete that file: each of "
            "them holds the configuration too. Otherwise delete the folder."
        ) from error


def _check_groups(saved: Any, usual: Mapping[str, Any], name: str) -> None:
    """Raises `ValueError` if there is something else where the default has a group of keys."""
    if not isinstance(saved, dict):
        raise ValueError(f"{name} is no JSON object")
    for key, value in usual.items():
        if isinstance(value, dict) and key in saved:
            _check_groups(saved[key], value, key)


def _cause(error: Exception) -> str:
    return traceback.format_exception_only(error)[-1].strip()


def _place(error: Exception, path: Path) -> str:
    """Returns file, line and code of where a configuration file failed."""
    if isinstance(error, SyntaxError):
        line = error.lineno or 0
    else:
        frames = traceback.extract_tb(error.__traceback__)
        line = ([frame.lineno or 0 for frame in frames if frame.filename == str(path.absolute())] or [0])[-1]
    code = linecache.getline(str(path), line).strip()
    return f"{path}, line {line} ({code})" if code else str(path)
