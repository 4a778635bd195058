"""Every key of a configuration, with its default and meaning."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from tfds_fma.representations.registry import demo_representation

SINGLE_LABEL, MULTI_LABEL = TASKS = ("single_label", "multi_label")


LAST = "last"  # in place of a metric in `train.select`
LAST_STEP = "last step"  # in results, in place of what selected the checkpoint


# The metric that `train.select` names where nothing else is said.
SELECTED_BY = {SINGLE_LABEL: "micro_ap", MULTI_LABEL: "macro_ap"}


CORPORA = ("auto", "demo", "fma_small", "fma_medium", "fma_large", "fma_full", "arrays")


BASELINES = ("lr", "knn", "svm", "mlp")


BAG_KEYS = ("paper", "pair", "published")


DTYPES = ("float32", "bfloat16")


KERNELS = ("auto", "plain", "gru_kernel")


PLACEMENTS = ("auto", "device", "host", "stream")


CROPS = ("middle", "whole")


BENCH_DATA = ("synthetic", "corpus")


BENCH_VARIANTS = ("train", "reused batch", "data only", "checkpoint", "eval")


def default() -> ConfigDict:
    """Returns a configuration with every key."""
    config = ConfigDict()
    config.seed = 0
    # single_label: one genre per clip, the top genre; multi_label: any of the genres of FMA's tree, each by itself.
    # Given as a flag, it replaces the metric of train.select, too
    config.task = SINGLE_LABEL

    config.data = ConfigDict()
    # auto (prepared FMA, else demo), demo, fma_small, _medium, _large or _full, own_NAME (a music collection), arrays
    config.data.corpus = "auto"
    config.data.auto_first = "fma_medium"  # what auto takes first: the paper's; then fma_medium, then fma_small
    config.data.data_dir = "data"  # where tfds_fma.prepare wrote, and where the demo is made
    config.data.representation = (
        "mel_1360x96"  # what tfds_fma prepared: a spectrogram, audio, features, or the name of arrays
    )
    config.data.features = ""  # of features_518: all, or sets such as mfcc+spectral_contrast; empty: all
    config.data.frames = 0  # use only the first frames of each clip; 0: all
    # paper: bags of album and artist, in training of one genre each; pair: of any genres; published: as MATT's code
    # counts, of one genre in validation too, which flatters its scores
    config.data.bag_key = "paper"
    config.data.pseudo_album_gap = 20  # unknown album: same artist, track ids at most this far apart; 0: by artist
    # rule: fma (the corpus's own), folds (by artist), 8-1-1 (of clips), 8-1-1-albums: mgc_jax/data/splits.py
    config.data.split = "fma"
    config.data.folds = 0  # number of folds for cross-validation; above 0, data.split is folds
    config.data.fold = 0  # the fold that is the validation split, from 0
    # what selects a fold's checkpoint: inner (a part of the training clips, by artists of its own), scored (the fold
    # itself, which flatters its scores)
    config.data.fold_selection = "inner"
    # of the random draws of folds, 8-1-1, 8-1-1-albums; the same for every seed of training
    config.data.split_seed = 0
    # zero mean, unit variance per feature, from all training clips, or per mel band, from at most 4096 of them (512
    # with a frontend). MATT's networks take spectrograms and features as they are, as far as its code is published
    config.data.standardize = True
    # auto, device (the corpus in device memory), host (batches gathered on the host), stream (clips stay on the disk)
    config.data.placement = "auto"
    config.data.workers = -1  # of stream: processes that read batches; 0: threads; -1: as measured best (threads)

    # data.corpus=arrays: precomputed features and a CSV track table.
    config.data.arrays = ConfigDict()
    config.data.arrays.clips = ""  # .npz or .npy of per-clip arrays; empty: the feature columns of the table
    config.data.arrays.clips_key = ""  # name of the array in the .npz; empty: its only array beside the ids
    config.data.arrays.ids = ""  # .npy of track ids; empty: ids_key of the .npz, or the order of the table
    config.data.arrays.ids_key = "track_id"  # name of the ids in the .npz; empty: it has none
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
    # a bag's score is the mean of two, each trained: that of the bag, and the mean of its clips' when pooled alone
    config.model.clips_too = False
    config.model.frontend = ""  # clips are audio: the spectrogram to compute from them, such as mel_1360x96
    config.model.dtype = "float32"  # of the encoder's computation; bfloat16: half the memory, weights stay float32
    # auto: forms of the layers made for the platform; plain: XLA's own operations; gru_kernel: those of auto, and on a
    # GPU the steps of a GRU in one kernel, which was not timed yet. Equal but for rounding.
    config.model.kernels = "auto"

    # Instead of the model, with the keyword arguments of the scikit-learn estimator. The weights of knn may also be
    # softmax: of minus the distance at temperature 0.07, as X-ARES has it with metric=cosine
    config.baseline = ConfigDict()
    config.baseline.name = ""  # lr, knn, svm, mlp; empty: the model

    config.batch = ConfigDict()  # training batch: whole bags, whose clips are dealt evenly to the devices
    config.batch.clips = 64  # most clips of a batch, over all devices; a longer bag is cut
    config.batch.bags = 0  # most bags of a batch; 0: no limit
    config.batch.sampling = "natural"  # natural: every bag once an epoch; sqrt, class_balanced: drawn by genre
    config.batch.sub_bags = False  # split every bag at random into smaller ones, again in each epoch

    config.loss = ConfigDict()
    config.loss.name = "cross_entropy"  # cross_entropy, focal (Lin et al. 2017)
    config.loss.focal_gamma = 2.0
    config.loss.label_smoothing = 0.0  # share of the target that is spread over all genres
    config.loss.bag_weight = "bag"  # bag: every bag counts as one; size: as many as its clips
    config.loss.class_weights = "none"  # none, class_balanced (Cui et al. 2019)
    config.loss.beta = 0.999  # of class_balanced
    config.loss.logit_adjustment = 0.0  # tau of the logit-adjusted loss (Menon et al. 2020); 0: off

    config.augment = ConfigDict()  # of training clips, after standardization
    config.augment.crop_frames = 0  # a random window of this many frames in training; see eval.crop; 0: off
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
    config.optimizer.ema = 0.0  # decay of a moving average of the weights, which is then evaluated, with batch-norm
    # statistics recomputed on up to 32 training batches (before each evaluation); 0: off

    config.train = ConfigDict()
    config.train.epochs = 60
    config.train.init_from = ""  # a run's folder or an export, whose weights a new run starts from; empty: at random
    config.train.classifier_epochs = 0  # then the head alone, reset, on balanced genres (Kang et al. 2020); 0: off
    config.train.eval_every_epochs = 1
    config.train.log_every_steps = 20
    # validation metric of the best checkpoint: <level>/<metric>; multi_label: macro_ap, micro_ap, macro_auc, ...
    # last: nothing selects or is evaluated, the last checkpoint counts, a fold trains on all clips of the others
    config.train.select = f"bag/{SELECTED_BY[SINGLE_LABEL]}"
    config.train.checkpoint_every_steps = 0  # also between evaluations; 0: only there
    config.train.keep_checkpoints = 2  # the last ones, beside the best one
    # Steps per compiled call where the corpus is on the devices. 0: as many as there are until the next log,
    # evaluation or checkpoint, at most 64; 1 on a CPU, where convolutions in a loop are many times slower.
    config.train.steps_per_dispatch = 0
    # Make each batch of this many micro-batches and add up their gradients: less memory. A micro-batch has at most
    # batch.clips / accumulate clips: a longer bag is cut. Batch norm normalizes each micro-batch by itself.
    config.train.accumulate = 1

    config.profile = ConfigDict()  # of the steps from first to last, counted from 1, in <workdir>/profile
    config.profile.first = 0  # 0: no profile
    config.profile.last = 0

    config.eval = ConfigDict()
    config.eval.batch_clips = 64  # clips embedded at once, over all devices
    config.eval.logit_adjustment = 0.0  # tau of post-hoc logit adjustment (Menon et al. 2020); 0: off
    # What evaluation sees of a model that is trained on crops: middle (the crop there), whole (the clip, for encoders
    # that take clips of any length: crnn_pooled, statistics)
    config.eval.crop = "middle"

    config.bench = ConfigDict()  # of --mode bench; where several values may be given, () is that of the configuration
    config.bench.data = "synthetic"  # synthetic (noise in the shape of the clips), corpus (that of config.data)
    config.bench.clips = 512  # synthetic clips
    config.bench.clip_shape = ()  # of a synthetic clip, (time, mel) or (feature,); (): that of data.representation
    config.bench.bag_length = 0  # clips of a synthetic bag; 0: a long-tailed mix, like that of albums
    config.bench.variants = BENCH_VARIANTS  # what is measured
    config.bench.batch_clips = ()  # values of batch.clips
    config.bench.dtypes = ()  # values of model.dtype
    config.bench.placements = ()  # values of data.placement
    config.bench.devices = ()  # numbers of devices, the first ones of those that there are; (): all
    config.bench.scaling = "strong"  # strong: the same batch for any number of devices; weak: as many clips on each
    config.bench.steps = 10  # steps in a repeat, as whole dispatches; more of fast ones: half a second of them
    config.bench.repeats = 5  # of everything, in turn
    config.bench.seconds = 30.0  # about the longest that a row may take; slow models are measured on fewer steps

    config.demo = ConfigDict()  # what changes when the corpus is the demo; an override of the same key wins
    return config


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of every leaf of a nested configuration."""
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def split_rule(split: str, folds: int) -> str:
    """Returns the split rule that `data.split` and `data.folds` name together: folds alone mean the rule `folds`."""
    return "folds" if split == "fma" and folds else split


def resolve_demo(config: ConfigDict) -> ConfigDict:
    """Returns a copy with the values of `config.demo` in place, and none left: to resolve it again changes nothing.

    Args:
        config: a configuration whose corpus turned out to be the demo. What was overridden is no longer in
            `config.demo` (`mgc_jax.config.overrides.override`).
    """
    resolved = config.copy_and_resolve_references()
    with resolved.unlocked():
        resolved.data.representation = demo_representation(config.data.representation)
        if config.model.frontend:
            resolved.model.frontend = demo_representation(config.model.frontend)
        for key, value in leaves(config.demo):
            resolved.update_from_flattened_dict({key: value})
        resolved.demo = ConfigDict()
    return resolved


def kind_of(value: Any) -> str:
    """Returns the kind of a value in words: an int, a float, a bool, a str, a tuple."""
    name = "tuple" if isinstance(value, list) else type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def to_json(config: ConfigDict) -> dict[str, Any]:
    """Returns the configuration as JSON would give it back (tuples become lists)."""
    return json.loads(json.dumps(config.to_dict()))
