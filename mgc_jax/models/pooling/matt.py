"""MATT: attention over the clips of a bag with one query per genre (Liu & Zhang 2022)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mgc_jax.errors import UserError
from mgc_jax.models.pooling.options import check_choice, check_size
from mgc_jax.models.pooling.segments import (
    Classify,
    Segments,
    Target,
    genre_scores,
    membership,
    of_own_bag,
    softmax_in_bag,
    weighted_sum,
)

SCORES = ("dot", "scaled_dot", "additive", "hidden")
ACTIVATIONS = ("tanh", "none")
QUERIES = ("trained", "frozen", "frozen_mismatched")
TRAIN_QUERIES = ("gold", "own")


class Frozen(nnx.BatchStat):
    """Weights that stay as they were drawn.

    A kind of batch statistic, that is, of model state that no optimizer sees: it is saved and restored with the
    moving averages, so that a checkpoint does not depend on drawing the same numbers again.
    """


def check_matt_options(pooling: str, score: str, activation: str, queries: str, train_query: str, hidden: int) -> None:
    """Raises `UserError` for an option of the MATT family that has no such value, or does not go with another."""
    check_choice(pooling, "score", score, SCORES)
    check_choice(pooling, "activation", activation, ACTIVATIONS)
    check_choice(pooling, "queries", queries, QUERIES)
    check_choice(pooling, "train_query", train_query, TRAIN_QUERIES)
    check_size(pooling, "hidden", hidden, least=0)
    if queries == "frozen_mismatched" and train_query == "own":
        raise UserError(
            f"{pooling}: queries=frozen_mismatched needs train_query=gold, for under train_query=own training and "
            "scoring are one function: choose queries=frozen for random queries that are never trained"
        )


class QueryViews(nnx.Module):
    """Looks at bags with queries: a query scores the clips, and its view of a bag is their weighted sum.

    Attributes:
        queries: [query, feature].
        other_queries: [query, feature], frozen_mismatched: another draw, which `one` uses; absent otherwise.
        kernel: additive: W_s [2 feature]; hidden: W [2 feature, hidden]; absent otherwise.
        bias: additive: b_s, a number, which the softmax cancels; hidden: b [hidden]; absent otherwise.
        output: hidden: v [hidden]; absent otherwise.
    """

    def __init__(
        self,
        features: int,
        num_queries: int,
        *,
        score: str,
        activation: str,
        queries: str,
        hidden: int,
        rngs: nnx.Rngs,
    ):
        self.score, self.activation = score, activation
        glorot = nnx.initializers.glorot_uniform()
        kind = nnx.Param if queries == "trained" else Frozen
        self.queries = kind(glorot(rngs.params(), (num_queries, features)))
        if queries == "frozen_mismatched":
            self.other_queries = Frozen(glorot(rngs.params(), (num_queries, features)))
        if score == "additive":
            self.kernel = nnx.Param(glorot(rngs.params(), (2 * features, 1))[:, 0])
            self.bias = nnx.Param(jnp.zeros(()))
        if score == "hidden":
            width = hidden or features
            self.kernel = nnx.Param(glorot(rngs.params(), (2 * features, width)))
            self.bias = nnx.Param(jnp.zeros(width))
            self.output = nnx.Param(glorot(rngs.params(), (width, 1))[:, 0])

    def scores(
        self, embeddings: Float[Array, "row slot feature"], queries: Float[Array, "query feature"]
    ) -> Float[Array, "row query slot"]:
        """Returns the score of every clip under every one of the queries."""
        features = embeddings.shape[-1]
        if self.score in ("dot", "scaled_dot"):
            scores = jnp.einsum("qf,rsf->rqs", queries, embeddings)
            return scores if self.score == "dot" else scores * features**-0.5
        of_clip, of_query = self.kernel[:features], self.kernel[features:]  # W [s; q] = W_1 s + W_2 q
        if self.score == "additive":
            return jnp.tanh((embeddings @ of_clip)[:, None] + (queries @ of_query)[:, None]) + self.bias[...]
        inner = (embeddings @ of_clip)[:, None] + (queries @ of_query + self.bias[...])[:, None]
        return jnp.sum(jnp.tanh(inner) * self.output[...], axis=-1)

    def one(
        self,
        embeddings: Float[Array, "row slot feature"],
        segments: Segments,
        query: Int[Array, "row bag"],
    ) -> tuple[Float[Array, "row bag feature"], Float[Array, "row bag slot"]]:
        """Returns each bag's view under one query, given per bag, and the clips' weights: the view for training."""
        table = getattr(self, "other_queries", self.queries)
        query_of_clip = of_own_bag(query, segments)
        scores = jnp.take_along_axis(self.scores(embeddings, jnp.asarray(table[...])), query_of_clip[:, None], axis=1)
        attention = softmax_in_bag(scores, membership(segments))
        return self._activate(weighted_sum(attention, embeddings)), attention

    def every(
        self, embeddings: Float[Array, "row slot feature"], segments: Segments
    ) -> tuple[Float[Array, "row bag query feature"], Float[Array, "row bag query slot"]]:
        """Returns each bag's views under all queries, and the clips' weights."""
        scores = self.scores(embeddings, jnp.asarray(self.queries[...]))
        attention = softmax_in_bag(scores[:, None], membership(segments)[:, :, None])
        return self._activate(weighted_sum(attention, embeddings)), attention

    def _activate(self, vectors: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jnp.tanh(vectors) if self.activation == "tanh" else vectors


class MattPooling(nnx.Module):
    """MATT: the clips of a bag are weighted by the softmax of their scores under a genre's query.

    The paper and its published notebooks differ, so the parts can be chosen. The defaults are a repaired form of the
    notebooks': theirs is `queries="frozen_mismatched"`. The paper's is `score="additive", activation="none"`.

    * `queries`: "trained"; "frozen" at their random start; or "frozen_mismatched", with two tables drawn
      independently, one for training under the gold query and one for scoring. So do the notebooks by two slips: the
      optimizer never sees the queries, and a comparison with a string makes training use the table of all genres and
      sub-genres, inference that of the genres.
    * `score` of clip s under query q: "dot" is q . s (the notebooks); "scaled_dot" is q . s / sqrt(features);
      "additive" is tanh(W_s [s; q]) + b_s (the paper's equation 1); "hidden" is v . tanh(W [s; q] + b).
      Under "additive" the query cannot change the rank of the clips of a bag, W_s [s; q] being a number that
      depends on the clip plus one that depends on the query, and no clip weighs more than e^2 times another.
    * `train_query`: "gold" trains with the query of the bag's own genre; otherwise every genre looks at the bag with
      its own query, and its score is the probability that the head gives to it in its own view, the diagonal
      (Lin et al. 2016). These scores do not sum to one. "own" takes each genre's logit from its own view and
      the softmax over these: one function for training and evaluation, which never sees the true genre.

    Multi-label, there is no one gold query: whatever `train_query` is, each genre's log odds are the logit from its
    own view, in training and in evaluation.

    Attributes:
        views: the queries.
    """

    def __init__(
        self,
        features: int,
        num_genres: int,
        *,
        score: str = "dot",
        activation: str = "tanh",
        queries: str = "trained",
        train_query: str = "gold",
        hidden: int = 0,
        multi_label: bool = False,
        rngs: nnx.Rngs,
    ):
        """Builds the pooling.

        Args:
            features: width of an embedding.
            num_genres: number of labels.
            score: dot, scaled_dot, additive or hidden.
            activation: tanh or none, on the bag vector.
            queries: trained, frozen or frozen_mismatched.
            train_query: gold, or own, which does not go with frozen_mismatched.
            hidden: width of the hidden layer of the score; 0: that of an embedding.
            multi_label: whether the scores are log odds of each genre; it does not go with frozen_mismatched.
            rngs: source of the initial weights.
        """
        check_matt_options("matt", score, activation, queries, train_query, hidden)
        if multi_label and queries == "frozen_mismatched":
            raise UserError(
                "matt: queries=frozen_mismatched is about one gold query in training, and with "
                "config.task=multi_label there is none: choose queries=frozen for queries that are never trained"
            )
        self.features = features
        self.num_views = num_genres
        self.multi_label, self.train_query = multi_label, train_query
        self.told_genre = train_query == "gold" and not multi_label
        self.views = QueryViews(
            features, num_genres, score=score, activation=activation, queries=queries, hidden=hidden, rngs=rngs
        )

    def __call__(
        self,
        embeddings: Float[Array, "row slot feature"],
        segments: Segments,
        target: Target | None,
        classify: Classify,
    ) -> tuple[Float[Array, "row bag genre"], Float[Array, "row bag *genre slot"]]:
        """Returns log scores of the bags, and the clips' weights: for the gold query, or for each genre."""
        if target is not None and self.told_genre:
            vectors, attention = self.views.one(embeddings, segments, target.label)
            return jax.nn.log_softmax(classify(vectors)), attention
        vectors, attention = self.views.every(embeddings, segments)
        logits = classify(vectors)
        if self.multi_label or self.train_query == "own":
            return genre_scores(jnp.diagonal(logits, axis1=2, axis2=3), self.multi_label), attention
        return jnp.diagonal(jax.nn.log_softmax(logits), axis1=2, axis2=3), attention
