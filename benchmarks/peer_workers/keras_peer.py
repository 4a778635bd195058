"""The same models in Keras 3 on TensorFlow, as its users write them."""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from protocol import Peer, serve

_NOTHING = -1e30


def hard_sigmoid(x):
    """Keras 2's; that of Keras 3 has the slope 1/6."""
    return ops.clip(0.2 * x + 0.5, 0, 1)


def old_gru(units, name, **more):
    """Keras 2's default GRU."""
    return layers.GRU(units, reset_after=False, recurrent_activation=hard_sigmoid, name=name, **more)


def conv_blocks(x, options, activation):
    """Convolution, batch norm, activation, pooling on [mel, time, 1]."""
    for i, (filters, pool) in enumerate(zip(options["filters"], options["pools"], strict=True)):
        x = layers.Conv2D(filters, 3, padding="same", name=f"conv{i}")(x)
        x = layers.BatchNormalization(momentum=options["batch_norm_momentum"], name=f"norm{i}")(x)
        x = layers.Activation(activation)(x)
        x = layers.MaxPooling2D(pool, padding="same")(x)
    return x


def crnn(clips, options):
    x = conv_blocks(layers.Reshape((*clips.shape[1:], 1))(clips), turned(options), "relu")
    x = layers.Reshape((x.shape[1], -1))(x)  # [time, (mel, channel)]
    x = old_gru(options["gru_units"], "first_gru", return_sequences=True)(x)
    x = old_gru(options["gru_units"], "second_gru")(x)
    return layers.Dropout(options["dropout"])(x)


def turned(options):
    """CRNN's maps are [time, mel], which spares the turn; its 3 x 3 kernels are turned as the weights are set."""
    return options | {"pools": [(time, mel) for mel, time in options["pools"]]}


def crnn_tf(clips, options):
    x = layers.Permute((2, 1))(clips)
    p = conv_blocks(layers.Reshape((*x.shape[1:], 1))(x), options, "elu")
    frequency, time, channels = p.shape[1:]
    last = []
    for axis, steps, other in (("frequency", frequency, time), ("time", time, frequency)):
        x = p if axis == "frequency" else layers.Permute((2, 1, 3))(p)
        flat = layers.Reshape((steps, other * channels))(x)
        flipped = layers.Reshape((steps, other * channels))(layers.Lambda(lambda v: v[:, :, ::-1])(x))
        for i, (sequence, backwards) in enumerate(((flat, False), (flipped, False), (flat, True), (flipped, True))):
            last.append(old_gru(options["gru_units"], f"along_{axis}{i}", go_backwards=backwards)(sequence))
    x = layers.Dropout(options["dropout"])(layers.Concatenate()(last))
    return layers.Dense(options["features"], activation="elu", name="dense")(x)


def prcnn(clips, options):
    x = layers.Reshape((*clips.shape[1:], 1))(clips)
    frames = layers.MaxPooling2D(options["rnn_pool"])(x)
    for i, (filters, pool) in enumerate(zip(options["filters"], options["pools"], strict=True)):
        x = layers.Conv2D(filters, (3, 1), activation="relu", name=f"conv{i}")(x)
        x = layers.MaxPooling2D(pool)(x)
    frames = layers.Reshape(frames.shape[1:3])(frames)
    states = layers.Bidirectional(layers.GRU(options["gru_units"]), name="gru")(frames)
    return layers.Concatenate()([layers.Flatten()(x), states])


def mlp(clips, options):
    x = clips
    for i, width in enumerate(options["hidden"]):
        x = layers.Dropout(options["dropout"])(layers.Dense(width, activation="relu", name=f"dense{i}")(x))
    return x


ENCODERS = {"crnn": crnn, "crnn_tf": crnn_tf, "prcnn": prcnn, "mlp": mlp}


class Classifier(keras.Model):
    """Encoder, MATT or nothing, head; returns log scores [row, bag, genre]."""

    def __init__(self, problem, dropout):
        super().__init__()
        self.problem, options = problem, problem.options
        settings = options["encoder"] | ({} if dropout else {"dropout": 0.0})
        clips = layers.Input(options["clip_shape"])
        embedding = ENCODERS[settings["name"]](clips, settings)
        self.encoder = keras.Model(clips, embedding)
        self.dropout = layers.Dropout(options["head_dropout"] if dropout else 0.0, dtype="float32")
        self.head = layers.Dense(options["genres"], dtype="float32", name="head")
        self.head.build((None, embedding.shape[-1]))
        self.matt = problem.bags
        if self.matt:
            shape = (options["genres"], embedding.shape[-1])
            self.queries = self.add_weight(shape=shape, name="queries", dtype="float32")

    def call(self, inputs, training=False):
        clips, member, label_of_clip = inputs
        x = ops.cast(self.encoder(clips, training=training), "float32")
        x = ops.reshape(x, (*label_of_clip.shape, x.shape[-1]))
        if self.matt and training:
            scores = ops.sum(ops.take(self.queries, label_of_clip, axis=0) * x, -1)[:, None]
            x = ops.tanh(ops.softmax(ops.where(member, scores, _NOTHING)) @ x)
        elif self.matt:
            scores = ops.swapaxes(ops.matmul(x, ops.transpose(self.queries)), 1, 2)[:, None]
            weights = ops.softmax(ops.where(member[:, :, None], scores, _NOTHING))
            x = ops.tanh(ops.einsum("rbgs,rsf->rbgf", weights, x))
        scores = ops.log_softmax(self.head(self.dropout(x, training=training)))
        return ops.diagonal(scores, axis1=2, axis2=3) if self.matt and not training else scores

    def set_problem_weights(self):
        tree = self.problem.weights
        self.head.set_weights([tree["head"]["kernel"], tree["head"]["bias"]])
        if self.matt:
            self.queries.assign(tree["pooling"]["views"]["queries"])
        for layer in self.encoder.layers:
            if layer.weights:
                layer.set_weights(
                    list(weights_of(layer.name, tree["encoder"], self.problem.options["encoder"]["name"]))
                )


