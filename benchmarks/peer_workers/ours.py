"""mgc_jax as the main job runs it; also makes the problem that all workers solve."""

import importlib.util
import json
import math

from mgc_jax.runtime.xla_flags import use_cpu_flags

use_cpu_flags()  # as the commands do, before JAX starts

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from protocol import ROOT, Peer, serve

from mgc_jax.data.batches import Batch
from mgc_jax.data.inputs import Inputs
from mgc_jax.data.placement import DeviceClips
from mgc_jax.data.standardization import Standardization
from mgc_jax.models.classifier import build_model, split_model
from mgc_jax.runtime.devices import data_mesh, deal, replicate
from mgc_jax.runtime.environment import describe_environment
from mgc_jax.runtime.platform import dealt_over
from mgc_jax.scoring import bag_places
from mgc_jax.training.optimizer import make_optimizer
from mgc_jax.training.step import make_loss, make_train_step

_ROW_SLOTS = 64  # at most
_BAG_CLIPS = 3.5  # mean size of the training bags of FMA-medium


def read_config(name):
    """The configuration of `configs/<name>.py`."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def draw_bags(rng, rows, slots, sizes_mean):
    """Fills every row with bags of geometrically distributed sizes; returns segment [row, slot] and bags a row."""
    segment = np.zeros((rows, slots), np.int32)
    for row in segment:
        first = rng.random(slots) < 1 / sizes_mean if sizes_mean > 1 else np.ones(slots, bool)
        first[0] = False
        row[:] = np.cumsum(first)
    return segment, segment.max(axis=1) + 1


def randomized(path, shape, rng):
    """A value to add, so that biases and moving averages are not at their start, where mistakes do not show."""
    return {"var": 0.5 * rng.random(shape), "count": np.float64(0)}.get(path[-1], 0.05 * rng.normal(size=shape))


def clip_shape_of(config):
    return {"mel_1360x96": (1360, 96), "mel_640x128": (640, 128), "features_518": (518,)}[config.data.representation]


class Ours(Peer):
    def hello(self):
        return describe_environment() | {"backend": jax.default_backend()}

    def make(self, options, path):
        """Writes a problem: random clips, bags and labels, and our initial weights, a little disturbed."""
        config = read_config(options["config"])
        rng = np.random.default_rng(0)
        clips = options["batch"] or config.batch.clips
        slots = 1 if config.model.pooling.name == "none" else min(clips, _ROW_SLOTS)
        rows = max(1, clips // slots)
        shape, genres = clip_shape_of(config), 8 if config.data.representation == "mel_640x128" else 16
        segment, bags = draw_bags(rng, rows, slots, 1 if config.model.pooling.name == "none" else _BAG_CLIPS)
        in_use = np.arange(slots) < bags[:, None]
        model = build_model(config.model, shape, genres, seed=0)
        weights = {
            "/".join(map(str, key)): np.asarray(leaf[...]) + randomized(key, leaf.shape, rng).astype(np.float32)
            for key, leaf in nnx.to_flat_state(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
        }
        about = options | {
            "encoder": config.model.encoder.to_dict(),
            "pooling": config.model.pooling.name,
            "head_dropout": config.model.head_dropout,
            "optimizer": config.optimizer.to_dict(),
            "clip_shape": shape,
            "genres": genres,
        }
        np.savez(
            path,
            **weights,
            **{
                "options": json.dumps(about, default=str),
                "batch/clips": rng.normal(size=(rows, slots, *shape)).astype(np.float16),  # as spectrograms are stored
                "batch/segment": segment,
                "batch/label": np.where(in_use, rng.integers(genres, size=(rows, slots)), 0).astype(np.int32),
                "batch/weight": in_use.astype(np.float32),
            },
        )

    def load(self, problem):
        self.problem, options = problem, problem.options
        self.config = read_config(options["config"])
        self.config.model.dtype = options["dtype"]
        rows, slots = problem.segment.shape
        # A device per core, as the peers have a thread per core; of GPUs one, as the peers.
        devices = math.gcd(rows * slots, jax.device_count()) if jax.default_backend() == "cpu" else 1
        self.mesh = data_mesh(jax.devices()[:devices])
        statistics = Standardization(*(np.full(options["clip_shape"][-1], value, np.float32) for value in (0, 1)))
        self.inputs = Inputs(self.config, tuple(options["clip_shape"]), None, statistics)
        index = np.arange(rows * slots, dtype=np.int32)
        stored = problem.clips.reshape(-1, *options["clip_shape"]).astype(np.float16)
        self.clips = DeviceClips(stored, self.mesh)(index)
        missing = ((0, 0), (0, slots - problem.label.shape[1]))
        label = np.pad(problem.label, missing)
        real, at, weight = index >= 0, index.reshape(rows, slots), np.pad(problem.bag_weight, missing)
        self.batch = replicate(Batch(index, real, at, problem.segment, label, label, weight), self.mesh)
        self.key = jax.random.key(0)
        self.step, self.state = self.make_step(self.config.model)
        graph, places = self.graph, bag_places(problem.label.shape[1], slots)

        def scores(params, batch_stats, batch, clips):
            model = nnx.merge(graph, params, batch_stats)
            with dealt_over(self.mesh):
                real = deal(batch.real, self.mesh.size)
                return model(self.inputs.evaluation(clips.take()), real, batch.at, batch.segment, bags=places)[0]

        self.scores = jax.jit(scores)
        self.weights = (self.state.params, self.state.batch_stats)
        self.weights = jax.tree.map(np.asarray, self.weights)
        self.evaluated = replicate(self.weights, self.mesh)

    def make_step(self, model_options):
        options = self.problem.options
        model = build_model(model_options, options["clip_shape"], options["genres"], seed=0)
        self.set_weights(model)
        self.graph, params, batch_stats = split_model(model)
        loss = make_loss(
            self.graph,
            self.inputs,
            self.config.loss,
            self.problem.num_bags,
            np.ones(options["genres"], np.float32),
            np.zeros(options["genres"], np.float32),
        )
        optimizer = make_optimizer(self.config.optimizer, epochs=1000, steps_per_epoch=1000)
        state = replicate(optimizer.initial_state(params, batch_stats), self.mesh)
        return make_train_step(loss, optimizer, self.mesh), state

    def set_weights(self, model):
        def value(key):
            tree = self.problem.weights
            for name in key:
                tree = tree[str(name)]
            return tree

        flat = nnx.to_flat_state(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
        leaves = [(key, leaf.replace(jax.numpy.asarray(value(key)))) for key, leaf in flat]
        nnx.update(model, nnx.from_flat_state(leaves))

    def forms(self, mode):
        return ["jit"]

    def run(self, mode, form, steps):
        if mode == "eval":
            jax.block_until_ready([self.scores(*self.evaluated, self.batch, self.clips) for _ in range(steps)])
            return
        for _ in range(steps):
            self.state, sums = self.step(self.state, self.batch, self.clips, None, self.key)
        jax.block_until_ready((self.state, sums))

    def check(self):
        scores = self.scores(*self.evaluated, self.batch, self.clips)
        model = ConfigDict(self.config.model.to_dict())
        model.head_dropout = 0.0
        if "dropout" in model.encoder:
            model.encoder.dropout = 0.0
        step, state = self.make_step(model)
        losses = []
        for _ in range(3):
            state, sums = step(state, self.batch, self.clips, None, self.key)
            losses.append(sums["loss"] / sums["weight"])
        return np.asarray(scores)[:, : self.problem.label.shape[1]], losses


if __name__ == "__main__":
    serve(Ours())
