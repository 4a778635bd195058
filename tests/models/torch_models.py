"""The encoders again in PyTorch, written from the papers and the published repositories with PyTorch's own layers.

Each takes clips [n, time, mel] (or [n, feature]) and the options of our encoder of that name that change a shape, and
returns embeddings. Maps are [n, channel, mel, time] in CRNN, CRNN-TF and FCN-4, [n, channel, time, mel] in PRCNN; they
are flattened channels last, as Keras flattens. Dropout is off unless asked for: its random draws cannot be compared.

`model.layout(tree)` gives the values of our encoder's tree under the names and in the layout of the model's
`state_dict`: weights, moving averages and gradients alike.
"""

import itertools
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class BatchNorm(nn.BatchNorm2d):
    """Batch norm with Keras's defaults, whose moving averages have the bias of their start divided out as Adam's.

    PyTorch's momentum is one minus Keras's, 0.99, once the start is long ago. Keras moves its variance towards the
    biased variance of the batch, PyTorch towards the unbiased one, which is count / (count - 1) times as large. Here
    the step that PyTorch made is scaled back.
    """

    def __init__(self, channels):
        super().__init__(channels, eps=1e-3)

    def forward(self, x):
        self.momentum = 0.01 / (1 - 0.99 ** (self.num_batches_tracked.item() + 1))
        kept = (1 - self.momentum) * self.running_var
        y = super().forward(x)
        if self.training:
            count = x.numel() // x.shape[1]
            self.running_var = kept + (self.running_var - kept) * (count - 1) / count
        return y


class SamePool(nn.Module):
    """Max pooling with TensorFlow's "SAME" padding: sizes round up, the larger half of the padding at the end."""

    def __init__(self, window):
        super().__init__()
        self.window = window

    def forward(self, x):
        (rows, columns) = (-size % pool for size, pool in zip(x.shape[2:], self.window, strict=True))
        padding = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        if any(padding):  # to pad with nothing would copy
            x = functional.pad(x, padding, value=-math.inf)
        return functional.max_pool2d(x, self.window)


class ConvBlock(nn.Module):
    """Convolution, batch norm, activation, pooling."""

    def __init__(self, in_channels, out_channels, activation, pool):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = BatchNorm(out_channels)
        self.activation = activation
        self.pool = pool

    def forward(self, x):
        return self.pool(self.activation(self.norm(self.conv(x))))


class KerasGRU(nn.Module):
    """The GRU of Keras 2.2: reset_after=False, one bias, hard-sigmoid gates, in the order update, reset, candidate.

    `nn.GRU` cannot do that: it has the reset gate after the product. Returns the states [n, step, units].
    """

    def __init__(self, in_features, units):
        super().__init__()
        self.units = units
        self.from_input = nn.Linear(in_features, 3 * units)
        self.from_state = nn.Linear(units, 3 * units, bias=False)

    def forward(self, x):
        u_z, u_r, u_h = self.from_state.weight.split(self.units)
        h = x.new_zeros(len(x), self.units)
        states = []
        for x_t in self.from_input(x).unbind(1):
            x_z, x_r, x_h = x_t.split(self.units, -1)
            z = torch.clip(0.2 * (x_z + h @ u_z.T) + 0.5, 0, 1)
            r = torch.clip(0.2 * (x_r + h @ u_r.T) + 0.5, 0, 1)
            h = z * h + (1 - z) * torch.tanh(x_h + (r * h) @ u_h.T)
            states.append(h)
        return torch.stack(states, 1)


def _channels_last(x):
    return x.permute(0, 2, 3, 1)


def _conv_blocks(filters, pools, activation, pool_class):
    channels = itertools.pairwise([1, *filters])
    return nn.Sequential(
        *(ConvBlock(*pair, activation(), pool_class(tuple(pool))) for pair, pool in zip(channels, pools, strict=True))
    )


class Crnn(nn.Module):
    """CRNN of the repository FishInMedi/CRNN-TF."""

    def __init__(
        self,
        clip_shape,
        filters=(64, 128, 128, 128),
        pools=((2, 2), (3, 3), (4, 4), (4, 4)),
        gru_units=32,
        dropout=0.0,
    ):
        super().__init__()
        mel = clip_shape[1]
        for pool_mel, _ in pools:
            mel = math.ceil(mel / pool_mel)
        self.blocks = _conv_blocks(filters, pools, nn.ReLU, SamePool)
        self.first_gru = KerasGRU(mel * filters[-1], gru_units)
        self.second_gru = KerasGRU(gru_units, gru_units)
        self.dropout = nn.Dropout(dropout)
        self.features = gru_units

    def forward(self, clips):
        x = self.blocks(clips.mT[:, None])
        steps = x.permute(0, 3, 2, 1).flatten(2)  # [n, time, (mel, channel)]
        return self.dropout(self.second_gru(self.first_gru(steps))[:, -1])

    def layout(self, tree):
        return (
            _each("blocks", tree["blocks"], _conv_block_layout)
            | _prefix("first_gru", _keras_gru_layout(tree["first_gru"], 0))
            | _prefix("second_gru", _keras_gru_layout(tree["second_gru"], 0))
        )


