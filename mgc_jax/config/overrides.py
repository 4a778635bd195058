"""Values that replace those of a configuration file: `--config.KEY=VALUE`, and the same by a mapping."""

import ast
import contextlib
import difflib
import inspect
import numbers
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from mgc_jax.config import earlier
from mgc_jax.config.keys import LAST, SELECTED_BY, default, kind_of, leaves
from mgc_jax.config.options import CHOICES, Choice
from mgc_jax.errors import UserError

_NAMES = {choice.key: choice for choice in CHOICES}
_ABSENT = object()


def take_overrides(arguments: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Separates `--config.KEY=VALUE` from the other arguments of a command line: dotted key -> text, and the rest."""
    overrides, rest = {}, []
    for argument in arguments:
        found = re.fullmatch(r"--config\.([^=]+)=(.*)", argument, re.DOTALL)
        if found:
            overrides[found[1]] = found[2]
        else:
            rest.append(argument)
    return overrides, rest


def override(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
    """Returns a locked copy with some values replaced.

    Names come first, whatever the order: a name that is not the one that the file has drops the options of what it
    replaces, and those of the new one can be set. Likewise another task replaces the metric that selects checkpoints.
    What is overridden holds on the demo, too (`config.demo`).

    Args:
        config: the configuration of a file.
        overrides: dotted key -> value; a text is read as the kind of value that the key has.

    Raises:
        UserError: there is no such key, or the value is of another kind.
    """
    changed = ConfigDict(config.to_dict())
    for key in sorted(overrides, key=lambda key: key not in _NAMES and key != "task"):
        _set(changed, key, overrides[key])
        _forget(changed.get("demo", {}), key)
    return changed.lock()


def _set(config: ConfigDict, key: str, value: Any) -> None:
    if key == "task" and value != config.task and value in SELECTED_BY:
        for there in (config, config.get("demo", {})):
            if there.get("train", {}).get("select", LAST) != LAST:
                there.train.select = f"{there.train.select.partition('/')[0]}/{SELECTED_BY[value]}"
    choice = _NAMES.get(key)
    if choice is not None:
        _rename(config, choice, converted(key, value, ""))
        return
    group, _, option = key.rpartition(".")
    there = _get(config, key)
    of = next((choice for choice in CHOICES if choice.options == group), None)
    if of is not None and there is _ABSENT:
        there = _default(config, of, option)
    if there is _ABSENT or isinstance(there, ConfigDict):
        raise unknown_key(key, dict(leaves(config)))
    if of is not None and not of.complete:  # the option is of the name that the file has: the demo keeps that, too
        _forget(config.get("demo", {}), of.key)
    # Other libraries take several kinds for one argument: scikit-learn's gamma is "scale" or a number.
    value = _free(value, there) if of is not None and not of.complete else converted(key, value, there)
    parent = _get(config, group) if group else config
    with parent.ignore_type():
        parent[option] = value


def _rename(config: ConfigDict, choice: Choice, name: str) -> None:
    """Chooses another name, and drops the options of what was there."""
    if _get(config, choice.key) == name:
        return
    defaults = choice.defaults(name)
    if defaults is None and choice.complete:
        raise UserError(f"config.{choice.key}={name!r}: choose one of {', '.join(choice.names())}")
    options = defaults if choice.complete and defaults else {}
    fresh = ConfigDict({key: value for key, value in options.items() if value is not inspect.Parameter.empty})
    group, _, last = choice.options.rpartition(".")
    (_get(config, group) if group else config)[last] = fresh
    group, _, last = choice.key.rpartition(".")
    _get(config, group)[last] = name
    _forget(config.get("demo", {}), choice.options)


def _default(config: ConfigDict, choice: Choice, option: str) -> Any:
    """Returns the default of an option that the configuration does not have yet; raises if there is no such option."""
    name = _get(config, choice.key)
    defaults = None if name is _ABSENT or not name else choice.defaults(name)
    if defaults is None:  # no name, or one that is refused where the choices are known
        raise unknown_key(f"{choice.options}.{option}", dict(leaves(config)))
    if option not in defaults:
        close = difflib.get_close_matches(option, defaults, 1)
        remedy = f"did you mean {close[0]}?" if close else f"it has {', '.join(defaults) or 'none'}."
        on_demo = _get(config, f"demo.{choice.key}")
        if on_demo not in (_ABSENT, name):
            remedy += f" (The demo alone has {on_demo}; --config.{choice.key}={on_demo} chooses it everywhere.)"
        raise UserError(
            f"unknown config key config.{choice.options}.{option}: {name} has no such option; {remedy} "
            "mgc_jax/config/keys.py lists every key."
        )
    return defaults[option]


def unknown_key(key: str, known: Iterable[str]) -> UserError:
    """Returns the error for a key that does not exist, with the one that was probably meant."""
    if said := earlier.renamed(key):
        return UserError(said)
    close = closest_key(key, known)
    return UserError(
        f"unknown config key config.{key}{f': did you mean --config.{close}?' if close else '.'} "
        "mgc_jax/config/keys.py lists every key."
    )


def closest_key(key: str, known: Iterable[str] | None = None) -> str | None:
    """Returns the key that is most like a mistyped or shortened one; None where none is.

    Args:
        key: what was written, such as train.epoch, or epochs.
        known: the keys that there are; by default those of `mgc_jax.config.default()`.
    """
    known = dict(leaves(default())) if known is None else known
    choices = [name for name in known if not name.startswith("demo.")]  # which repeats others
    same_end = [name for name in choices if name.rpartition(".")[2] == key.rpartition(".")[2]]
    ends = {name.rpartition(".")[2]: name for name in reversed(choices)}
    close = difflib.get_close_matches(key, same_end or choices, 1, 0.0 if same_end else 0.75)
    if not close and "." not in key:
        close = [ends[end] for end in difflib.get_close_matches(key, ends, 1, 0.75)]
    return close[0] if close else None


def converted(key: str, value: Any, like: Any) -> Any:
    """Returns a value, or what a text says, as the kind of another value.

    Raises:
        UserError: it is of another kind.
    """
    with contextlib.suppress(ValueError, LookupError, OverflowError):
        if isinstance(like, bool):
            if isinstance(value, str):
                return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
            if isinstance(value, bool):
                return value
        elif isinstance(like, int):
            if isinstance(value, str) or (isinstance(value, numbers.Integral) and not isinstance(value, bool)):
                return int(value)
        elif isinstance(like, float):
            if isinstance(value, str) or (isinstance(value, numbers.Real) and not isinstance(value, bool)):
                return float(value)
        elif isinstance(like, tuple | list):
            return _tuple(value)
        elif isinstance(like, str):
            if isinstance(value, str):
                return value
        else:
            return _free(value, like)
    raise UserError(f"config.{key}={value!r} is invalid: expected {kind_of(like)}.")


def _tuple(value: Any) -> tuple[Any, ...]:
    """Returns a tuple, of a single value too; a text is one value unless it is written as several."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            value = tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _free(value: Any, there: Any) -> Any:
    """Returns what a text says, as Python writes it, else the text; whole numbers stay floats where those are."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval({"true": "True", "false": "False"}.get(value, value))
    if isinstance(there, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return tuple(value) if isinstance(value, list) else value


def _get(config: ConfigDict, key: str) -> Any:
    """Returns the value of a dotted key, or `_ABSENT`."""
    found: Any = config
    for part in key.split("."):
        if not isinstance(found, ConfigDict) or part not in found:
            return _ABSENT
        found = found[part]
    return found


def _forget(config: Any, key: str) -> None:
    """Deletes a dotted key, and the groups that are empty then."""
    first, _, rest = key.partition(".")
    if first not in config:
        return
    if rest:
        if isinstance(config[first], ConfigDict):
            _forget(config[first], rest)
        if not isinstance(config[first], ConfigDict) or config[first]:
            return
    del config[first]
