"""How a cell becomes a configuration: the paper's systems on prepared FMA or the demo, or on any other corpus."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from mgc_jax.config import checks, keys, options
from mgc_jax.config.loading import run_config_file
from mgc_jax.config.overrides import override
from mgc_jax.data.corpus import Corpus
from mgc_jax.data.open import open_corpus
from mgc_jax.errors import UserError
from mgc_jax.evaluation.results import DEMO_RARE_LIMITS, RARE_LIMITS
from mgc_jax.papers import PAPERS, SYSTEMS, matt_tables, ubc
from mgc_jax.papers.system import System
from mgc_jax.tables.plan import HIDDEN, SPECTROGRAMS_ONLY, VARIANTS, VECTORS_ONLY, Cell, Data

_VECTORS = "features_518"


class Source(Protocol):
    """Where the data of the tables comes from."""

    @property
    def name(self) -> str:
        """The name of the corpus or of the configuration file."""
        ...

    def data(
        self, folds: int, split: str, tail: tuple[int, int] | None, parts: Sequence[str]
    ) -> tuple[Data, list[str]]:
        """Returns what the corpus has, and sentences on what it lacks for some parts of the paper."""
        ...

    def config(self, cell: Cell) -> ConfigDict:
        """Returns the validated configuration of a cell, without seed, folds and limits."""
        ...


@dataclasses.dataclass
class Prepared:
    """Prepared FMA, or the demo corpus.

    Attributes:
        paper: matt or ubc.
        name: demo, fma_small, fma_medium, fma_large, fma_full.
        data_dir: where it is prepared.
    """

    paper: str
    name: str
    data_dir: str

    def data(
        self, folds: int, split: str, tail: tuple[int, int] | None, parts: Sequence[str]
    ) -> tuple[Data, list[str]]:
        """Returns what the corpus has, and sentences on what it lacks for some parts of the paper."""
        wanted = {(self.paper, part) for part in parts}
        wants_vectors, wants_spectrograms = bool(wanted - {*SPECTROGRAMS_ONLY}), bool(wanted - {*VECTORS_ONLY})
        vectors, spectrograms = self._is_prepared(_VECTORS), self._is_prepared(PAPERS[self.paper].representation)
        # Only what is wanted is opened: the demo is made when it is.
        representation = (
            _VECTORS if vectors and (wants_vectors or not spectrograms) else PAPERS[self.paper].representation
        )
        try:
            corpus = open_corpus(self._data(representation, folds))
        except UserError as error:  # says how to prepare it
            raise UserError(str(error).replace("--config.data.data_dir", "--data_dir")) from error
        self._train_clips = len(corpus.with_inner_in_training().indices("train"))  # of the baselines
        sets = tuple((row.name, row.features) for row in matt_tables.TABLE1)
        if self.paper == "ubc":
            sets = tuple(row for row in sets if row[1] == "mfcc")
        lacks = []
        for there, is_wanted, representation, what in (
            (vectors, wants_vectors, _VECTORS, "on FMA's features"),
            (spectrograms, wants_spectrograms, PAPERS[self.paper].representation, "on spectrograms"),
        ):
            if is_wanted and not there:
                lacks.append(
                    f"Left out: all systems {what}, since {representation} of {self.name} is not prepared in "
                    f"{self.data_dir} (see python -m tfds_fma.prepare --help)."
                )
        return _data(corpus, sets if vectors else (), spectrograms, folds, split, tail), lacks

    def config(self, cell: Cell) -> ConfigDict:
        """Returns the paper's configuration."""
        config = _system(cell).config()
        if cell.system in HIDDEN:
            config.model.encoder.hidden = (100,)
        if cell.features:
            config.data.features = cell.features
        config.data.corpus, config.data.data_dir = self.name, self.data_dir
        if config.baseline.name == "knn" and self.name == "demo":
            config.baseline.n_neighbors = neighbours(self._train_clips)
        config.update_from_flattened_dict(_changes(cell))
        if self.name == "demo":
            config = keys.resolve_demo(config)
        return config

    def _data(self, representation: str, folds: int) -> ConfigDict:
        config = keys.default()
        config.data.representation = representation
        config.data.corpus, config.data.data_dir, config.data.folds = self.name, self.data_dir, folds
        if self.name == "demo":
            config = keys.resolve_demo(config)
        return config.data

    def _is_prepared(self, representation: str) -> bool:
        return self.name == "demo" or _find(self.name, self.data_dir, representation)


