"""What a configuration becomes: corpus, inputs, model, bags and evaluator, built once."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mgc_jax.config import keys
from mgc_jax.data.bags import Bags, bags_of, genre_shares, single_clip_bags, training_bags
from mgc_jax.data.batches import TrainBatches
from mgc_jax.data.corpus import INNER, SPLIT_NAMES, Corpus
from mgc_jax.data.inputs import make_inputs
from mgc_jax.data.on_disk import LazyClips
from mgc_jax.data.open import open_corpus
from mgc_jax.data.placement import ClipStore, place_clips
from mgc_jax.data.standardization import Standardization
from mgc_jax.errors import UserError
from mgc_jax.evaluation.evaluator import Evaluator
from mgc_jax.evaluation.metrics import check_selection
from mgc_jax.evaluation.predictions import Predictions
from mgc_jax.evaluation.tasks import metrics_of
from mgc_jax.inference import STATE_VERSION, CheckpointMeta, check_weights
from mgc_jax.models.classifier import build_model, check_names, count_parameters, split_model
from mgc_jax.models.encoders import ENCODERS
from mgc_jax.models.logit_adjustment import log_prior
from mgc_jax.models.recurrent import gru_form
from mgc_jax.probe import Probe
from mgc_jax.runtime import processes
from mgc_jax.runtime.devices import data_mesh
from mgc_jax.runtime.environment import code_version, describe_devices
from mgc_jax.runtime.workdir import check_same, check_same_corpus
from mgc_jax.runtime.xla_flags import warn_without_cpu_flags
from mgc_jax.scoring import Scorer

log = logging.getLogger(__name__)


class Experiment:
    """What training and evaluation share: corpus, model, bags and evaluator, built once.

    Attributes:
        config: the resolved configuration.
        workdir: the run's folder.
        corpus: the corpus.
        inputs: what the encoder sees of its clips.
        mesh: the devices.
        clips: the clips, placed.
        graph: the model's structure.
        params: initial weights.
        batch_stats: initial batch statistics.
        num_parameters: weights and batch-norm moments.
        told_genre: whether the model's scores in training depend on the bag's genre, as MATT's may.
        gru_form: how the model's GRUs are computed, as `models.recurrent.gru_form` says it.
        devices: number and kind of the devices, and the threads of CPUs, such as "2 x cpu, 2 threads".
        code: what runs, as `runtime.environment.code_version` says it.
        evaluator: scores splits.
        probe: scores fixed clips, by which saved weights show that the code is still that which saved them.
        selects_on: the split whose scores select the checkpoint; None: there is none.
        bags: by split, what evaluation pools.
        train_bags: what training sees: bags, or bags of one clip for a model without pooling.
        adjustment: float32 [genre]: post-hoc logit adjustment of all scores.
        genre_count: [genre]: training bags (or clips, where the loss counts them) of each genre.
        shares: float32 [target, genre]: with several genres per clip, the targets that the labels of the training bags
            are rows of (`data.bags.genre_shares`); None: a clip has one genre.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        *,
        corpus: Corpus | None = None,
        clips: ClipStore | None = None,
        devices: Sequence[jax.Device] | None = None,
    ):
        """Builds all of it.

        Args:
            config: the resolved configuration.
            workdir: the run's folder.
            corpus: the corpus; by default the one that the configuration names is opened.
            clips: those of the corpus, placed on these devices; by default they are placed as the configuration says.
            devices: those to use; by default all.
        """
        warn_without_cpu_flags()
        self.config, self.workdir = config, workdir
        multi_label = config.task == keys.MULTI_LABEL
        check_names(config.model, multi_label=multi_label)
        check_selection(config.train.select, metrics_of(config.task))
        _check_length(config)
        self.mesh = data_mesh(devices)
        self.corpus = open_together(config) if corpus is None else corpus
        selects = config.train.select != keys.LAST
        # What is trained on and scored. `self.corpus` stays as it was opened: its fingerprint tells corpora apart
        corpus = self.corpus if selects else self.corpus.with_inner_in_training()
        log.info(corpus.summary())
        self.inputs = make_inputs(config, corpus)
        model = build_model(
            config.model, self.inputs.clip_shape, len(self.corpus.genres),
            subgenre_parents=self.corpus.subgenre_parents, multi_label=multi_label, seed=config.seed,
        )  # fmt: skip
        self.num_parameters = count_parameters(model)
        self.told_genre: bool = getattr(model.pooling, "told_genre", False)
        self.gru_form = gru_form(model)
        self.devices = describe_devices(list(self.mesh.devices.flat))
        self.code = code_version()
        self.graph, *state = split_model(model)
        # Copies: the train step reuses what it is given.
        self.params, self.batch_stats = processes.arrays_from_first(jax.device_get(state))
        if clips is None:
            clips = place_clips(self.corpus.clips, config.data.placement, self.mesh, config.data.workers)
        self.clips: ClipStore = clips
        self.bags = {
            split: bags_of(corpus, split, config.data.bag_key, config.data.pseudo_album_gap)
            for split in (*SPLIT_NAMES, INNER)
            if len(corpus.indices(split))
        }
        self.selects_on = corpus.selects_on if selects and corpus.selects_on in self.bags else None
        if config.optimizer.plateau_factor < 1 and self.selects_on is None:
            raise UserError(
                "config.optimizer.plateau_factor lowers the learning rate where validation stalls, but "
                + ("this corpus has no validation split" if selects else "config.train.select=last scores none")
                + ". Set it to 1."
            )
        train = (
            training_bags(corpus, config.data.bag_key, config.data.pseudo_album_gap)
            if self.has_pooling
            else single_clip_bags(corpus, "train")
        )
        self.shares: np.ndarray | None = None
        if multi_label:
            train, self.shares = genre_shares(corpus, train)
        self.train_bags: Bags = train
        targets = np.eye(len(self.corpus.genres)) if self.shares is None else self.shares
        weight = train.sizes if config.loss.bag_weight == "size" else None
        self.genre_count = np.bincount(train.label, weights=weight, minlength=len(targets)) @ targets
        self.adjustment = -config.eval.logit_adjustment * log_prior(self.genre_count)
        scorer = Scorer(
            model, self.inputs, self.mesh, config.eval.batch_clips, self.adjustment, parents=self.corpus.parents
        )
        self.evaluator = Evaluator(scorer, self.clips, self.has_pooling)
        self.probe = Probe(model, self.inputs, self.corpus.clips.shape[1:])

    @property
    def has_pooling(self) -> bool:
        """Whether training sees bags of several clips."""
        return self.config.model.pooling.name != "none"

    def train_batches(self, sampling: str) -> TrainBatches:
        """Returns the training batches."""
        batch = self.config.batch
        return TrainBatches(
            self.train_bags, batch.clips, self.config.seed, most_bags=batch.bags,
            accumulate=self.config.train.accumulate, sampling=sampling, sub_bags=batch.sub_bags,
            bag_weight=self.config.loss.bag_weight, mixup=self.config.augment.mixup,
        )  # fmt: skip

    def predict(self, split: str, params: Any, batch_stats: Any) -> Predictions:
        """Scores every clip and bag of one split with these weights."""
        return self.evaluator.score_split(params, batch_stats, self.corpus, split, self.bags[split])

    def meta(
        self,
        seconds: dict[str, float],
        *,
        init_from: dict[str, Any] | None = None,
        window: Sequence[dict[str, float]] = (),
    ) -> CheckpointMeta:
        """Returns what a checkpoint of this experiment says of itself; see `CheckpointMeta` for the arguments."""
        return CheckpointMeta(
            config=keys.to_json(self.config),
            corpus=self.corpus.name,
            fingerprint=self.corpus.fingerprint,
            genres=tuple(self.corpus.genres),
            subgenres=tuple(self.corpus.subgenres),
            subgenre_parents=tuple(self.corpus.subgenre_parents),
            genre_parents=self.corpus.parents,
            stored_shape=tuple(self.corpus.clips.shape[1:]),
            clip_shape=tuple(self.inputs.clip_shape),
            adjustment=tuple(self.adjustment.tolist()),
            standardization={name: getattr(self.inputs.statistics, name).tolist() for name in ("mean", "std")},
            seconds=dict(seconds),  # the save is asynchronous
            init_from=init_from,
            window=tuple(window),
            gru_form=self.gru_form,
            devices=self.devices,
            code=self.code,
            state_version=STATE_VERSION,
            resampler=self.corpus.resampler,
            clips_digest=self.corpus.clips_digest,
        )

    def accept(self, meta: CheckpointMeta, *, training: bool) -> None:
        """Takes over the standardization that the weights of a checkpoint were trained with.

        Another machine computes it with other rounding; earlier versions, from a sample of the feature vectors.

        Raises:
            UserError: the checkpoint was made with another configuration or on another corpus.
        """
        check_same(self.config, meta.config, self.workdir, training=training)
        check_same_corpus(self.corpus, dataclasses.asdict(meta), self.workdir)
        mean, std = (np.asarray(meta.standardization[name], np.float32) for name in ("mean", "std"))
        self.inputs.statistics = Standardization(mean, std)

    def check_state(self, meta: CheckpointMeta, state: Any) -> None:
        """Raises `ChangedCodeError` if the code does no longer give the scores of a restored state's weights."""
        what = f"the checkpoint of step {meta.step} in {self.workdir}"
        params, batch_stats = state.evaluated
        check_weights(meta, self.probe, params, batch_stats, what)


