"""The flags `--config FILE.py:argument` and `--config.KEY=VALUE`."""

import re
from typing import Any

from absl import flags

from mgc_jax.config.keys import default, leaves

flags.disclaim_key_flags()  # they are of the module that defines them, in whose --help they stand


class ConfigFlag(flags.Flag):
    """A file or the name of an experiment, and what is to be replaced in its configuration.

    Unlike the flag of ml_collections it runs the file only when somebody calls `load_config(flag.value,
    flag.overrides)`, and takes keys that exist only once a name is replaced (`mgc_jax.config.overrides`).

    Attributes:
        value: what follows `--config`; None where the flag is not given.
        overrides: dotted key -> text.
    """

    def __init__(self, help_string: str):
        self.overrides: dict[str, str] = {}
        super().__init__(flags.ArgumentParser(), flags.ArgumentSerializer(), "config", None, help_string)


def define_config(help_string: str) -> ConfigFlag:
    """Defines `--config`; `take_overrides` must see the command line before absl does."""
    flag = ConfigFlag(help_string)
    flags.DEFINE_flag(flag)
    return flag


def take_overrides(argv: list[str]) -> list[str]:
    """Moves all `--config.KEY=VALUE` from the command line to the flag; returns what is left.

    Also `--config.KEY VALUE`, and for what is true or false `--config.KEY` and `--noconfig.KEY`.

    Raises:
        flags.IllegalFlagValueError: there is a key without a value.
    """
    flag: Any = flags.FLAGS["config"]
    known = dict(leaves(default()))
    rest, overrides = [], {}
    arguments = iter(argv)
    for argument in arguments:
        if argument == "--":
            rest += [argument, *arguments]
            break
        found = re.fullmatch(r"--?(no)?config\.([^=]+)(?:=(.*))?", argument, re.DOTALL)
        if not found:
            rest.append(argument)
            continue
        negated, key, value = found.groups()
        if negated and (value is not None or not isinstance(known.get(key), bool)):
            raise flags.IllegalFlagValueError(
                f"{argument}: --no goes with keys that are true or false, without a value; write --config.{key}=VALUE"
            )
        if value is None and isinstance(known.get(key), bool):
            value = "false" if negated else "true"
        if value is None:
            value = next(arguments, "--")
            if value.startswith("--"):
                raise flags.IllegalFlagValueError(f"{argument} needs a value: {argument}=VALUE, such as =true")
        overrides[key] = value
    flag.overrides = overrides
    return rest
