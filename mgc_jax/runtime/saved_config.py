"""The configuration file that stands for a workdir: `--workdir W` without `--config` means `saved_config.py:W`."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mgc_jax.config import keys
from mgc_jax.runtime.workdir import read_config

_CHOSEN = ("model.encoder.", "model.pooling.", "model.frontend", "baseline.", "optimizer.options.",
           "optimizer.schedule_options.")  # fmt: skip


def get_config(workdir: str) -> ConfigDict:
    """Returns the configuration of a run, as it was resolved; keys that are newer than the run have their default."""
    config = ConfigDict(_tuples(read_config(Path(workdir) / "config.json")))
    given = dict(keys.leaves(config))
    for key, value in keys.leaves(keys.default()):
        if key not in given and not key.startswith(_CHOSEN):
            config.update_from_flattened_dict({key: value})
    return config


def with_saved_config(argv: list[str]) -> list[str]:
    """Returns a command line with `--config` added if it has none and its `--workdir` holds a configuration."""
    given = {name: _value(argv, name) for name in ("config", "workdir")}
    if given["config"] is not None or not given["workdir"] or not (Path(given["workdir"]) / "config.json").is_file():
        return argv
    return [argv[0], f"--config={__file__}:{given['workdir']}", *argv[1:]]


def _value(argv: list[str], name: str) -> str | None:
    """Returns the value of a flag, given as `--name=value` or `--name value`."""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        flag, equals, value = argument.partition("=")
        if flag in (f"-{name}", f"--{name}"):
            return value if equals else following
    return None


def _tuples(value: Any) -> Any:
    """Turns JSON's lists into tuples, which flags can override."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
