"""Hierarchical MATT: attention with a query per genre and one per sub-genre."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from mgc_jax.models.pooling.matt import QueryViews, check_matt_options
from mgc_jax.models.pooling.segments import Classify, Segments, Target


class HierarchicalMattPooling(nnx.Module):
    """MATT along the paths (genre, sub-genre) of the genre tree, as HATT does for relations (Han et al. 2018).

    MATT's notebooks plan it and stop before the model. The vector of a path is [view of the genre; view of the
    sub-genre]; a genre is also its own sub-genre, so every genre has a path. `train_query="gold"` trains with the
    bag's own path, and evaluates a genre by the best of its paths: the highest probability that the head gives to
    the genre. "own" does so with logits, followed by the softmax over genres, also in training.

    Attributes:
        genres: the queries of the genres.
        subgenres: those of the sub-genres, with scores' weights of their own.
    """

    def __init__(
        self,
        features: int,
        num_genres: int,
        *,
        subgenre_parents: tuple[int, ...],
        score: str = "dot",
        activation: str = "tanh",
        queries: str = "trained",
        train_query: str = "gold",
        hidden: int = 0,
        rngs: nnx.Rngs,
    ):
        """Builds the pooling.

        Args:
            features: width of an embedding.
            num_genres: number of labels.
            subgenre_parents: the genre of each sub-genre; the first ones are the genres themselves.
            score: as in `MattPooling`, like the other options.
            activation: tanh or none, on both views.
            queries: trained, frozen or frozen_mismatched, on both levels.
            train_query: gold, or own, which does not go with frozen_mismatched.
            hidden: width of the hidden layer of the score; 0: that of an embedding.
            rngs: source of the initial weights.
        """
        check_matt_options("hierarchical_matt", score, activation, queries, train_query, hidden)
        if subgenre_parents[:num_genres] != tuple(range(num_genres)) or max(subgenre_parents) >= num_genres:
            raise ValueError(f"subgenre_parents={subgenre_parents} of {num_genres} genres must begin with the genres")
        self.features = 2 * features
        self.num_views = 2 * len(subgenre_parents)
        self.num_genres, self.parents = num_genres, subgenre_parents
        self.train_query, self.told_genre = train_query, train_query == "gold"

        def views(num_queries: int) -> QueryViews:
            return QueryViews(
                features, num_queries, score=score, activation=activation, queries=queries, hidden=hidden, rngs=rngs
            )

        self.genres = views(num_genres)
        self.subgenres = views(len(subgenre_parents))

    def __call__(
        self,
        embeddings: Float[Array, "row slot feature"],
        segments: Segments,
        target: Target | None,
        classify: Classify,
    ) -> tuple[Float[Array, "row bag genre"], Float[Array, "row bag *genre slot"]]:
        """Returns log scores of the bags, and the clips' weights, the mean of both levels'.

        The weights are those of the gold path, or for each genre those of its best path.
        """
        if target is not None and self.train_query == "gold":
            genre, genre_attention = self.genres.one(embeddings, segments, target.label)
            subgenre, subgenre_attention = self.subgenres.one(embeddings, segments, target.subgenre)
            logits = classify(jnp.concatenate([genre, subgenre], axis=-1))
            return jax.nn.log_softmax(logits), (genre_attention + subgenre_attention) / 2
        genres, genre_attention = self.genres.every(embeddings, segments)
        subgenres, subgenre_attention = self.subgenres.every(embeddings, segments)
        parents = np.array(self.parents)
        logits = classify(jnp.concatenate([genres[:, :, parents], subgenres], axis=-1))
        logs = logits if self.train_query == "own" else jax.nn.log_softmax(logits)
        of_path = logs[:, :, np.arange(len(parents)), parents]
        best = self._best_paths(of_path)
        scores = jnp.take_along_axis(of_path, best, axis=-1)
        best_attention = jnp.take_along_axis(subgenre_attention, best[..., None], axis=2)
        return (
            jax.nn.log_softmax(scores) if self.train_query == "own" else scores,
            (genre_attention + best_attention) / 2,
        )

    def _best_paths(self, of_path: Float[Array, "row bag path"]) -> Int[Array, "row bag genre"]:
        """Returns the path with the highest score of each genre."""
        of_genre = np.array(self.parents) == np.arange(self.num_genres)[:, None]
        return jnp.argmax(jnp.where(of_genre, of_path[:, :, None], -jnp.inf), axis=-1)
