"""The systems of both papers: their configuration files and their published parameter counts."""

from collections.abc import Callable
from dataclasses import dataclass

from ml_collections import ConfigDict

from mgc_jax import presets
from mgc_jax.models.classifier import build_model, count_parameters


@dataclass(frozen=True)
class System:
    """A system that a paper compares, or that we add to the comparison.

    Attributes:
        name: what its paper calls it.
        paper: where it is from.
        file: in `configs/`.
        config: what the file returns.
        clip_shape: (time, mel) or (feature,) of the paper's corpus.
        num_genres: of that corpus.
        published: parameters in the paper, batch-norm moments included; None where it gives none.
    """

    name: str
    paper: str
    file: str
    config: Callable[[], ConfigDict]
    clip_shape: tuple[int, ...]
    num_genres: int
    published: int | None = None

    def parameters(self) -> int | None:
        """Parameters of the model as built here; None for a baseline of scikit-learn."""
        config = self.config()
        if config.baseline.name:
            return None
        return count_parameters(build_model(config.model, self.clip_shape, self.num_genres, seed=0))


def _ubc(name: str, file: str, published: int | None, encoder: str, **options: object) -> System:
    return System(name, "UBC", file, lambda: presets.ubc(encoder, **options), (640, 128), 8, published)


def _matt(name: str, file: str, published: int | None, encoder: str, pooling: str) -> System:
    return System(name, "MATT", file, lambda: presets.matt(encoder, pooling), (1360, 96), 16, published)


def _features(name: str, file: str, pooling: str, hidden: tuple[int, ...]) -> System:
    return System(name, "MATT", file, lambda: presets.features(pooling, "all", hidden), (518,), 16)


def _baseline(name: str, file: str, estimator: str, **options: object) -> System:
    return System(name, "MATT", file, lambda: presets.baseline(estimator, "all", **options), (518,), 16)


SYSTEMS: tuple[System, ...] = (
    _ubc("RNN", "ubc_rnn.py", 75_528, "bigru"),
    _ubc("5-layer CNN", "ubc_cnn5.py", 34_600, "cnn"),
    _ubc("3-layer CNN", "ubc_cnn3.py", 646_824, "cnn", filters=(16, 32, 64), pools=((2, 2), (2, 2), (2, 2))),
    _ubc("PRCNN: CNN and RNN", "prcnn.py", 110_120, "prcnn"),
    _ubc("CNN and 2-layer RNN", "prcnn_2rnn.py", 184_616, "prcnn", gru_layers=2),
    _ubc("... and attention, as drawn", "prcnn_attention_literal.py", 232_744, "prcnn_attention_literal"),
    _ubc("RNN with attention over time", "prcnn_attention.py", None, "prcnn_attention"),
    _ubc(
        "PRCNN of Feng et al.", "prcnn_feng.py", None, "prcnn",
        filters=(16, 32, 64, 128, 64), rnn_pool=(1, 2), rnn_embedding=128, gru_units=128,
    ),
    _baseline("LR", "lr.py", "lr"),
    _baseline("KNN", "knn.py", "knn"),
    _baseline("SVM", "svm.py", "svm"),
    _baseline("MLP (scikit-learn)", "mlp_sklearn.py", "mlp"),
    _features("MLP", "mlp.py", "none", (100,)),
    _features("MLP+MIL", "mlp_mil.py", "mean", ()),
    _features("MLP+MATT", "matt_mlp.py", "matt", ()),
    _matt("CRNN", "crnn.py", 393_680, "crnn", "none"),
    _matt("CRNN+MIL", "crnn_mil.py", None, "crnn", "mean"),
    _matt("CRNN+MATT", "matt_crnn.py", None, "crnn", "matt"),
    _matt("CRNN-TF", "crnn_tf.py", 1_004_112, "crnn_tf", "none"),
    _matt("CRNN-TF+MIL", "crnn_tf_mil.py", None, "crnn_tf", "mean"),
    _matt("CRNN-TF+MATT", "matt_crnn_tf.py", None, "crnn_tf", "matt"),
    _matt("CRNN-TF+HMATT", "hmatt_crnn_tf.py", None, "crnn_tf", "hierarchical_matt"),
    _matt("FCN-4", "fcn4.py", 17_302_928, "fcn4", "none"),
)  # fmt: skip


def table() -> str:
    """Returns the list of the systems with their parameter counts, for the terminal."""
    lines = [f"{'system':<29}{'paper':<7}{'input':<13}{'parameters':>11}{'published':>11}  config"]
    lines.append("-" * 100)
    for system in SYSTEMS:
        ours = system.parameters()
        counts = "".join(f"{'' if count is None else f'{count:,}':>11}" for count in (ours, system.published))
        shape = " x ".join(map(str, system.clip_shape))
        lines.append(f"{system.name:<29}{system.paper:<7}{shape:<13}{counts}  configs/{system.file}")
    return "\n".join(lines)