def open_together(config: ConfigDict) -> Corpus:
    """Opens the corpus, in all processes; raises `UserError` if it is not the same one in all."""
    demo = config.data.corpus == "demo"  # which the first process makes
    if demo and not processes.is_first():
        processes.wait_for_all()
    corpus = open_corpus(config.data, config.task)
    if demo and processes.is_first():
        processes.wait_for_all()
    lazy = isinstance(corpus.clips, LazyClips)
    found = {
        "corpus": corpus.name, "fingerprint": corpus.fingerprint, "the checksum of all clips": corpus.clips_digest,
        "config.data.placement=stream": lazy,
    }  # fmt: skip
    processes.require_same("corpus", found)
    return corpus


def _check_length(config: ConfigDict) -> None:
    """Raises `UserError` where evaluation sees longer clips than the encoder was built for, and it takes no others."""
    encoder = config.model.encoder.name
    able = [name for name, made in ENCODERS.items() if getattr(made, "any_length", False)]
    if config.augment.crop_frames and config.eval.crop == "whole" and encoder not in able:
        raise UserError(
            f"config.eval.crop='whole' needs an encoder for clips of any length ({', '.join(able)}), but {encoder} "
            "takes clips of one length. Set it to middle, or config.augment.crop_frames to 0."
        )