def gru_weights(tree, i):
    bias = tree["bias"][i]
    if "recurrent_bias" in tree:
        bias = np.stack([bias, tree["recurrent_bias"][i]])
    return tree["kernel"][i], tree["recurrent_kernel"][i], bias


def weights_of(name, tree, encoder):
    """Our weights for a Keras layer: kernels and gates have the same layout."""
    kind, number = name.rstrip("0123456789"), name[len(name.rstrip("0123456789")) :]
    match kind:
        case "conv":
            block = (tree["cnn"] if encoder == "prcnn" else tree)["blocks"][number]
            return block["kernel"].swapaxes(0, 1) if encoder == "crnn" else block["kernel"], block["bias"]
        case "norm":
            norm = tree["blocks"][number]["norm"]
            return norm["scale"], norm["bias"], norm["mean"], norm["var"]
        case "along_frequency" | "along_time":
            return gru_weights(tree[kind], int(number))
        case "first_gru" | "second_gru":
            return gru_weights(tree[kind], 0)
        case "gru":
            directions = tree["rnn"]["layers"]["0"]["directions"]
            return gru_weights(directions, 0) + gru_weights(directions, 1)
        case "dense":
            layer = tree["layers"][number] if encoder == "mlp" else tree["dense"]
            return layer["kernel"], layer["bias"]
    raise ValueError(f"no weights for the layer {name}")


def make_optimizer(options):
    rate, more = options["learning_rate"], options["options"]
    match options["name"]:
        case "sgd":
            return keras.optimizers.SGD(rate, weight_decay=options["weight_decay"])  # decoupled: the same here
        case "adam":
            return keras.optimizers.Adam(rate, epsilon=1e-8)
        case "rmsprop":  # Keras 3 has epsilon within the root
            return keras.optimizers.RMSprop(rate, rho=more["decay"], epsilon=more["eps"] ** 2)
    raise ValueError(f"no optimizer {options['name']}")


class KerasPeer(Peer):
    def hello(self):
        gpus = tf.config.list_physical_devices("GPU")
        return {
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "threads": tf.config.threading.get_intra_op_parallelism_threads() or len(os.sched_getaffinity(0)),
            "backend": "gpu" if gpus else "cpu",
        }

    def load(self, problem):
        self.problem = problem
        bfloat16 = problem.options["dtype"] == "bfloat16"
        keras.config.set_dtype_policy("mixed_bfloat16" if bfloat16 else "float32")
        clips = problem.clips.reshape(-1, *problem.options["clip_shape"])
        self.arguments = tuple(map(tf.constant, (clips, problem.member, problem.label_of_clip)))
        self.label, self.bag_weight = tf.constant(problem.label), tf.constant(problem.bag_weight)
        self.models = {}

    def model(self, form):
        if form not in self.models:
            self.models[form] = self.make("jit_compile" in form)
        return self.models[form]

    def make(self, jit_compile, dropout=True):
        model = Classifier(self.problem, dropout)
        model.set_problem_weights()
        optimizer = make_optimizer(self.problem.options["optimizer"])
        optimizer.build(model.trainable_variables)
        cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")

        @tf.function(jit_compile=jit_compile)
        def train_step(inputs, label, weight):
            with tf.GradientTape() as tape:
                scores = model(inputs, training=True)
                loss = cross_entropy(label, scores, sample_weight=weight) / self.problem.num_bags
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            return loss

        @tf.function(jit_compile=jit_compile)
        def scores(inputs):
            return model(inputs, training=False)

        if not self.problem.bags:
            mean = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(optimizer, mean, jit_compile=jit_compile)
        return model, scores, train_step

    def forms(self, mode):
        forms = ["tf.function", "tf.function, jit_compile"]
        return [*forms, "train_on_batch"] if mode == "train" and not self.problem.bags else forms

    def run(self, mode, form, steps):
        model, scores, train_step = self.model(form)
        if form == "train_on_batch":
            for _ in range(steps):
                model.train_on_batch(self.arguments, self.label)
            return
        last = None
        for _ in range(steps):
            if mode == "train":
                last = train_step(self.arguments, self.label, self.bag_weight)
            else:
                last = scores(self.arguments)
        last.numpy()

    def check(self):
        _, scores, train_step = self.make(False, dropout=False)
        log_scores = scores(self.arguments).numpy()
        return log_scores, [train_step(self.arguments, self.label, self.bag_weight).numpy() for _ in range(3)]


if __name__ == "__main__":
    serve(KerasPeer())
