"""Small corpora for tests."""

import contextlib
import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from mgc_jax.config.checks import validate
from mgc_jax.config.keys import default
from mgc_jax.data.corpus import Corpus
from mgc_jax.data.feed import placed_dispatches
from mgc_jax.inference import CheckpointMeta, ExportedModel, inputs_of
from mgc_jax.models.classifier import build_model
from mgc_jax.models.pooling import Segments

GENRES = ("Rock", "Folk", "Jazz")
# What a checkpoint says of itself.
CHECKPOINT_META = CheckpointMeta(
    config={"seed": 0}, corpus="arrays", fingerprint="a", genres=("Rock", "Jazz"), subgenres=("Rock", "Jazz"),
    subgenre_parents=(0, 1), stored_shape=(6,), clip_shape=(6,), adjustment=(0.0, -0.5),
    standardization={"mean": [0.0], "std": [1.0]}, seconds={"train": 1.5},
)  # fmt: skip


def make_corpus(num_clips: int = 120, clip_shape: tuple[int, ...] = (40, 12), seed: int = 0) -> Corpus:
    """A corpus whose genres differ in the mean of some bands; bags of 1 to 6 clips, one of 23."""
    rng = np.random.default_rng(seed)
    sizes = [23]
    while sum(sizes) < num_clips:
        sizes.append(min(int(rng.integers(1, 7)), num_clips - sum(sizes)))
    album = np.repeat(np.arange(len(sizes)), sizes)
    label = (album % len(GENRES)).astype(np.int32)
    split = np.array(["train", "train", "train", "validation", "test"])[album % 5]
    clips = rng.normal(size=(num_clips, *clip_shape)).astype(np.float32)
    clips[..., :3] += 1.5 * np.eye(3)[label].reshape(num_clips, *([1] * (len(clip_shape) - 1)), 3)
    order = rng.permutation(num_clips)  # the clips of a bag do not lie side by side
    return Corpus(
        name="arrays",
        genres=GENRES,
        clips=clips[order].astype(np.float16),
        track_id=np.arange(num_clips, dtype=np.int64) + 1000,
        label=label[order],
        split=split[order],
        artist=(album // 2).astype(str)[order],
        album=album.astype(str)[order],
    )


def save_arrays(corpus: Corpus, folder: Path) -> dict[str, str]:
    """Writes a corpus as an .npz and a CSV track table; returns the flags that name them."""
    np.savez(folder / "clips.npz", clips=corpus.clips, track_id=corpus.track_id)
    lines = ["track_id,genre_top,split,artist_id,album_id"]
    for i in range(len(corpus)):
        lines.append(
            f"{corpus.track_id[i]},{corpus.genres[corpus.label[i]]},{corpus.split[i]},"
            f"{corpus.artist[i]},{corpus.album[i]}"
        )
    (folder / "tracks.csv").write_text("\n".join(lines) + "\n")
    return {
        "data.corpus": "arrays",
        "data.arrays.clips": str(folder / "clips.npz"),
        "data.arrays.table": str(folder / "tracks.csv"),
    }


def small_config(folder: Path, corpus: Corpus, **changes):
    """A validated configuration that trains in seconds: a small CRNN-TF with MATT on a saved corpus."""
    config = default()
    config.update_from_flattened_dict(save_arrays(corpus, folder))
    config.data.bag_key = "pair"
    config.model.encoder.update(name="crnn_tf", filters=(4, 4), pools=((2, 4), (2, 4)), gru_units=4, features=8)
    config.model.encoder.batch_norm_momentum = 0.8  # the tests take few steps
    config.batch.clips = 48
    config.optimizer.update(name="adam", learning_rate=0.01)
    config.train.epochs, config.train.log_every_steps = 3, 1
    config.eval.batch_clips = 16
    config.update_from_flattened_dict(changes)
    validate(config)
    return config


def untrained(encoder, pooling="matt", clip_shape=(40, 12), *, seed=0, **changes) -> ExportedModel:
    """A model of random weights as if exported, with standardization and post-hoc logit adjustment.

    Args:
        encoder: `config.model.encoder`.
        pooling: name, or `config.model.pooling`.
        clip_shape: of what the encoder sees.
        seed: of the weights.
        changes: of `CheckpointMeta`; `config`, and `data`, `augment` and `model` as parts of it.
    """
    config = default()
    with config.unlocked():
        config.model.encoder = dict(encoder)
        config.model.pooling = {"name": pooling} if isinstance(pooling, str) else dict(pooling)
        for part in ("data", "augment", "model"):
            config[part].update(changes.pop(part, {}))
    frames = config.augment.crop_frames
    meta = dataclasses.replace(
        CHECKPOINT_META, config=config.to_dict(), genres=GENRES, subgenres=GENRES, subgenre_parents=(0, 1, 2),
        stored_shape=clip_shape, clip_shape=(frames, *clip_shape[1:]) if frames else clip_shape,
        adjustment=(0.3, 0.0, -0.5), standardization={"mean": [0.1] * clip_shape[-1], "std": [1.3] * clip_shape[-1]},
    )  # fmt: skip
    meta = dataclasses.replace(meta, **changes)
    model = build_model(config.model, meta.clip_shape, len(GENRES), subgenre_parents=(0, 1, 2), seed=seed)
    return ExportedModel(model, inputs_of(meta), meta)


def segments_of(segment):
    """Segments of clips with as many places for bags as slots."""
    return Segments(jnp.asarray(segment), segment.shape[1])


def score_in_rows(model, clips, segment, target=None, **options):
    """Calls a classifier with clips that lie in their slots, [row, slot, ...]."""
    at = jnp.arange(segment.size).reshape(segment.shape)
    real = (segment < segment.shape[1]).reshape(-1)
    return model(clips.reshape(-1, *clips.shape[2:]), real, at, segment, target, **options)


def bags_in(batch):
    """Yields the bags of a batch, of all its micro-batches: its clips, their positions in the batch, and its place."""
    slots = batch.clip.shape[-1]
    first = slots * np.arange(batch.clip.size // slots).reshape(*batch.clip.shape[:-1], 1, 1)
    at = (first + batch.at).reshape(-1, batch.at.shape[-1])
    segment = batch.segment.reshape(at.shape)
    for row, number in zip(*np.nonzero(batch.weight.reshape(at.shape)), strict=True):
        positions = at[row][segment[row] == number]
        yield batch.clip.ravel()[positions], positions, np.unravel_index(row * at.shape[1] + number, batch.label.shape)


def placed_batches(batches, clips, mesh, first, last):
    """Yields batches, their clips and those that they are mixed with on the devices, one step at a time."""
    with contextlib.closing(placed_dispatches(batches, clips, mesh, first, [1] * (last - first))) as dispatches:
        for placed in dispatches:
            yield placed.batch, placed.clips, placed.partners
