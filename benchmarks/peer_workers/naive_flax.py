"""The same models as Flax's documentation would have one write them: its own layers, `nnx.jit`, `nnx.Optimizer`.

Pooling and head are those of mgc_jax, which are written so; so is the optimizer of optax.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ours import read_config
from protocol import Peer, serve

from mgc_jax.models.classifier import BagClassifier
from mgc_jax.models.pooling import POOLINGS, Target
from mgc_jax.runtime.environment import describe_environment
from mgc_jax.training.optimizer import make_optimizer


class KerasGRUCell(nnx.RNNCellBase):
    """A step of Keras's GRU, in either of its forms."""

    def __init__(self, in_features, units, reset_after, dtype, *, rngs):
        self.units, self.reset_after = units, reset_after
        self.from_input = nnx.Linear(in_features, 3 * units, dtype=dtype, rngs=rngs)
        self.from_state = nnx.Linear(units, 3 * units, use_bias=reset_after, dtype=dtype, rngs=rngs)

    def __call__(self, h, x):
        x_z, x_r, x_c = jnp.split(self.from_input(x), 3, -1)
        if self.reset_after:
            h_z, h_r, h_c = jnp.split(self.from_state(h), 3, -1)
            z, r = nnx.sigmoid(x_z + h_z), nnx.sigmoid(x_r + h_r)
            candidate = jnp.tanh(x_c + r * h_c)
        else:
            u_z, u_r, u_c = jnp.split(self.from_state.kernel[...].astype(h.dtype), 3, -1)
            z, r = (jnp.clip(0.2 * v + 0.5, 0, 1) for v in (x_z + h @ u_z, x_r + h @ u_r))
            candidate = jnp.tanh(x_c + (r * h) @ u_c)
        h = z * h + (1 - z) * candidate
        return h, h

    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        return jnp.zeros((*input_shape[:-1], self.units), self.from_input.dtype)

    @property
    def num_feature_axes(self):
        return 1


def gru(in_features, units, reset_after, dtype, rngs, **options):
    return nnx.RNN(KerasGRUCell(in_features, units, reset_after, dtype, rngs=rngs), **options)


class ConvBlock(nnx.Module):
    def __init__(self, n_in, n_out, pool, activation, momentum, dtype, rngs):
        self.conv = nnx.Conv(n_in, n_out, (3, 3), dtype=dtype, rngs=rngs)
        self.norm = nnx.BatchNorm(n_out, momentum=momentum, epsilon=1e-3, dtype=dtype, rngs=rngs)
        self.activation, self.pool = activation, tuple(pool)

    def __call__(self, x, train):
        x = self.activation(self.norm(self.conv(x), use_running_average=not train))
        return nnx.max_pool(x, self.pool, self.pool, "SAME")