class CrnnPooled(nn.Module):
    """Blocks on averages of the spectrogram, a dense layer, a bidirectional GRU, mean and maximum over time."""

    def __init__(self, clip_shape, averaged, filters, pools, features, gru_units, dropout=0.0):
        super().__init__()
        mel = clip_shape[1] // averaged[0]
        for pool_mel, _ in pools:
            mel //= pool_mel
        self.averaged = nn.AvgPool2d(averaged)
        self.blocks = _conv_blocks(filters, pools, nn.ReLU, nn.MaxPool2d)
        self.dense = nn.Linear(mel * filters[-1], features)
        self.gru = nn.GRU(features, gru_units, batch_first=True, bidirectional=True)
        self.features = 4 * gru_units

    def forward(self, clips):
        x = self.blocks(self.averaged(clips.mT[:, None]))
        states, _ = self.gru(self.dense(x.permute(0, 3, 2, 1).flatten(2)))
        return torch.cat([states.mean(1), states.amax(1)], -1)

    def layout(self, tree):
        layout = _each("blocks", tree["blocks"], _conv_block_layout) | _prefix("dense", _dense_layout(tree["dense"]))
        return layout | _bidirectional_layout(tree["gru"], 0)


# The eight GRUs of CRNN-TF on the map P[f, t, c]: the axis of the steps, whether it is read from its end, and whether
# the other axis is turned before it is flattened.
SCANS = (
    ("f", False, False),
    ("t", False, False),
    ("f", False, True),
    ("t", True, False),
    ("f", True, False),
    ("t", False, True),
    ("f", True, True),
    ("t", True, True),
)
# Which GRU of our encoder is which: each axis has its four in another order.
OUR_SCANS = {"along_frequency": (1, 3, 5, 7), "along_time": (2, 6, 4, 8)}


class CrnnTf(nn.Module):
    """CRNN-TF of the repository FishInMedi/CRNN-TF, with its eight GRUs one by one."""

    def __init__(
        self, clip_shape, filters=(64, 128, 128, 128), pools=((2, 4),) * 4, gru_units=32, features=64, dropout=0.0
    ):
        super().__init__()
        time, mel = clip_shape
        for pool_mel, pool_time in pools:
            mel, time = math.ceil(mel / pool_mel), math.ceil(time / pool_time)
        self.blocks = _conv_blocks(filters, pools, nn.ELU, SamePool)
        other = {"f": time, "t": mel}
        self.grus = nn.ModuleList(KerasGRU(other[axis] * filters[-1], gru_units) for axis, _, _ in SCANS)
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(8 * gru_units, features)
        self.features = features

    def forward(self, clips):
        p = self.blocks(clips.mT[:, None]).permute(0, 2, 3, 1)  # [n, f, t, c]
        last = []
        for gru, (axis, from_end, turned) in zip(self.grus, SCANS, strict=True):
            x = p if axis == "f" else p.permute(0, 2, 1, 3)
            x = x.flip(1) if from_end else x
            x = x.flip(2) if turned else x
            last.append(gru(x.flatten(2))[:, -1])
        return functional.elu(self.dense(self.dropout(torch.cat(last, -1))))

    def layout(self, tree):
        layout = _each("blocks", tree["blocks"], _conv_block_layout)
        rows = dict(enumerate(np.split(tree["dense"]["kernel"], 8)))
        order = [number for numbers in OUR_SCANS.values() for number in numbers]
        for axis, numbers in OUR_SCANS.items():
            for i, number in enumerate(numbers):
                layout |= _prefix(f"grus.{number - 1}", _keras_gru_layout(tree[axis], i))
        kernel = np.concatenate([rows[order.index(number)] for number in range(1, 9)])
        return layout | _prefix("dense", _dense_layout({"kernel": kernel, "bias": tree["dense"]["bias"]}))


