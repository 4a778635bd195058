"""Checks of a configuration before any work starts."""

from collections.abc import Callable, Collection
from typing import Any

from ml_collections import ConfigDict

from mgc_jax.config import earlier
from mgc_jax.config.keys import (
    BAG_KEYS,
    BASELINES,
    BENCH_DATA,
    BENCH_VARIANTS,
    CORPORA,
    CROPS,
    DTYPES,
    KERNELS,
    LAST,
    MULTI_LABEL,
    PLACEMENTS,
    TASKS,
    default,
    kind_of,
    leaves,
)
from mgc_jax.config.options import CHOICES
from mgc_jax.errors import UserError
from tfds_fma.labels import own_name
from tfds_fma.representations.feature_names import groups_of
from tfds_fma.representations.registry import REPRESENTATIONS, is_name


def _require(condition: bool, key: str, value: Any, remedy: str) -> None:
    if not condition:
        raise UserError(f"config.{key}={value!r} is invalid: {remedy}.")


def validate(config: ConfigDict) -> None:
    """Raises `UserError` for an unknown key or an invalid value, before any work starts."""
    known, given = dict(leaves(default())), dict(leaves(config))
    # Options are checked by the class that they are for, and the demo's against the keys themselves.
    options = ("model.encoder.", "model.pooling.", "baseline.", "optimizer.options.", "optimizer.schedule_options.")
    free = (*options, "demo.")
    missing = sorted(known.keys() - given.keys())
    if missing:
        raise UserError(f"config keys are missing: {', '.join(missing)}. Start from mgc_jax.config.default().")
    unknown = sorted(key for key in given.keys() - known.keys() if not key.startswith(free))
    unknown += sorted(key for key, _ in leaves(config.demo) if key not in given)
    if unknown:
        if renamed := next(filter(None, map(earlier.renamed, unknown)), None):
            raise UserError(renamed)
        raise UserError(
            f"unknown config keys: {', '.join(unknown)}. mgc_jax/config/keys.py lists every key with its meaning."
        )
    for key, value in known.items():
        kind = (int, float) if isinstance(value, float) else (tuple, list) if isinstance(value, tuple) else type(value)
        _require(isinstance(given[key], kind), key, given[key], f"expected {kind_of(value)}")
    data, batch, train = config.data, config.batch, config.train

    def one_of(key: str, value: Any, choices: tuple[str, ...]) -> None:
        _require(value in choices, key, value, f"choose one of {', '.join(choices)}")

    def at_least(key: str, value: float, least: float) -> None:
        _require(value >= least, key, value, f"it must be at least {least}")

    at_least("seed", config.seed, 0)
    one_of("task", config.task, TASKS)
    _check_task(config)
    _require(data.corpus in CORPORA or own_name(data.corpus) != "", "data.corpus", data.corpus,
             f"choose one of {', '.join(CORPORA)}, or own_NAME for music of your own")  # fmt: skip
    one_of("data.auto_first", data.auto_first, tuple(name for name in CORPORA if name.startswith("fma_")))
    # Arrays can be prepared under any name: opening the corpus checks whether this one is.
    _require(is_name(data.representation), "data.representation", data.representation,
             f"choose one of {', '.join(REPRESENTATIONS)}, or the name under which arrays were prepared")  # fmt: skip
    _check_features(data)
    one_of("data.bag_key", data.bag_key, BAG_KEYS)
    one_of("data.placement", data.placement, PLACEMENTS)
    one_of("data.arrays.axes", data.arrays.axes, ("clip time mel", "clip mel time", "clip feature"))
    one_of("baseline.name", config.baseline.name, ("", *BASELINES))
    one_of("model.dtype", config.model.dtype, DTYPES)
    one_of("model.kernels", config.model.kernels, KERNELS)
    one_of("batch.sampling", batch.sampling, ("natural", "sqrt", "class_balanced"))
    one_of("loss.name", config.loss.name, ("cross_entropy", "focal"))
    one_of("loss.bag_weight", config.loss.bag_weight, ("bag", "size"))
    one_of("loss.class_weights", config.loss.class_weights, ("none", "class_balanced"))
    at_least("data.frames", data.frames, 0)
    _require(data.split != "folds" or data.folds > 0, "data.split", data.split,
             "say how many folds, config.data.folds=5 for instance")  # fmt: skip
    _require(data.split in ("fma", "folds") or not data.folds, "data.folds", data.folds,
             f"the split {data.split} has no folds; set it to 0, or config.data.split to folds")  # fmt: skip
    one_of("data.fold_selection", data.fold_selection, ("inner", "scored"))
    at_least("data.split_seed", data.split_seed, 0)
    _require(data.folds == 0 or data.folds > 1, "data.folds", data.folds, "it must be 0 or at least 2")
    _require(0 <= data.fold < max(1, data.folds), "data.fold", data.fold, "it must be at least 0 and below data.folds")
    at_least("data.workers", data.workers, -1)
    at_least("data.pseudo_album_gap", data.pseudo_album_gap, 0)
    at_least("batch.clips", batch.clips, 1)
    at_least("batch.bags", batch.bags, 0)
    _require(not batch.bags or not batch.sub_bags, "batch.bags", batch.bags,
             "sub-bags are cut anew in each epoch, and their number is not known before; set it to 0, or "
             "config.batch.sub_bags to False")  # fmt: skip
    at_least("train.epochs", train.epochs, 1)
    at_least("train.eval_every_epochs", train.eval_every_epochs, 1)
    at_least("train.log_every_steps", train.log_every_steps, 1)
    at_least("train.checkpoint_every_steps", train.checkpoint_every_steps, 0)
    at_least("train.keep_checkpoints", train.keep_checkpoints, 1)
    at_least("train.steps_per_dispatch", train.steps_per_dispatch, 0)
    at_least("train.accumulate", train.accumulate, 1)
    for key, most in (("batch.clips", batch.clips), ("batch.bags", batch.bags)):
        _require(most % train.accumulate == 0, "train.accumulate", train.accumulate,
                 f"a batch cannot be made of that many equal micro-batches; give a number that divides "
                 f"config.{key}={most}, or another config.{key}")  # fmt: skip
    at_least("profile.first", config.profile.first, 0)
    at_least("profile.last", config.profile.last, config.profile.first)
    _require(config.profile.first > 0 or not config.profile.last, "profile.last", config.profile.last,
             "config.profile.first says where the profile begins, from 1")  # fmt: skip
    one_of("eval.crop", config.eval.crop, CROPS)
    at_least("eval.batch_clips", config.eval.batch_clips, 1)
    at_least("optimizer.warmup_epochs", config.optimizer.warmup_epochs, 0)
    at_least("optimizer.weight_decay", config.optimizer.weight_decay, 0)
    at_least("optimizer.clip_norm", config.optimizer.clip_norm, 0)
    at_least("optimizer.plateau_patience", config.optimizer.plateau_patience, 1)
    at_least("optimizer.plateau_min_delta", config.optimizer.plateau_min_delta, 0)
    at_least("train.classifier_epochs", train.classifier_epochs, 0)
    at_least("loss.focal_gamma", config.loss.focal_gamma, 0)
    for key, value in leaves(config.augment, "augment."):
        at_least(key, value, 0)
    _check_bench(config.bench)
    for key in ("loss.label_smoothing", "loss.beta", "optimizer.ema"):
        _require(0 <= given[key] < 1, key, given[key], "it must be at least 0 and below 1")
    _require(0 < given["optimizer.plateau_factor"] <= 1, "optimizer.plateau_factor", given["optimizer.plateau_factor"],
             "it must be above 0 and at most 1")  # fmt: skip
    for key in ("loss.logit_adjustment", "eval.logit_adjustment"):
        at_least(key, given[key], 0)
        _require(not given[key] or batch.sampling == "natural", key, given[key],
                 "drawing bags by genre changes the prior; set config.batch.sampling to natural")  # fmt: skip
    _require(not config.eval.logit_adjustment or not train.classifier_epochs, "eval.logit_adjustment",
             config.eval.logit_adjustment, "a classifier trained on balanced genres has no prior to remove; set "
             "config.train.classifier_epochs to 0")  # fmt: skip
    _require(not batch.sub_bags or config.model.pooling.name != "none", "batch.sub_bags", batch.sub_bags,
             "a model without pooling sees single clips")  # fmt: skip
    _require(bool(config.model.frontend) == data.representation.startswith("audio") or data.corpus == "arrays",
             "model.frontend", config.model.frontend, f"a model on {data.representation} "
             + ("needs the spectrogram to compute from audio, such as mel_1360x96"
                if not config.model.frontend else "has no audio to compute a spectrogram from"))  # fmt: skip
    _require(config.optimizer.learning_rate > 0, "optimizer.learning_rate", config.optimizer.learning_rate,
             "it must be positive")  # fmt: skip
    _require(0 <= config.model.head_dropout < 1, "model.head_dropout", config.model.head_dropout,
             "it must be at least 0 and below 1")  # fmt: skip
    # Whether there is such a level and metric is checked where they are known: mgc_jax.evaluation.metrics.
    _require(not train.select.startswith("bag/") or config.model.pooling.name != "none", "train.select", train.select,
             "a model without pooling has no bag scores; select on clip or clip_mean")  # fmt: skip


