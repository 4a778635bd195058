"""What the workers of `benchmarks/peers.py` share: the problem that they solve, and how they are asked.

A worker is a process that reads a request a line from its standard input and answers with a line of JSON. It does
nothing between requests. This file needs NumPy alone: it runs in the peers' own environments.
"""

import functools
import json
import os
import sys
import time
import traceback
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]


class Problem:
    """A model's options, weights and batch, as `ours.py` wrote them.

    Attributes:
        options: model (name), config (encoder, head_dropout, optimizer ...), clip_shape, genres, dtype, device.
        weights: nested dict of float32 arrays, as our model has them.
        clips: float32 [row, slot, ...].
        segment: int32 [row, slot]: the bag of each clip within its row. Every slot has a clip.
        label: int32 [row, bag]: 0 where there is no bag.
        bag_weight: float32 [row, bag]: 1 for a bag, 0 where there is none.
    """

    def __init__(self, path):
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        self.options = json.loads(str(arrays.pop("options")))
        batch = {name: arrays.pop(f"batch/{name}") for name in ("clips", "segment", "label", "weight")}
        bags = int(batch["segment"].max()) + 1
        self.clips = batch["clips"].astype(np.float32)
        self.segment = batch["segment"]
        self.label, self.bag_weight = batch["label"][:, :bags], batch["weight"][:, :bags]
        self.weights = nested(arrays)

    @property
    def bags(self):
        """Whether clips are pooled by MATT's attention; if not, every clip is a bag."""
        return self.options["pooling"] == "matt"

    @property
    def num_bags(self):
        return int(self.bag_weight.sum())

    @functools.cached_property
    def member(self):
        """Whether a clip (last axis) is in a bag (middle axis): bool [row, bag, slot]."""
        return self.segment[:, None, :] == np.arange(self.bag_weight.shape[1])[None, :, None]

    @functools.cached_property
    def label_of_clip(self):
        """The genre of every clip's bag: int32 [row, slot]."""
        return np.take_along_axis(self.label, self.segment, axis=1)


def nested(flat):
    """{"a/b": x} to {"a": {"b": x}}."""
    tree = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        functools.reduce(lambda node, name: node.setdefault(name, {}), parents, tree)[last] = value
    return tree


class Peer:
    """A worker's side of the comparison; a subclass has the framework.

    It offers `forms`: ways to run the same thing, of which the parent takes the fastest, and
    `run(mode, form, steps)`: so many train steps ("train") or forward passes ("eval"), finished when it returns.
    """

    def hello(self):
        """Returns versions, threads and devices."""
        raise NotImplementedError

    def make(self, options, path):
        """Writes a problem; ours alone does."""
        raise NotImplementedError

    def open(self, path):
        """Takes a problem from a file."""
        self.load(Problem(path))

    def load(self, problem):
        """Builds the model of a problem."""
        raise NotImplementedError

    def forms(self, mode):
        """Names the ways to run a mode."""
        raise NotImplementedError

    def run(self, mode, form, steps):
        """Does the steps of a mode in one of its forms."""
        raise NotImplementedError

    def size(self):
        """Returns the clips a step, and the weight of every bag."""
        return {"clips": self.problem.segment.size, "weights": self.problem.bag_weight.ravel().tolist()}

    def check(self):
        """Returns log scores [row, bag, genre] in evaluation, and the losses of three train steps without dropout.

        Both from the problem's weights, which hold again afterwards.
        """
        raise NotImplementedError


def serve(peer):
    """Answers requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print does not disturb
    sys.stdout = sys.stderr

    def answer(request):
        match request["do"]:
            case "hello":
                return peer.hello() | {"python": sys.version.split()[0]}
            case "make":
                peer.make(request["options"], request["path"])
            case "load":
                peer.open(request["path"])
            case "check":
                scores, losses = peer.check()
                reply = {"scores": np.asarray(scores, np.float64).tolist(), "losses": [float(loss) for loss in losses]}
                return reply | peer.size()
            case "forms":
                return {"forms": peer.forms(request["mode"])}
            case "run":
                start = time.perf_counter()
                peer.run(request["mode"], request["form"], request["steps"])
                return {"seconds": time.perf_counter() - start}
        return {}

    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()
