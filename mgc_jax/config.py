"""The configuration: every key with its default, and the checks made before any work starts.

A file in `configs/` starts from `default()` and changes what its experiment needs. A key that is not
here does not exist: `--config.` flags and config files that name another one are refused.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from mgc_jax.errors import UserError
from tfds_fma.errors import FmaError
from tfds_fma.features import groups_of
from tfds_fma.representations import REPRESENTATIONS, demo_representation, is_name

CORPORA = ("auto", "demo", "fma_small", "fma_medium", "fma_large", "arrays")
SELECTION_VIEWS = ("clip", "clip_mean", "bag")
SELECTION_METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "micro_ap")
BASELINES = ("lr", "knn", "svm", "mlp")
DTYPES = ("float32", "bfloat16")
PLACEMENTS = ("auto", "device", "host", "stream")
BENCH_DATA = ("synthetic", "corpus")
BENCH_VARIANTS = ("train", "reused batch", "data only", "checkpoint", "eval")


def default() -> ConfigDict:
    """Returns a configuration with every key."""
    config = ConfigDict()
    config.seed = 0

    config.data = ConfigDict()
    config.data.corpus = "auto"  # auto (prepared FMA, else the demo), demo, fma_small, _medium or _large, arrays
    config.data.data_dir = "data"  # where tfds_fma.prepare wrote, and where the demo is made
    config.data.representation = "mel_1360x96"  # what tfds_fma prepared: computed, or arrays under a name of their own
    config.data.features = ""  # of features_518: all, or sets such as mfcc+spectral_contrast; empty: all
    config.data.frames = 0  # use only the first frames of each clip; 0: all
    config.data.bag_key = "paper"  # paper: album+artist, with the genre in training and validation; pair: without
    config.data.pseudo_album_gap = 20  # unknown album: same artist, track ids at most this far apart; 0: by artist
    config.data.folds = (
        0  # cross-validation: deal training and validation clips, by artist, into folds; 0: FMA's split
    )
    config.data.fold = 0  # the fold that is the validation split, from 0
    config.data.standardize = True  # zero mean, unit variance per mel band or feature, from training clips
    # auto, device (the corpus in device memory), host (batches gathered on the host), stream (clips stay on the disk)
    config.data.placement = "auto"
    config.data.workers = -1  # of stream: processes that read batches; 0: threads; -1: as measured best (threads)

    # data.corpus=arrays: precomputed features and a CSV track table.
    config.data.arrays = ConfigDict()
    config.data.arrays.clips = ""  # .npz or .npy of per-clip arrays; empty: the feature columns of the table
    config.data.arrays.clips_key = ""  # name of the array in the .npz; empty: its only array beside the ids
    config.data.arrays.ids = ""  # .npy of track ids; empty: ids_key of the .npz, or the order of the table
    config.data.arrays.ids_key = "track_id"  # name of the ids in the .npz
    config.data.arrays.axes = "clip time mel"  # order of the axes: "clip time mel", "clip mel time", "clip feature"
    config.data.arrays.table = ""  # CSV with a header row and one row per clip
    config.data.arrays.features = ()  # columns of the table to use as features where clips is empty
    config.data.arrays.genres = ()  # label list; empty: the genres that occur in the table
    config.data.arrays.columns = ConfigDict()
    config.data.arrays.columns.track_id = "track_id"
    config.data.arrays.columns.genre = "genre_top"
    config.data.arrays.columns.split = "split"
    config.data.arrays.columns.artist = "artist_id"  # empty: unknown
    config.data.arrays.columns.album = "album_id"  # empty: unknown
    config.data.arrays.columns.subset = ""  # FMA's subset (small, medium, ...); empty: unknown

    config.model = ConfigDict()
    config.model.encoder = ConfigDict()  # name, and the keyword arguments of that encoder
    config.model.pooling = ConfigDict()  # name, and the keyword arguments of that pooling
    config.model.pooling.name = "matt"  # none (bags of one clip), mean (+MIL), matt, ...: mgc_jax/models/pooling
    config.model.head_dropout = 0.5  # dropout on the bag vector
    config.model.frontend = ""  # clips are audio: the spectrogram to compute from them, such as mel_1360x96
    config.model.dtype = "float32"  # of the encoder's computation; bfloat16: half the memory, weights stay float32

    config.baseline = ConfigDict()  # instead of the model, with the keyword arguments of the scikit-learn estimator
    config.baseline.name = ""  # lr, knn, svm, mlp; empty: the model

    config.batch = ConfigDict()  # training batch: rows x clips_per_row clips; bags never straddle rows
    config.batch.rows = 1  # a multiple of the number of devices
    config.batch.clips_per_row = 64  # a longer bag is split over rows
    config.batch.sampling = "natural"  # natural: every bag once an epoch; sqrt, class_balanced: drawn by genre
    config.batch.sub_bags = False  # cut every bag at random into smaller ones, anew in each epoch

    config.loss = ConfigDict()
    config.loss.name = "cross_entropy"  # cross_entropy, focal (Lin et al. 2017)
    config.loss.focal_gamma = 2.0
    config.loss.label_smoothing = 0.0  # share of the target that is spread over all genres
    config.loss.bag_weight = "bag"  # bag: every bag counts as one; size: as many as its clips
    config.loss.class_weights = "none"  # none, class_balanced (Cui et al. 2019)
    config.loss.beta = 0.999  # of class_balanced
    config.loss.logit_adjustment = 0.0  # tau of the logit-adjusted loss (Menon et al. 2020); 0: off

    config.augment = ConfigDict()  # of training clips, after standardization
    config.augment.crop_frames = 0  # a random window of so many frames; evaluation takes the middle one; 0: off
    config.augment.time_masks = 0  # SpecAugment (Park et al. 2019): bands of time set to the mean
    config.augment.time_mask_frames = 40  # their greatest width
    config.augment.mel_masks = 0  # and bands of mel bands
    config.augment.mel_mask_bands = 12
    config.augment.noise = 0.0  # standard deviation of Gaussian noise
    config.augment.mixup = 0.0  # alpha of mixup between bags (Zhang et al. 2018); 0: off

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # an optimizer of optax: sgd, adam, adamw, rmsprop, lion, ...
    config.optimizer.options = ConfigDict()  # its other arguments, such as momentum
    config.optimizer.learning_rate = 0.1
    config.optimizer.schedule = "constant"  # constant, cosine (to zero at the last step), or a schedule of optax
    config.optimizer.schedule_options = ConfigDict()  # the arguments of a schedule of optax; steps, not epochs
    config.optimizer.warmup_epochs = 0.0  # linear warm-up
    config.optimizer.plateau_factor = 1.0  # times the learning rate where validation stalls (train.select); 1: off
    config.optimizer.plateau_patience = 10  # evaluations without progress before that
    config.optimizer.plateau_min_delta = 0.01  # less than this is no progress
    config.optimizer.weight_decay = 0.0  # decoupled for adamw and its like; for others L2 added to the gradient
    config.optimizer.clip_norm = 0.0  # clip the global gradient norm; 0: off
    config.optimizer.ema = 0.0  # decay of a moving average of the weights, which is then evaluated; 0: off

    config.train = ConfigDict()
    config.train.epochs = 60
    config.train.classifier_epochs = 0  # then the head alone, anew, on balanced genres (Kang et al. 2020); 0: off
    config.train.eval_every_epochs = 1
    config.train.log_every_steps = 20
    config.train.select = "bag/micro_ap"  # validation metric of the best checkpoint: <view>/<metric>
    config.train.checkpoint_every_steps = 0  # also between evaluations; 0: only there
    config.train.keep_checkpoints = 2  # the last ones, beside the best one
    # Steps that the devices do alone, where the corpus is on them. 0: as many as lie between what is to be done (log,
    # evaluate, save), at most 64; one on a CPU, where convolutions are many times slower in a loop.
    config.train.steps_per_dispatch = 0
    # Cut the rows of a batch into so many micro-batches, whose gradients are added up: less memory, the same update
    # but for dropout's draws. Batch norm normalizes each micro-batch by itself.
    config.train.accumulate = 1

    config.profile = ConfigDict()  # of the steps from first to last, counted from 1, in <workdir>/profile
    config.profile.first = 0  # 0: no profile
    config.profile.last = 0

    config.eval = ConfigDict()
    config.eval.batch_clips = 64  # clips embedded at once, over all devices
    config.eval.logit_adjustment = 0.0  # tau of post-hoc logit adjustment (Menon et al. 2020); 0: off

    config.bench = ConfigDict()  # of --mode bench; where several values may be given, () is that of the configuration
    config.bench.data = "synthetic"  # synthetic (noise in the shape of the clips), corpus (that of config.data)
    config.bench.clips = 512  # synthetic clips
    config.bench.clip_shape = ()  # of a synthetic clip, (time, mel) or (feature,); (): that of data.representation
    config.bench.bag_length = 0  # clips of a synthetic bag; 0: a long-tailed mix, like that of albums
    config.bench.variants = BENCH_VARIANTS  # what is measured
    config.bench.rows = ()  # values of batch.rows
    config.bench.clips_per_row = ()  # values of batch.clips_per_row
    config.bench.dtypes = ()  # values of model.dtype
    config.bench.placements = ()  # values of data.placement
    config.bench.devices = ()  # numbers of devices, the first ones of those that there are; (): all
    config.bench.scaling = "strong"  # strong: the same batch for any number of devices; weak: as many rows on each
    config.bench.steps = 10  # steps in a repeat, as whole dispatches; more of fast ones: half a second of them
    config.bench.repeats = 5  # of everything, in turn
    config.bench.seconds = 30.0  # about the longest that a row may take; slow models are measured on fewer steps

    config.demo = ConfigDict()  # what changes when the corpus is the demo; a flag for the same key wins
    return config


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of every leaf of a nested configuration."""
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def resolve_demo(config: ConfigDict, overridden: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy with the values of `config.demo` in place.

    Args:
        config: a configuration whose corpus turned out to be the demo.
        overridden: dotted keys given on the command line, which win over `config.demo`.
    """
    resolved = config.copy_and_resolve_references()
    with resolved.unlocked():
        resolved.data.representation = demo_representation(config.data.representation)
        if config.model.frontend:
            resolved.model.frontend = demo_representation(config.model.frontend)
        for key, value in leaves(config.demo):
            if key not in overridden:
                resolved.update_from_flattened_dict({key: value})
    return resolved


def shared_values(config: ConfigDict) -> dict[str, Any]:
    """Returns what all processes of a run must have alike: every key but where the corpus lies on their hosts."""
    return {key: value for key, value in leaves(to_json(config)) if not key.startswith(_LOCATION)}


def to_json(config: ConfigDict) -> dict[str, Any]:
    """Returns the configuration as JSON would give it back (tuples become lists)."""
    return json.loads(json.dumps(config.to_dict()))


def _require(condition: bool, key: str, value: Any, remedy: str) -> None:
    if not condition:
        raise UserError(f"config.{key}={value!r} is impossible: {remedy}.")


def validate(config: ConfigDict) -> None:
    """Raises `UserError` for an unknown key or an impossible value, before any work starts."""
    known, given = dict(leaves(default())), dict(leaves(config))
    # Checked by what they are the options of, and the demo's against the keys themselves.
    options = ("model.encoder.", "model.pooling.", "baseline.", "optimizer.options.", "optimizer.schedule_options.")
    free = (*options, "demo.")
    missing = sorted(known.keys() - given.keys())
    if missing:
        raise UserError(f"config keys are missing: {', '.join(missing)}. Start from mgc_jax.config.default().")
    unknown = sorted(key for key in given.keys() - known.keys() if not key.startswith(free))
    unknown += sorted(key for key, _ in leaves(config.demo) if key not in given)
    if unknown:
        raise UserError(
            f"unknown config keys: {', '.join(unknown)}. mgc_jax/config.py lists every key with its meaning."
        )
    for key, value in known.items():
        kind = (int, float) if isinstance(value, float) else (tuple, list) if isinstance(value, tuple) else type(value)
        _require(isinstance(given[key], kind), key, given[key], f"it must be of the kind of {value!r}")
    data, batch, train = config.data, config.batch, config.train

    def one_of(key: str, value: Any, choices: tuple[str, ...]) -> None:
        _require(value in choices, key, value, f"choose one of {', '.join(choices)}")

    def at_least(key: str, value: float, least: float) -> None:
        _require(value >= least, key, value, f"it must be at least {least}")

    at_least("seed", config.seed, 0)
    one_of("data.corpus", data.corpus, CORPORA)
    # Arrays can be prepared under any name: whether this one is prepared, opening the corpus tells.
    _require(is_name(data.representation), "data.representation", data.representation,
             f"choose one of {', '.join(REPRESENTATIONS)}, or the name under which arrays were prepared")  # fmt: skip
    _check_features(data)
    one_of("data.bag_key", data.bag_key, ("paper", "pair"))
    one_of("data.placement", data.placement, PLACEMENTS)
    one_of("data.arrays.axes", data.arrays.axes, ("clip time mel", "clip mel time", "clip feature"))
    one_of("baseline.name", config.baseline.name, ("", *BASELINES))
    one_of("model.dtype", config.model.dtype, DTYPES)
    one_of("batch.sampling", batch.sampling, ("natural", "sqrt", "class_balanced"))
    one_of("loss.name", config.loss.name, ("cross_entropy", "focal"))
    one_of("loss.bag_weight", config.loss.bag_weight, ("bag", "size"))
    one_of("loss.class_weights", config.loss.class_weights, ("none", "class_balanced"))
    at_least("data.frames", data.frames, 0)
    _require(data.folds == 0 or data.folds > 1, "data.folds", data.folds, "it must be 0 or at least 2")
    _require(0 <= data.fold < max(1, data.folds), "data.fold", data.fold, "it must be at least 0 and below data.folds")
    at_least("data.workers", data.workers, -1)
    at_least("data.pseudo_album_gap", data.pseudo_album_gap, 0)
    at_least("batch.rows", batch.rows, 1)
    at_least("batch.clips_per_row", batch.clips_per_row, 1)
    at_least("train.epochs", train.epochs, 1)
    at_least("train.eval_every_epochs", train.eval_every_epochs, 1)
    at_least("train.log_every_steps", train.log_every_steps, 1)
    at_least("train.checkpoint_every_steps", train.checkpoint_every_steps, 0)
    at_least("train.keep_checkpoints", train.keep_checkpoints, 1)
    at_least("train.steps_per_dispatch", train.steps_per_dispatch, 0)
    at_least("train.accumulate", train.accumulate, 1)
    _require(batch.rows % train.accumulate == 0, "train.accumulate", train.accumulate,
             f"the {batch.rows} row(s) of a batch cannot be cut into so many micro-batches; it must divide "
             "config.batch.rows")  # fmt: skip
    at_least("profile.first", config.profile.first, 0)
    at_least("profile.last", config.profile.last, config.profile.first)
    _require(config.profile.first > 0 or not config.profile.last, "profile.last", config.profile.last,
             "config.profile.first says where the profile begins, from 1")  # fmt: skip
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
                 "bags that are drawn by genre have another prior; set config.batch.sampling to natural")  # fmt: skip
    _require(not config.eval.logit_adjustment or not train.classifier_epochs, "eval.logit_adjustment",
             config.eval.logit_adjustment, "a classifier trained on balanced genres has no prior to take away; set "
             "config.train.classifier_epochs to 0")  # fmt: skip
    _require(not batch.sub_bags or config.model.pooling.name != "none", "batch.sub_bags", batch.sub_bags,
             "a model without pooling sees clips alone")  # fmt: skip
    _require(bool(config.model.frontend) == data.representation.startswith("audio") or data.corpus == "arrays",
             "model.frontend", config.model.frontend, f"a model on {data.representation} "
             + ("needs the spectrogram to compute from audio, such as mel_1360x96"
                if not config.model.frontend else "has no audio to compute a spectrogram from"))  # fmt: skip
    _require(config.optimizer.learning_rate > 0, "optimizer.learning_rate", config.optimizer.learning_rate,
             "it must be positive")  # fmt: skip
    _require(0 <= config.model.head_dropout < 1, "model.head_dropout", config.model.head_dropout,
             "it must be at least 0 and below 1")  # fmt: skip
    view, _, metric = train.select.partition("/")
    _require(view in SELECTION_VIEWS and metric in SELECTION_METRICS, "train.select", train.select,
             f"write <view>/<metric> with a view of {', '.join(SELECTION_VIEWS)} and a metric of "
             f"{', '.join(SELECTION_METRICS)}")  # fmt: skip
    _require(view != "bag" or config.model.pooling.name != "none", "train.select", train.select,
             "a model without pooling has no bag scores; select on clip or clip_mean")  # fmt: skip


def _check_bench(bench: ConfigDict) -> None:
    choices = {
        "data": BENCH_DATA, "variants": BENCH_VARIANTS, "dtypes": DTYPES, "placements": PLACEMENTS,
        "scaling": ("strong", "weak"),
    }  # fmt: skip
    for key, allowed in choices.items():
        values = (bench[key],) if isinstance(bench[key], str) else bench[key]
        _require(set(values) <= set(allowed), f"bench.{key}", bench[key], f"choose of {', '.join(allowed)}")
    for key in ("clips", "steps", "repeats", "clip_shape", "rows", "clips_per_row", "devices"):
        values = bench[key] if isinstance(bench[key], tuple | list) else (bench[key],)
        _require(all(isinstance(value, int) and value >= 1 for value in values), f"bench.{key}", bench[key],
                 "whole numbers of at least 1 are possible")  # fmt: skip
    _require(len(bench.clip_shape) <= 2, "bench.clip_shape", bench.clip_shape, "give (time, mel) or (feature,)")
    _require(len(bench.variants) > 0, "bench.variants", bench.variants, "there is nothing to measure")
    _require(bench.bag_length >= 0, "bench.bag_length", bench.bag_length, "it must be at least 0")
    _require(bench.seconds > 0, "bench.seconds", bench.seconds, "it must be positive")


def _check_features(data: ConfigDict) -> None:
    if not data.features:
        return
    try:
        groups_of(data.features)
    except FmaError as error:
        raise UserError(f"config.data.features={data.features!r} is impossible: {error}") from error
    _require(data.corpus != "arrays", "data.features", data.features,
             "it picks FMA's features; of your own, name the columns in config.data.arrays.features")  # fmt: skip
    _require(data.representation == "features_518", "data.features", data.features,
             f"it picks columns of features_518, and config.data.representation is {data.representation}; set that to "
             "features_518, or leave config.data.features empty")  # fmt: skip


# Keys that do not alter what a step computes.
_HARMLESS = (
    "data.placement", "data.workers", "data.arrays.columns.subset", "eval.batch_clips", "demo.", "bench.", "profile.",
    "train.eval_every_epochs", "train.log_every_steps", "train.checkpoint_every_steps", "train.keep_checkpoints",
    "train.steps_per_dispatch",
)  # fmt: skip
# Where the corpus lies may change too: its fingerprint says whether it is the same one.
_LOCATION = ("data.corpus", "data.data_dir", "data.arrays.clips", "data.arrays.ids", "data.arrays.table")


def differences(
    config: ConfigDict, before: Mapping[str, Any], *, moved: bool = True, training: bool = True
) -> list[str]:
    """Lists what makes this configuration train another model than an earlier one.

    Args:
        config: the configuration of this run.
        before: the other one, as JSON gives it. A key that it lacks, being newer, had its default's effect.
        moved: whether the corpus may lie elsewhere.
        training: whether the model is to be trained on; if not, it may be evaluated in another way.
    """
    ignored = _HARMLESS + (_LOCATION if moved else ())
    if config.optimizer.plateau_factor < 1:  # counts evaluations
        ignored = tuple(key for key in ignored if key != "train.eval_every_epochs")
    if not training:
        ignored += ("eval.",)
    if config.optimizer.schedule == "constant" and not config.train.classifier_epochs:
        ignored += ("train.epochs",)
    now, then = dict(leaves(to_json(config))), dict(leaves(to_json(default()))) | dict(leaves(before))
    return [
        f"{key}: {then.get(key, 'absent')!r} there, {now.get(key, 'absent')!r} now"
        for key in sorted(now.keys() | then.keys())
        if now.get(key) != then.get(key) and not key.startswith(ignored)
    ]
