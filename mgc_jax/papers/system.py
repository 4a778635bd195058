"""What a paper has: itself, its systems and its printed numbers."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ml_collections import ConfigDict

from mgc_jax.config.options import arguments


@dataclass(frozen=True)
class Paper:
    """A paper.

    Attributes:
        name: in short.
        title: with authors and year.
        corpus: of the published figures.
        test_clips: of that corpus.
        representation: the spectrogram of its systems.
    """

    name: str
    title: str
    corpus: str
    test_clips: int
    representation: str = ""


@dataclass(frozen=True)
class System:
    """A system that a paper compares, or that we add to the comparison.

    Attributes:
        name: what its paper calls it.
        paper: where it is from.
        file: its experiment in `configs`, without `.py`.
        settings: builds its configuration.
        clip_shape: (time, mel) or (feature,) of the paper's corpus.
        num_genres: of that corpus.
        published: parameters in the paper, batch-norm moments included; None where they are not determined.
        printed: whether the paper prints the number; if not, it follows from the layers that it describes.
        arguments: name -> default of the arguments of `settings` that the file takes after a colon.
        other_name: what other papers call it.
    """

    name: str
    paper: Paper
    file: str
    settings: Callable[..., ConfigDict]
    clip_shape: tuple[int, ...]
    num_genres: int
    published: int | None = None
    printed: bool = False
    arguments: Mapping[str, str | int] = field(default_factory=dict)
    other_name: str = ""

    def config(self, argument: str = "") -> ConfigDict:
        """Returns its configuration: what its file returns for this argument, `name=value,name=value`.

        Raises:
            UserError: it takes no such argument.
        """
        return self.settings(**arguments(argument, **self.arguments))


def by_name(systems: Iterable[System], name: str) -> System:
    """Returns the system of that name; raises `KeyError` where there is none."""
    return {system.name: system for system in systems}[name]


@dataclass(frozen=True)
class Published:
    """A printed number.

    Attributes:
        value: in percent for accuracies, else as it is.
        notes: keys of `mgc_jax.papers.NOTES`.
        split: test or validation.
    """

    value: float
    notes: tuple[str, ...] = ()
    split: str = "test"