# What a multi-label task refuses: (key, values that go with it, why not the others).
_ONE_GENRE: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("baseline.name", ("",), "the baselines of scikit-learn predict one genre per clip"),
    ("batch.sampling", ("natural",), "bags of several genres cannot be drawn by genre"),
    ("data.bag_key", ("paper",), "it is about bags of one genre"),
    ("data.folds", (0,), "folds are stratified by one genre per clip"),
    ("data.split", ("fma",), "it is stratified by one genre per clip"),
    ("eval.logit_adjustment", (0,), "it is about the prior of one genre among all"),
    ("loss.class_weights", ("none",), "a bag of several genres has no one weight"),
    ("loss.label_smoothing", (0,), "its target is the share of a bag's clips that have a genre"),
    ("loss.logit_adjustment", (0,), "it is about the prior of one genre among all"),
    ("loss.name", ("cross_entropy",), "its loss is the binary cross entropy of each genre"),
    ("train.classifier_epochs", (0,), "they are trained on bags that are drawn by genre"),
)


def _check_task(config: ConfigDict) -> None:
    if config.task != MULTI_LABEL:
        return
    given = dict(leaves(config))
    for key, allowed, why in _ONE_GENRE:
        _require(given[key] in allowed, key, given[key],
                 f"with config.task={MULTI_LABEL} {why}; set it to {' or '.join(map(repr, allowed))}")  # fmt: skip


