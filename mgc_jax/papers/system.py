"""The systems of both papers: their configuration files and their published parameter counts."""

from collections.abc import Callable
from dataclasses import dataclass

from flax import nnx
from ml_collections import ConfigDict

from mgc_jax.models.classifier import build_model, count_parameters
from mgc_jax.papers import fma, matt, ubc


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
        published: parameters in the paper, batch-norm moments included; None where they are not determined.
        printed: whether the paper prints the number; if not, it follows from the layers that it describes.
    """

    name: str
    paper: str
    file: str
    config: Callable[[], ConfigDict]
    clip_shape: tuple[int, ...]
    num_genres: int
    published: int | None = None
    printed: bool = False

    def parameters(self) -> int | None:
        """Parameters of the model as built here; None for a baseline of scikit-learn."""
        config = self.config()
        if config.baseline.name:
            return None
        # Shapes alone: FCN-4 has 17 million weights.
        return count_parameters(
            nnx.eval_shape(lambda: build_model(config.model, self.clip_shape, self.num_genres, seed=0))
        )


_PRINTED = (232_744, 393_680, 1_004_112)  # the PRCNN report's figure 4; the notebooks of FishInMedi/CRNN-TF


def _ubc(name: str, file: str, published: int | None, encoder: str, **options: object) -> System:
    def config() -> ConfigDict:
        return ubc.ubc(encoder, **options)

    return System(name, "UBC", file, config, (640, 128), 8, published, published in _PRINTED)


def _matt(name: str, file: str, published: int | None, encoder: str, pooling: str) -> System:
    def config() -> ConfigDict:
        return matt.matt(encoder, pooling)

    return System(name, "MATT", file, config, (1360, 96), 16, published, published in _PRINTED)


def _features(name: str, file: str, pooling: str, hidden: tuple[int, ...]) -> System:
    return System(name, "MATT", file, lambda: matt.features(pooling, "all", hidden), (518,), 16)


def _baseline(name: str, file: str, estimator: str, **options: object) -> System:
    return System(name, "MATT", file, lambda: fma.baseline(estimator, "all", **options), (518,), 16)


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
    _baseline("LR", "lr.py", "lr", C=1.0, max_iter=2000),
    _baseline("KNN", "knn.py", "knn", n_neighbors=200),
    _baseline("SVM", "svm.py", "svm", kernel="rbf", C=1.0, gamma="scale"),
    _baseline("MLP (scikit-learn)", "mlp_sklearn.py", "mlp", hidden_layer_sizes=(100,), max_iter=2000),
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
