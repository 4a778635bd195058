"""Opens the corpus that a configuration names: FMA as prepared by `tfds_fma`, the demo corpus, or precomputed arrays.

What follows (bags, batches, training, evaluation) sees only a `Corpus`.
"""

import dataclasses
import logging
from typing import Any

from ml_collections import ConfigDict

from mgc_jax.config.checks import validate
from mgc_jax.config.keys import SINGLE_LABEL, resolve_demo
from mgc_jax.data.arrays import open_arrays
from mgc_jax.data.corpus import Corpus
from mgc_jax.data.fma import is_computed, not_prepared, open_fma
from mgc_jax.data.on_disk import LazyClips
from mgc_jax.data.splits import find_split
from mgc_jax.errors import UserError
from tfds_fma.paths import local_path
from tfds_fma.representations.feature_names import columns_of
from tfds_fma.representations.registry import demo_representation

log = logging.getLogger(__name__)


def open_corpus(data: Any, task: str = SINGLE_LABEL) -> Corpus:
    """Opens the corpus that `config.data` describes.

    Examples:
        >>> import mgc_jax
        >>> config = mgc_jax.load_config("configs/matt_crnn_tf.py")  # doctest: +SKIP
        >>> corpus = mgc_jax.open_corpus(config.data)  # doctest: +SKIP
        >>> corpus.clips[:8], corpus.genres  # doctest: +SKIP

    Args:
        data: `config.data`. A corpus `auto` is prepared FMA, else the demo.
        task: `config.task`.

    Raises:
        UserError: the corpus is not there, or its files do not fit together; the message says what to do.
    """
    split = find_split(data)  # a mistyped name is refused before anything is read
    if data.corpus == "auto":
        data = data.copy_and_resolve_references()
        data.corpus, why = resolve_auto(data)
        if data.corpus == "demo":
            data.representation = demo_representation(data.representation)
        log.info(why)
    corpus = open_arrays(data, task) if data.corpus == "arrays" else open_fma(data, task)
    if data.features:
        columns, clips = columns_of([data.features]), corpus.clips
        clips = clips.take_columns(columns) if isinstance(clips, LazyClips) else clips[:, columns]
        corpus = dataclasses.replace(corpus, clips=clips, features=data.features)
    if data.frames:
        if corpus.clips.ndim != 3 or data.frames > corpus.clips.shape[1]:
            raise UserError(
                f"config.data.frames={data.frames}, but a clip of this corpus is "
                f"{' x '.join(map(str, corpus.clips.shape[1:]))} (time x mel). Give 0 for all frames."
            )
        clips, frames = corpus.clips, data.frames
        clips = clips.first_frames(frames) if isinstance(clips, LazyClips) else clips[:, :frames]
        corpus = dataclasses.replace(corpus, clips=clips)
    corpus = split(corpus, data)
    if len(corpus.indices("train")) == 0:
        raise UserError(f"corpus {data.corpus}: no clip is in the training split, so nothing can be trained")
    return corpus


def resolve_corpus(config: ConfigDict) -> tuple[ConfigDict, str]:
    """Chooses the corpus of a configuration: prepared FMA, else the demo with the settings of `config.demo`.

    Returns:
        A validated copy whose corpus is not `auto`, and a sentence that says which corpus it is and why.

    Raises:
        UserError: as `resolve_auto`.
    """
    corpus, why = resolve_auto(config.data)
    resolved = config.copy_and_resolve_references()
    with resolved.unlocked():
        resolved.data.corpus = corpus
    if corpus == "demo":
        resolved = resolve_demo(resolved)
    validate(resolved)
    return resolved, why


def resolve_auto(data: Any) -> tuple[str, str]:
    """Returns the corpus to use for `auto` and a sentence that says why, without opening it.

    Raises:
        UserError: a representation that only precomputed arrays can have is not prepared: mistyped, most likely.
    """
    if data.corpus != "auto":
        return data.corpus, f"corpus {data.corpus}, as asked"
    from tfds_fma.reading import find_prepared

    corpora = tuple(dict.fromkeys((data.auto_first, "fma_medium", "fma_small")))
    for corpus in corpora:
        found = find_prepared(data.data_dir, corpus.removeprefix("fma_"), data.representation)
        if found:
            return corpus, f"corpus {corpus}: prepared FMA found in {found}"
    if not is_computed(data.representation):
        raise UserError(not_prepared(data, "small"))
    return "demo", (
        f"corpus demo: SYNTHETIC music, since neither {' nor '.join(corpora)} is prepared in "
        f"{local_path(data.data_dir).resolve()}; `python -m tfds_fma.prepare --help` tells how to prepare FMA"
    )
