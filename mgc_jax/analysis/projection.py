"""Two dimensions of embeddings: by PCA, or by UMAP where `umap-learn` is installed."""

import importlib.util
import logging
from typing import NamedTuple

import numpy as np

from mgc_jax.errors import UserError

log = logging.getLogger(__name__)

_FEWEST_FOR_UMAP = 20  # its default neighbourhood is 15 points


class Projection(NamedTuple):
    """Places of clips on a map.

    Attributes:
        places: float32 [clip, 2].
        caption: how they came about, in a sentence.
    """

    places: np.ndarray
    caption: str


def choose(method: str) -> str:
    """Returns pca or umap, whichever `auto` means here; raises `UserError` for UMAP where it is not installed."""
    there = importlib.util.find_spec("umap") is not None
    if method == "umap" and not there:
        raise UserError("--map umap needs umap-learn: pip install 'mgc-jax[analysis]', or give --map pca")
    return ("umap" if there else "pca") if method == "auto" else method


def project(embeddings: np.ndarray, method: str) -> Projection:
    """Projects embeddings, float [clip, feature], to two dimensions, always in the same way.

    Args:
        embeddings: at least one.
        method: pca or umap.
    """
    if method == "umap" and len(embeddings) >= _FEWEST_FOR_UMAP:
        import umap

        log.info("UMAP of %s embeddings ...", f"{len(embeddings):,}")
        places = umap.UMAP(metric="cosine", random_state=0, n_jobs=1).fit_transform(embeddings)
        return Projection(
            places.astype(np.float32),
            "UMAP of the embeddings (cosine distance, 15 neighbours): neighbourhoods mean something, distances "
            "between groups and their sizes do not.",
        )
    places, shares = principal_components(embeddings)
    return Projection(
        places,
        f"The first two principal components of the embeddings; they hold {100 * shares[0]:.0f} % and "
        f"{100 * shares[1]:.0f} % of the variance.",
    )


def principal_components(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first two principal components, float32 [clip, 2], and their shares of the variance.

    They are zeros where clips or features are fewer.
    """
    from sklearn.decomposition import PCA

    places, shares = np.zeros((len(embeddings), 2), np.float32), np.zeros(2)
    components = min(2, *embeddings.shape)
    if len(embeddings) > 1 and np.any(embeddings != embeddings[0]):
        pca = PCA(components, random_state=0)
        places[:, :components] = pca.fit_transform(embeddings)
        shares[:components] = pca.explained_variance_ratio_
    return places, shares