@dataclasses.dataclass
class FromFile:
    """Any corpus, by a configuration file whose argument is encoder and pooling.

    Attributes:
        paper: matt or ubc.
        file: the configuration file.
        overrides: by dotted key, from the command line.
    """

    paper: str
    file: Path
    overrides: Mapping[str, Any]

    def __post_init__(self) -> None:
        fixed = ("model.encoder", "model.pooling", "baseline", "seed", "data.folds", "data.fold")
        for key in self.overrides:
            if f"{key}.".startswith(tuple(f"{name}." for name in fixed)):
                raise UserError(f"--config.{key} is for the tables to set: they go through the systems of the paper")

    @property
    def name(self) -> str:
        """The name of the configuration file."""
        return self.file.stem

    def data(
        self, folds: int, split: str, tail: tuple[int, int] | None, parts: Sequence[str]
    ) -> tuple[Data, list[str]]:
        """Returns what the corpus has, and sentences on what it lacks, whatever the parts."""
        config = self._load("mlp", "none")
        config.data.folds = folds
        corpus = open_corpus(config.data)
        self._train_clips = len(corpus.with_inner_in_training().indices("train"))  # of the baselines
        spectrograms = corpus.clips.ndim == 3
        if self.paper == "ubc" and not spectrograms:
            raise UserError(
                f"the systems of the UBC report need spectrograms, but a clip of {self.name} is "
                f"{' x '.join(map(str, corpus.clips.shape[1:]))} {corpus.clips.dtype}"
            )
        if spectrograms:
            lacks = [f"Left out: all systems on FMA's features, since {self.name} has spectrograms only."]
        else:
            lacks = [
                f"Left out: CRNN and CRNN-TF, since {self.name} has no spectrograms.",
                f"In place of FMA's 12 sets of features there is one row, the {corpus.clips.shape[1]} features of "
                f"{self.name}; so the paper's figures are of other features.",
            ]
        sets = () if spectrograms else ((self.name, ""),)
        data = _data(corpus, sets, spectrograms, folds, split, tail)
        return dataclasses.replace(data, paper_keys=config.data.bag_key != "pair"), lacks

    def config(self, cell: Cell) -> ConfigDict:
        """Returns the file's configuration with what makes the paper's system another one than its encoder is."""
        system = _system(cell).config()
        if system.baseline.name:
            config = self._load("mlp", "none")
            config.baseline.update(system.baseline)
            if system.baseline.name == "knn":
                config.baseline.n_neighbors = neighbours(self._train_clips)
            config.update_from_flattened_dict(_changes(cell))
            return config
        encoder, pooling = system.model.encoder, system.model.pooling
        config = self._load(encoder.name, pooling.name)
        if cell.system in HIDDEN:
            return config
        usual = options.encoder_options(encoder.name)
        config.model.encoder.update({key: value for key, value in encoder.items() if value != usual[key]})
        config.update_from_flattened_dict(_changes(cell))
        return config

    def _load(self, encoder: str, pooling: str) -> ConfigDict:
        argument = f"{encoder}+{pooling}"
        wanted = f"its argument must be encoder and pooling, such as {argument!r}, as in configs/fma_small_mels.py"
        try:
            config = run_config_file(self.file, argument)
        except UserError as error:
            raise UserError(f"{error}; {wanted}") from error
        got = config.model.encoder.get("name"), config.model.pooling.get("name")
        if got != (encoder, pooling):
            raise UserError(f"--config {self.file}: {wanted}")
        config = override(config, self.overrides).unlock()
        checks.validate(config)
        if config.data.corpus != "arrays":
            raise UserError(
                f"--config {self.file} is for precomputed arrays (config.data.corpus=arrays); for "
                f"{config.data.corpus} give --corpus"
            )
        return config


_SYSTEM = {name: system for system in (*SYSTEMS, *ubc.ABLATIONS) for name in (system.name, system.other_name)}


def _system(cell: Cell) -> System:
    return _SYSTEM[VARIANTS[cell.system][0] if cell.system in VARIANTS else HIDDEN.get(cell.system, cell.system)]


def _changes(cell: Cell) -> Mapping[str, Any]:
    """Returns what makes a variant another system, by dotted key; nothing for a system of the paper."""
    return VARIANTS[cell.system][1] if cell.system in VARIANTS else {}


def default_corpus(paper: str, data_dir: str) -> tuple[str, str]:
    """Returns the paper's corpus if it is prepared, else the demo, and a sentence that says which and why."""
    corpus = PAPERS[paper].corpus
    for representation in (PAPERS[paper].representation, _VECTORS):
        if _find(corpus, data_dir, representation):
            return corpus, f"corpus {corpus}, as prepared in {data_dir}"
    return "demo", (
        f"corpus demo: SYNTHETIC MUSIC, since {corpus} is not prepared in {Path(data_dir).resolve()}; `python -m "
        "tfds_fma.prepare --help` says how to prepare it"
    )


def neighbours(train_clips: int) -> int:
    """The k of KNN on other corpora than FMA: the square root of the training clips, at most the published 200."""
    return min(200, round(math.sqrt(train_clips)))


def _find(corpus: str, data_dir: str, representation: str) -> bool:
    from tfds_fma.reading import find_prepared

    return bool(find_prepared(data_dir, corpus.removeprefix("fma_"), representation))


def _data(
    corpus: Corpus,
    sets: tuple[tuple[str, str], ...],
    spectrograms: bool,
    folds: int,
    split: str,
    tail: tuple[int, int] | None,
) -> Data:
    there = [name for name in ("test", "validation") if len(corpus.indices(name)) and not (folds and name == "test")]
    if split and split not in there:
        raise UserError(
            f"--split {split} is invalid: "
            + ("cross-validation has the validation clips of its folds" if folds else f"corpus {corpus.name} has none")
        )
    if not there:
        raise UserError(f"corpus {corpus.name} has neither a test nor a validation split; give --folds")
    main = split or there[0]
    # The test split is looked at only if it is what the tables are about.
    splits = (main, *(name for name in there if name != main and main == "test"))
    return Data(
        feature_sets=sets,
        spectrograms=spectrograms,
        genres=tuple(np.array(corpus.genres).tolist()),
        splits=splits,
        tail=tail or (DEMO_RARE_LIMITS if corpus.name == "demo" else RARE_LIMITS),
    )
