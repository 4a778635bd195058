"""What a configuration chooses by name, and the options that depend on it; arguments of `FILE.py:name=value`."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from mgc_jax.errors import UserError


@dataclass(frozen=True)
class Choice:
    """A key whose value names a class or a function, whose arguments are further keys.

    Attributes:
        key: the dotted key of the name.
        options: the dotted key of the group that holds the options.
        source: `module:registry`, or a module whose public names are meant. The configuration is the lowest layer, so
            it knows only the address, as an entry point does; the module is imported when an option is asked for.
        supplied: arguments that the program gives.
        complete: whether every option is in the configuration with its default, or only those that were given.
    """

    key: str
    options: str
    source: str
    supplied: frozenset[str]
    complete: bool = False

    def names(self) -> Mapping[str, Any]:
        """Returns what can be named."""
        module, _, registry = self.source.partition(":")
        found = importlib.import_module(module)
        return getattr(found, registry) if registry else vars(found)

    def defaults(self, name: str) -> dict[str, Any] | None:
        """Returns option -> default (`inspect.Parameter.empty`: none); None where nothing has that name."""
        found = self.names().get(name)
        return options_of(found, self.supplied) if callable(found) else None


_MODEL = frozenset({"self", "clip_shape", "num_genres", "subgenre_parents", "multi_label", "rngs"})
ENCODER = Choice("model.encoder.name", "model.encoder", "mgc_jax.models.encoders:ENCODERS", _MODEL, complete=True)
POOLING = Choice(
    "model.pooling.name", "model.pooling", "mgc_jax.models.pooling:POOLINGS", _MODEL | {"features"}, complete=True
)
CHOICES = (
    ENCODER,
    POOLING,
    Choice("baseline.name", "baseline", "mgc_jax.baselines:ESTIMATORS", frozenset({"self"})),
    Choice("optimizer.name", "optimizer.options", "optax", frozenset({"learning_rate"})),
    Choice("optimizer.schedule", "optimizer.schedule_options", "optax", frozenset({"init_value"})),
)


def options_of(function: Callable[..., Any], supplied: frozenset[str]) -> dict[str, Any]:
    """Returns the arguments of a class or function, but those that the program supplies, with their defaults.

    Sequences are tuples, as a configuration holds them; `inspect.Parameter.empty` where there is no default.
    """
    # Flax's metaclass has a signature of its own.
    parameters = inspect.signature(function.__init__ if inspect.isclass(function) else function).parameters
    return {
        name: tuple(parameter.default) if isinstance(parameter.default, list) else parameter.default
        for name, parameter in parameters.items()
        if name not in supplied and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def encoder_options(name: str, **changes: Any) -> ConfigDict:
    """Returns a `config.model.encoder` with every option of that encoder, from the signature of its class.

    It imports the encoders, so Flax.

    Args:
        name: one of `mgc_jax.models.encoders.ENCODERS`.
        changes: options that differ from the encoder's own defaults.

    Raises:
        UserError: there is no such encoder, or it has no such option.
    """
    return _completed(ENCODER, name, changes)


def pooling_options(name: str, **changes: Any) -> ConfigDict:
    """Returns a `config.model.pooling` with every option of that pooling, from the signature of its class.

    Args:
        name: one of `mgc_jax.models.pooling.POOLINGS`.
        changes: options that differ from the pooling's own defaults.

    Raises:
        UserError: there is no such pooling, or it has no such option.
    """
    return _completed(POOLING, name, changes)


def _completed(choice: Choice, name: str, changes: Mapping[str, Any]) -> ConfigDict:
    defaults = choice.defaults(name)
    if defaults is None:
        raise UserError(f"config.{choice.key}={name!r}: choose one of {', '.join(choice.names())}")
    unknown = sorted(changes.keys() - defaults.keys())
    if unknown:
        raise UserError(
            f"config.{choice.options}: {name} has no option {', '.join(unknown)}; it has "
            f"{', '.join(defaults) or 'none'}."
        )
    there = {key: value for key, value in defaults.items() if value is not inspect.Parameter.empty}
    return ConfigDict({"name": name} | there | dict(changes))


def encoder_and_pooling(text: str, *, encoder: str) -> tuple[str, str]:
    """Reads `FILE.py:encoder+pooling`.

    Args:
        text: both names joined by "+", the name of a pooling alone, or that of an encoder alone, which means the
            pooling none.
        encoder: the one where none is named.

    Raises:
        UserError: there is no such encoder or pooling.
    """
    first, plus, second = text.partition("+")
    alone = (encoder, text) if text in POOLING.names() else (text, "none")
    names = (first or encoder, second) if plus else alone
    if names[0] not in ENCODER.names() or names[1] not in POOLING.names():
        raise UserError(
            f"{text!r} after the config file is no encoder+pooling. Encoders: {', '.join(ENCODER.names())}; poolings: "
            f"{', '.join(POOLING.names())}."
        )
    return names


def arguments(text: str, **defaults: str | int) -> dict[str, Any]:
    """Reads what follows the colon in `--config FILE.py:name=value,name=value`.

    Args:
        text: the names and values; may be empty.
        defaults: the names that there are, with the values that hold where none is given; a value is read as the
            kind of its default.

    Raises:
        UserError: there is no such name, or the value is of another kind.
    """
    values: dict[str, Any] = dict(defaults)
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in defaults or not value:
            raise UserError(
                f"{part!r} after the config file is not an argument. Write {', '.join(f'{n}=...' for n in defaults)}, "
                "joined by commas."
            )
        try:
            values[name] = type(defaults[name])(value)
        except ValueError:
            raise UserError(f"{part!r} after the config file: {value!r} is not a whole number.") from None
    return values