class Crnn(nnx.Module):
    def __init__(self, clip_shape, options, dtype, rngs):
        channels, mel, blocks = 1, clip_shape[1], []
        for filters, pool in zip(options["filters"], options["pools"], strict=True):
            blocks.append(ConvBlock(channels, filters, pool, nnx.relu, options["batch_norm_momentum"], dtype, rngs))
            channels, mel = filters, -(-mel // pool[0])
        self.blocks = nnx.List(blocks)
        self.features = options["gru_units"]
        self.first_gru = gru(mel * channels, self.features, False, dtype, rngs)
        self.second_gru = gru(self.features, self.features, False, dtype, rngs)
        self.dropout = nnx.Dropout(options["dropout"])

    def __call__(self, clips, mask, train, rngs):
        x = clips.swapaxes(1, 2)[..., None]
        for block in self.blocks:
            x = block(x, train)
        x = x.swapaxes(1, 2)
        last = self.second_gru(self.first_gru(x.reshape(*x.shape[:2], -1)))[:, -1]
        return self.dropout(last, deterministic=not train, rngs=rngs)


class CrnnTf(nnx.Module):
    def __init__(self, clip_shape, options, dtype, rngs):
        channels, (time, mel), blocks = 1, clip_shape, []
        for filters, pool in zip(options["filters"], options["pools"], strict=True):
            blocks.append(ConvBlock(channels, filters, pool, nnx.elu, options["batch_norm_momentum"], dtype, rngs))
            channels, mel, time = filters, -(-mel // pool[0]), -(-time // pool[1])
        self.blocks = nnx.List(blocks)
        units, self.features = options["gru_units"], options["features"]
        self.along_frequency = nnx.List(gru(time * channels, units, False, dtype, rngs) for _ in range(4))
        self.along_time = nnx.List(gru(mel * channels, units, False, dtype, rngs) for _ in range(4))
        self.dropout = nnx.Dropout(options["dropout"])
        self.dense = nnx.Linear(8 * units, self.features, dtype=dtype, rngs=rngs)

    def __call__(self, clips, mask, train, rngs):
        x = clips.swapaxes(1, 2)[..., None]
        for block in self.blocks:
            x = block(x, train)
        last = []
        for grus, p in ((self.along_frequency, x), (self.along_time, x.swapaxes(1, 2))):
            flat, flipped = (v.reshape(*p.shape[:2], -1) for v in (p, p[:, :, ::-1]))
            sequences = (flat, flipped, flat[:, ::-1], flipped[:, ::-1])
            last += [one(sequence)[:, -1] for one, sequence in zip(grus, sequences, strict=True)]
        last = self.dropout(jnp.concatenate(last, -1), deterministic=not train, rngs=rngs)
        return nnx.elu(self.dense(last))


class Prcnn(nnx.Module):
    def __init__(self, clip_shape, options, dtype, rngs):
        channels, (time, mel) = 1, clip_shape
        self.pools, convs = [tuple(pool) for pool in options["pools"]], []
        for filters, pool in zip(options["filters"], self.pools, strict=True):
            convs.append(nnx.Conv(channels, filters, (3, 1), padding="VALID", dtype=dtype, rngs=rngs))
            channels, time, mel = filters, (time - 2) // pool[0], mel // pool[1]
        self.convs = nnx.List(convs)
        self.rnn_pool, units = tuple(options["rnn_pool"]), options["gru_units"]
        self.directions = nnx.List(gru(clip_shape[1] // self.rnn_pool[1], units, True, dtype, rngs) for _ in range(2))
        self.features = time * mel * channels + 2 * units

    def __call__(self, clips, mask, train, rngs):
        x = clips[..., None]
        frames = nnx.max_pool(x, self.rnn_pool, self.rnn_pool)[..., 0]
        for conv, pool in zip(self.convs, self.pools, strict=True):
            x = nnx.max_pool(nnx.relu(conv(x)), pool, pool)
        forward, backward = self.directions
        states = forward(frames)[:, -1], backward(frames[:, ::-1])[:, -1]
        return jnp.concatenate([x.reshape(len(x), -1), *states], -1)


class Mlp(nnx.Module):
    def __init__(self, clip_shape, options, dtype, rngs):
        widths = [*clip_shape, *options["hidden"]]
        self.layers = nnx.List(nnx.Linear(*pair, dtype=dtype, rngs=rngs) for pair in itertools.pairwise(widths))
        self.dropout, self.features = nnx.Dropout(options["dropout"]), widths[-1]

    def __call__(self, clips, mask, train, rngs):
        x = clips
        for layer in self.layers:
            x = self.dropout(nnx.relu(layer(x)), deterministic=not train, rngs=rngs)
        return x


ENCODERS = {"crnn": Crnn, "crnn_tf": CrnnTf, "prcnn": Prcnn, "mlp": Mlp}


def gru_weights(tree, i):
    weights = {
        "from_input": {"kernel": tree["kernel"][i], "bias": tree["bias"][i]},
        "from_state": {"kernel": tree["recurrent_kernel"][i]},
    }
    if "recurrent_bias" in tree:
        weights["from_state"]["bias"] = tree["recurrent_bias"][i]
    return {"cell": weights}


def encoder_weights(name, tree):
    """Our weights under the names of the modules above."""
    if name == "mlp":
        return {"layers": tree.get("layers", {})}
    if name == "prcnn":
        directions = tree["rnn"]["layers"]["0"]["directions"]
        return {"convs": tree["cnn"]["blocks"], "directions": {str(i): gru_weights(directions, i) for i in range(2)}}
    weights = {
        "blocks": {
            i: {"conv": {"kernel": block["kernel"], "bias": block["bias"]}, "norm": block["norm"]}
            for i, block in tree["blocks"].items()
        }
    }
    if name == "crnn":
        return weights | {gru: gru_weights(tree[gru], 0) for gru in ("first_gru", "second_gru")}
    for axis in ("along_frequency", "along_time"):
        weights[axis] = {str(i): gru_weights(tree[axis], i) for i in range(4)}
    return weights | {"dense": tree["dense"]}


def in_slots(clips, segment):
    """What the classifier takes of clips that fill all slots, row by row."""
    return clips, jnp.ones(len(clips), bool), jnp.arange(len(clips)).reshape(segment.shape), segment


class NaiveFlax(Peer):
    def hello(self):
        return describe_environment() | {"backend": jax.default_backend()}

    def load(self, problem):
        self.problem = problem
        self.config = read_config(problem.options["config"])
        dtype = jnp.dtype(problem.options["dtype"])
        self.clips = jax.device_put(problem.clips.reshape(-1, *problem.options["clip_shape"]).astype(dtype))
        slots = problem.segment.shape[1]
        missing = ((0, 0), (0, slots - problem.label.shape[1]))
        self.batch = jax.device_put(
            (problem.segment, np.pad(problem.label, missing), np.pad(problem.bag_weight, missing))
        )
        self.rngs = nnx.Rngs(dropout=0)
        self.model, self.train_step, self.scores, self.optimizer = self.make(dropout=True)

    def make(self, dropout):
        options, problem = self.problem.options, self.problem
        name = options["encoder"]["name"]
        settings = options["encoder"] | ({} if dropout else {"dropout": 0.0})
        rngs = nnx.Rngs(0)
        encoder = ENCODERS[name](options["clip_shape"], settings, jnp.dtype(options["dtype"]), rngs)
        pooling_options = {k: v for k, v in self.config.model.pooling.items() if k != "name"}
        pooling = POOLINGS[options["pooling"]](encoder.features, options["genres"], **pooling_options, rngs=rngs)
        head_dropout = options["head_dropout"] if dropout else 0.0
        model = BagClassifier(encoder, pooling, options["genres"], head_dropout, rngs=rngs)
        tree = problem.weights | {"encoder": encoder_weights(name, problem.weights.get("encoder", {}))}

        def value(key):
            node = tree
            for part in key:
                node = node[str(part)]
            return jnp.asarray(node)

        flat = nnx.to_flat_state(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
        nnx.update(model, nnx.from_flat_state([(key, leaf.replace(value(key))) for key, leaf in flat]))
        rule = make_optimizer(self.config.optimizer, epochs=1000, steps_per_epoch=1000).rule
        optimizer = nnx.Optimizer(model, rule, wrt=nnx.Param)

        @nnx.jit
        def train_step(model, optimizer, rngs, clips, batch):
            segment, label, weight = batch

            def loss(model, rngs):  # Flax refuses to draw from what is not an argument
                log_scores, _ = model(*in_slots(clips, segment), Target(label, label), train=True, rngs=rngs)
                losses = -jnp.take_along_axis(log_scores, label[..., None], -1)[..., 0]
                return jnp.sum(losses * weight) / problem.num_bags

            value, gradients = nnx.value_and_grad(loss)(model, rngs)
            optimizer.update(model, gradients)
            return value

        @nnx.jit
        def scores(model, clips, batch):
            return model(*in_slots(clips, batch[0]))[0]

        return model, train_step, scores, optimizer

    def forms(self, mode):
        return ["nnx.jit"]

    def run(self, mode, form, steps):
        if mode == "train":
            values = [
                self.train_step(self.model, self.optimizer, self.rngs, self.clips, self.batch) for _ in range(steps)
            ]
            jax.block_until_ready((values, nnx.state(self.model)))
        else:
            jax.block_until_ready([self.scores(self.model, self.clips, self.batch) for _ in range(steps)])

    def check(self):
        model, train_step, scores, optimizer = self.make(dropout=False)
        log_scores = np.asarray(scores(model, self.clips, self.batch))[:, : self.problem.label.shape[1]]
        return log_scores, [train_step(model, optimizer, self.rngs, self.clips, self.batch) for _ in range(3)]


if __name__ == "__main__":
    serve(NaiveFlax())