class Fcn4(nn.Module):
    """FCN-4 (Choi et al. 2016) with the pools of the repository FishInMedi/CRNN-TF."""

    def __init__(self, clip_shape, filters=(128, 384, 768, 2048), pools=((2, 4), (4, 5), (3, 8), (4, 8))):
        super().__init__()
        time, mel = clip_shape
        for pool_mel, pool_time in pools:
            mel, time = mel // pool_mel, time // pool_time
        self.blocks = _conv_blocks(filters, pools, nn.ReLU, nn.MaxPool2d)
        self.features = mel * time * filters[-1]

    def forward(self, clips):
        return _channels_last(self.blocks(clips.mT[:, None])).flatten(1)

    def layout(self, tree):
        return _each("blocks", tree["blocks"], _conv_block_layout)


class Mlp(nn.Module):
    """Dense layers with ReLU."""

    def __init__(self, clip_shape, hidden=(100,), dropout=0.0):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(itertools.starmap(nn.Linear, itertools.pairwise([*clip_shape, *hidden])))
        self.features = [*clip_shape, *hidden][-1]

    def forward(self, clips):
        x = clips
        for layer in self.layers:
            x = self.dropout(functional.relu(layer(x)))
        return x

    def layout(self, tree):
        return _each("layers", tree.get("layers", {}), _dense_layout)


class Cnn(nn.Module):
    """The convolutional half of PRCNN: kernels 3 x 1 without padding, pools that round down."""

    def __init__(
        self,
        clip_shape,
        filters=(16, 32, 64, 64, 64),
        pools=((2, 2), (2, 2), (2, 2), (4, 4), (4, 4)),
        kernel=(3, 1),
        activation="relu",
    ):
        super().__init__()
        time, mel = clip_shape
        activation = {"relu": nn.ReLU, "elu": nn.ELU, "tanh": nn.Tanh}[activation]
        self.blocks = nn.Sequential()
        for (n_in, n_out), pool in zip(itertools.pairwise([1, *filters]), pools, strict=True):
            self.blocks.append(nn.Sequential(nn.Conv2d(n_in, n_out, kernel), activation(), nn.MaxPool2d(pool)))
            time, mel = (time - kernel[0] + 1) // pool[0], (mel - kernel[1] + 1) // pool[1]
        self.features = time * mel * filters[-1]

    def forward(self, clips):
        return _channels_last(self.blocks(clips[:, None])).flatten(1)

    def layout(self, tree):
        return _each("blocks", tree["blocks"], lambda block: _prefix("0", _conv_layout(block)))


class BiGru(nn.Module):
    """The recurrent half of PRCNN; `nn.GRU` has the equations of Keras with reset_after=True."""

    def __init__(self, clip_shape, rnn_pool=(2, 1), rnn_embedding=0, gru_units=64, gru_layers=1):
        super().__init__()
        width = clip_shape[1] // rnn_pool[1]
        self.pool = nn.MaxPool2d(rnn_pool)
        self.embedding = nn.Linear(width, rnn_embedding) if rnn_embedding else nn.Identity()
        self.gru = nn.GRU(rnn_embedding or width, gru_units, gru_layers, batch_first=True, bidirectional=True)
        self.features = 2 * gru_units

    def frames(self, clips):
        return self.pool(clips[:, None])[:, 0]

    def forward(self, clips):
        _, last = self.gru(self.embedding(self.frames(clips)))
        return torch.cat([last[-2], last[-1]], -1)  # forward, backward of the last layer

    def layout(self, tree):
        layout = {}
        if tree.get("embedding"):
            layout |= _prefix("embedding", _dense_layout(tree["embedding"]))
        for number, layer in tree["layers"].items():
            layout |= _bidirectional_layout(layer, number)
        return layout


class Prcnn(nn.Module):
    """PRCNN: both halves side by side."""

    def __init__(self, clip_shape, filters=None, pools=None, **rnn_options):
        super().__init__()
        self.cnn = Cnn(clip_shape, **({"filters": filters, "pools": pools} if filters else {}))
        self.rnn = BiGru(clip_shape, **rnn_options)
        self.features = self.cnn.features + self.rnn.features

    def forward(self, clips):
        return torch.cat([self.cnn(clips), self.rnn(clips)], -1)

    def layout(self, tree):
        return _prefix("cnn", self.cnn.layout(tree["cnn"])) | _prefix("rnn", self.rnn.layout(tree["rnn"]))