# (keys, or groups that end with a dot; whether they do nothing; why, as the end of a sentence)
_IDLE: tuple[tuple[tuple[str, ...], Callable[[ConfigDict], bool], str], ...] = (
    (("loss.focal_gamma",), lambda c: c.loss.name != "focal", "without config.loss.name=focal"),
    (("loss.beta",), lambda c: c.loss.class_weights != "class_balanced",
     "without config.loss.class_weights=class_balanced"),
    (("augment.time_mask_frames",), lambda c: not c.augment.time_masks, "without config.augment.time_masks"),
    (("augment.mel_mask_bands",), lambda c: not c.augment.mel_masks, "without config.augment.mel_masks"),
    (("data.fold_selection",), lambda c: c.train.select == LAST, "where nothing selects (config.train.select=last)"),
    (("model.clips_too",), lambda c: c.model.pooling.name == "none", "on a model without bags"),
    (("eval.crop",), lambda c: not c.augment.crop_frames, "without crops in training (config.augment.crop_frames)"),
    (("optimizer.schedule_options.",), lambda c: c.optimizer.schedule in ("constant", "cosine"),
     "without a schedule of optax in config.optimizer.schedule, such as cosine_decay_schedule"),
    (("optimizer.plateau_patience", "optimizer.plateau_min_delta"), lambda c: c.optimizer.plateau_factor == 1,
     "without config.optimizer.plateau_factor below 1"),
    (("optimizer.weight_decay",), lambda c: "weight_decay" in c.optimizer.options,
     "beside config.optimizer.options.weight_decay, which is used instead"),
    (("model.pooling.hidden",), lambda c: "matt" in c.model.pooling.name and c.model.pooling.get("score") != "hidden",
     "without config.model.pooling.score=hidden"),
    (("model.encoder.filters", "model.encoder.frequency_pools"),
     lambda c: c.model.encoder.get("attention", "").endswith("linear"),
     "without a CNN for the scores (config.model.encoder.attention=parallel_cnn or serial_cnn)"),
    (("model.encoder.dropout",), lambda c: c.model.encoder.get("hidden") == () and c.model.encoder.name == "mlp",
     "on the layers of an MLP that has none (config.model.encoder.hidden)"),
    (("model.pooling.train_query",), lambda c: c.task == MULTI_LABEL,
     "with config.task=multi_label, in which every genre has its own query"),
    (("data.auto_first",), lambda c: c.data.corpus != "auto", "without config.data.corpus=auto"),
    (("data.split_seed",), lambda c: c.data.split == "fma" and not c.data.folds,
     "on the corpus's own split (config.data.split=fma)"),
    (("data.workers",), lambda c: c.data.placement in ("device", "host"), "without config.data.placement=stream"),
    (("data.arrays.clips", "data.arrays.ids", "data.arrays.table"), lambda c: c.data.corpus != "arrays",
     "without config.data.corpus=arrays"),
    (("model.", "batch.", "loss.", "augment.", "optimizer.", "train.", "eval.", "profile."),
     lambda c: bool(c.baseline.name), "on a baseline of scikit-learn (config.baseline.name)"),
)  # fmt: skip


