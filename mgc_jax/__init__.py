"""JAX/Flax training code for music genre classification on the Free Music Archive (FMA).

The public names below are imported on first use: `import mgc_jax` loads neither JAX nor NumPy.

    import mgc_jax

    config = mgc_jax.load_config("configs/matt_crnn_tf.py", {"train.epochs": 3})
    results = mgc_jax.train(config, "runs/matt")  # what results.json holds; an interrupted run resumes
    results = mgc_jax.evaluate(config, "runs/matt", test=True)

    model = mgc_jax.load_model("runs/matt")  # the folder of a run, or of an export
    corpus = mgc_jax.open_corpus(config.data)
    scores, aux = model(corpus.clips[:8])

    predictions = mgc_jax.load_predictions("other.csv", corpus)
    mgc_jax.genre_metrics(predictions.label, predictions.clip_scores)

Functions raise `mgc_jax.UserError` where a command would exit. They leave log handlers and JAX's settings alone;
`mgc_jax.runtime.process_setup.prepare_process` sets them as the commands do.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mgc_jax.config.loading import load_config
    from mgc_jax.data.open import open_corpus
    from mgc_jax.data.splits import SPLITS
    from mgc_jax.evaluation.bootstrap import ArtistBootstrap
    from mgc_jax.evaluation.metrics import METRICS, genre_metrics
    from mgc_jax.evaluation.predictions_file import load_predictions
    from mgc_jax.loading import load_model
    from mgc_jax.models.encoders import ENCODERS
    from mgc_jax.models.pooling import POOLINGS
    from mgc_jax.modes import evaluate, train
    from tfds_fma.errors import UserError

_WHERE = {  # public name: the module that defines it
    "load_config": "mgc_jax.config.loading",
    "train": "mgc_jax.modes",
    "evaluate": "mgc_jax.modes",
    "open_corpus": "mgc_jax.data.open",
    "SPLITS": "mgc_jax.data.splits",
    "load_model": "mgc_jax.loading",
    "ENCODERS": "mgc_jax.models.encoders",
    "POOLINGS": "mgc_jax.models.pooling",
    "load_predictions": "mgc_jax.evaluation.predictions_file",
    "genre_metrics": "mgc_jax.evaluation.metrics",
    "METRICS": "mgc_jax.evaluation.metrics",
    "ArtistBootstrap": "mgc_jax.evaluation.bootstrap",
    "UserError": "tfds_fma.errors",
}

__all__ = [
    "ENCODERS",
    "METRICS",
    "POOLINGS",
    "SPLITS",
    "ArtistBootstrap",
    "UserError",
    "__version__",
    "evaluate",
    "genre_metrics",
    "load_config",
    "load_model",
    "load_predictions",
    "open_corpus",
    "train",
]


def __getattr__(name: str) -> Any:
    """Imports a public name on first use (PEP 562)."""
    if name not in _WHERE:
        raise AttributeError(f"module 'mgc_jax' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