class PrcnnAttentionLiteral(Prcnn):
    """PRCNN with attention, operation by operation as its figure: Softmax, RepeatVector, Permute, Multiply, Sum."""

    def __init__(self, clip_shape, gru_units=128, **options):
        super().__init__(clip_shape, gru_units=gru_units, **options)
        self.features = self.rnn.features

    def forward(self, clips):
        h = self.rnn(clips)
        repeated = self.cnn(clips).softmax(-1)[:, None].expand(-1, h.shape[-1], -1)  # [n, state, cnn feature]
        return (repeated.permute(0, 2, 1) * h[:, None]).sum(-2)


class PrcnnAttention(nn.Module):
    """Attention over time (Yu et al. 2020), scored from the spectrogram (parallel) or the GRU's states (serial)."""

    def __init__(
        self,
        clip_shape,
        attention="parallel_cnn",
        filters=(16, 32, 64),
        frequency_pools=(4, 4, 4),
        gru_units=128,
        **rnn_options,
    ):
        super().__init__()
        self.rnn = BiGru(clip_shape, gru_units=gru_units, **rnn_options)
        self.features = self.rnn.features
        self.parallel, self.with_cnn = attention.startswith("parallel"), attention.endswith("cnn")
        width, channels = (clip_shape[1], 1) if self.parallel else (1, self.features)
        self.blocks = nn.Sequential()
        if self.with_cnn:
            for (n_in, n_out), pool in zip(itertools.pairwise([channels, *filters]), frequency_pools, strict=True):
                pool = pool if self.parallel else 1
                conv = nn.Conv2d(n_in, n_out, (3, 1), padding=(1, 0))
                self.blocks.append(nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d((1, pool))))
                width, channels = width // pool, n_out
        self.last = nn.Linear(width * channels, 1)

    def forward(self, clips):
        frames = self.rnn.frames(clips)
        states, _ = self.rnn.gru(frames)
        x = frames[:, None] if self.parallel else states.mT[..., None]  # [n, channel, step, feature]
        scores = self.last(_channels_last(self.blocks(x)).flatten(2))
        return (scores.softmax(1) * states).sum(1)

    def layout(self, tree):
        layout = _prefix("rnn", self.rnn.layout(tree["rnn"]))
        scores = tree["scores"]
        if self.with_cnn:
            layout |= _each("blocks", scores["blocks"], lambda block: _prefix("0", _conv_layout(block)))
            scores = scores["last"]
        return layout | _prefix("last", _dense_layout(scores["dense"]))


MODELS = {
    "crnn": Crnn,
    "crnn_pooled": CrnnPooled,
    "crnn_tf": CrnnTf,
    "fcn4": Fcn4,
    "mlp": Mlp,
    "cnn": Cnn,
    "bigru": BiGru,
    "prcnn": Prcnn,
    "prcnn_attention": PrcnnAttention,
    "prcnn_attention_literal": PrcnnAttentionLiteral,
}


def _prefix(prefix, layout):
    return {f"{prefix}.{name}": value for name, value in layout.items()}


def _each(prefix, trees, function):
    layout = {}
    for i, tree in trees.items():
        layout |= _prefix(f"{prefix}.{i}", function(tree))
    return layout


def _dense_layout(tree):
    return {"weight": tree["kernel"].T, "bias": tree["bias"]}


def _conv_layout(tree):
    return {"weight": tree["kernel"].transpose(3, 2, 0, 1), "bias": tree["bias"]}


def _conv_block_layout(tree):
    names = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    names["count"] = "num_batches_tracked"
    norm = {names[name]: value for name, value in tree["norm"].items()}  # gradients have no moving averages
    return _prefix("conv", _conv_layout(tree)) | _prefix("norm", norm)


def _keras_gru_layout(tree, i):
    return {
        "from_input.weight": tree["kernel"][i].T,
        "from_input.bias": tree["bias"][i],
        "from_state.weight": tree["recurrent_kernel"][i].T,
    }


def _bidirectional_layout(tree, number):
    """Layer `number` of an `nn.GRU` named gru."""
    return {
        f"gru.{name}_l{number}{suffix}": value
        for i, suffix in enumerate(("", "_reverse"))
        for name, value in gru_layout(tree["directions"], i).items()
    }


def gru_layout(tree, i):
    """GRU i of a `ParallelGRU` with reset_after=True, for `nn.GRU`: the reset gate comes first there."""

    def gates(weights):
        update, reset, candidate = np.split(weights[i], 3, axis=-1)
        return np.concatenate([reset, update, candidate], axis=-1).T

    return {
        "weight_ih": gates(tree["kernel"]),
        "weight_hh": gates(tree["recurrent_kernel"]),
        "bias_ih": gates(tree["bias"]),
        "bias_hh": gates(tree["recurrent_bias"]),
    }