def check_effects(config: ConfigDict, given: Collection[str] | None = None) -> None:
    """Raises `UserError` for an option that does nothing beside the others and yet is not its default.

    Also for both logit adjustments at once, which would subtract the prior twice.

    Args:
        config: a valid configuration.
        given: the dotted keys to check; by default all.
    """
    both = "loss.logit_adjustment", "eval.logit_adjustment"
    if config.loss.logit_adjustment and config.eval.logit_adjustment and (given is None or set(both) & set(given)):
        _require(False, both[1], config.eval.logit_adjustment,
                 f"a model trained with config.{both[0]} has no prior to remove; set one of both to 0")  # fmt: skip
    usual, values = dict(leaves(default())), dict(leaves(config))
    for key, value in values.items():
        if key.startswith("demo.") or not (given is None or key in given):
            continue
        if (why := next((why for keys, idle, why in _IDLE if key.startswith(keys) and idle(config)), None)) is None:
            continue
        group, _, option = key.rpartition(".")
        of = next((choice for choice in CHOICES if choice.complete and choice.options == group), None)
        if of is not None and key != of.key:
            usual[key] = (of.defaults(values[of.key]) or {}).get(option)
        if key not in usual or value != usual[key]:
            back = f"leave it at {usual[key]!r}" if key in usual else "leave it out"
            raise UserError(f"config.{key}={value!r} has no effect {why}; {back}.")


def _check_bench(bench: ConfigDict) -> None:
    choices = {
        "data": BENCH_DATA, "variants": BENCH_VARIANTS, "dtypes": DTYPES, "placements": PLACEMENTS,
        "scaling": ("strong", "weak"),
    }  # fmt: skip
    for key, allowed in choices.items():
        values = (bench[key],) if isinstance(bench[key], str) else bench[key]
        _require(set(values) <= set(allowed), f"bench.{key}", bench[key], f"choose from {', '.join(allowed)}")
    for key in ("clips", "steps", "repeats", "clip_shape", "batch_clips", "devices"):
        values = bench[key] if isinstance(bench[key], tuple | list) else (bench[key],)
        _require(all(isinstance(value, int) and value >= 1 for value in values), f"bench.{key}", bench[key],
                 "give whole numbers of at least 1")  # fmt: skip
    _require(len(bench.clip_shape) <= 2, "bench.clip_shape", bench.clip_shape, "give (time, mel) or (feature,)")
    _require(len(bench.variants) > 0, "bench.variants", bench.variants, "there is nothing to measure")
    _require(bench.bag_length >= 0, "bench.bag_length", bench.bag_length, "it must be at least 0")
    _require(bench.seconds > 0, "bench.seconds", bench.seconds, "it must be positive")


def _check_features(data: ConfigDict) -> None:
    if not data.features:
        return
    try:
        groups_of(data.features)
    except UserError as error:
        raise UserError(f"config.data.features={data.features!r} is invalid: {error}") from error
    _require(data.corpus != "arrays", "data.features", data.features,
             "it picks FMA's features; for arrays, name the columns in config.data.arrays.features")  # fmt: skip
    _require(data.representation == "features_518", "data.features", data.features,
             f"it picks columns of features_518, and config.data.representation is {data.representation}; set that to "
             "features_518, or leave config.data.features empty")  # fmt: skip
