"""The classifier: encoder, pooling and head."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mgc_jax.config.keys import KERNELS
from mgc_jax.config.options import ENCODER, POOLING, Choice, options_of
from mgc_jax.errors import UserError
from mgc_jax.models.encoders import ENCODERS
from mgc_jax.models.layers import Count
from mgc_jax.models.pooling import POOLINGS, Segments, Target
from mgc_jax.models.pooling.segments import genre_scores, membership, of_own_bag, uniform, weighted_sum
from mgc_jax.models.recurrent import use_gru_kernels
from mgc_jax.runtime.platform import in_order, split_rows


class BagClassifier(nnx.Module):
    """encoder(clip) -> embedding; pooling(embeddings of a bag, head) -> genre scores.

    Attributes:
        encoder: one of `ENCODERS`.
        pooling: one of `POOLINGS`.
        clips_too: `config.model.clips_too`.
        multi_label: whether the scores are log odds of each genre.
        head: linear; its kernel is MATT's discriminative matrix M (equations 4 and 5).
    """

    def __init__(
        self,
        encoder: Any,
        pooling: Any,
        num_genres: int,
        head_dropout: float,
        *,
        clips_too: bool = False,
        multi_label: bool = False,
        rngs: nnx.Rngs,
    ):
        self.encoder = encoder
        self.pooling = pooling
        self.clips_too = clips_too
        self.multi_label = multi_label
        self.dropout = nnx.Dropout(head_dropout)
        glorot = nnx.initializers.glorot_uniform()
        self.head = nnx.Linear(pooling.features, num_genres, kernel_init=glorot, rngs=rngs)

    def __call__(
        self,
        clips: Float[Array, "clip *shape"],
        mask: Bool[Array, " clip"],
        at: Int[Array, "row slot"],
        segment: Int[Array, "row slot"],
        target: Target | None = None,
        *,
        bags: int | None = None,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "*opinion row bag genre"], dict[str, jax.Array]]:
        """Embeds clips and scores the bags of each row.

        Args:
            clips: standardized clips; inside `platform.dealt_over` as they are dealt to the devices.
            mask: False for padding; dealt likewise.
            at: which clip is in each slot, as they are before they are dealt; any one where there is none.
            segment: the bag of each clip within its row; the number of slots where there is no clip.
            target: genre and sub-genre of each bag: in training, for the poolings that use them.
            bags: places for bags in a row, if they are fewer than the slots.
            train: batch statistics and dropout.
            rngs: with a stream `dropout`, in training.

        Returns:
            Log scores of each bag, and `aux` with `embedding` [clip, feature] (not dealt) and `attention`. With
            `clips_too` there are two in training, each to be trained: that of the bag and that of its clips.
        """
        embeddings = in_order(self.embed(clips, mask, train=train, rngs=rngs))
        scores, attention = self.score_bags(
            split_rows(embeddings[at]), segment, target, bags=bags, train=train, rngs=rngs
        )
        return scores, {"embedding": embeddings, "attention": attention}

    def embed(
        self,
        clips: Float[Array, "clip *shape"],
        mask: Bool[Array, " clip"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "clip feature"]:
        """Returns the embedding of every clip, in the order given; the arguments are those of a call."""
        return self.encoder(clips, mask, train, rngs)

    def score_bags(
        self,
        embeddings: Float[Array, "row slot feature"],
        segment: Int[Array, "row slot"],
        target: Target | None = None,
        *,
        bags: int | None = None,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "*opinion row bag genre"], jax.Array]:
        """Pools embeddings and classifies the bags; returns their log scores, and the attention weights.

        Pooling and head work in float32, whatever the encoder's type.
        """

        def classify(vectors: Float[Array, "*leading feature"]) -> Float[Array, "*leading genre"]:
            return self.head(self.dropout(vectors, rngs=rngs, deterministic=False) if train else vectors)

        segments = Segments(segment, segment.shape[1] if bags is None else bags)
        embeddings = embeddings.astype(jnp.float32)
        scores, attention = self.pooling(embeddings, segments, target, classify)
        if self.clips_too:
            # The same clips, each in a row of its own
            alone = Segments((segments.of_clip == segment.shape[1]).astype(int).reshape(-1, 1), 1)
            own = None if target is None else Target(*(of_own_bag(part, segments).reshape(-1, 1) for part in target))
            of_clips, _ = self.pooling(embeddings.reshape(-1, 1, embeddings.shape[-1]), alone, own, classify)
            equal = uniform(membership(segments))
            both = jnp.stack([scores, weighted_sum(equal, of_clips.reshape(*segment.shape, -1))])
            scores = both if train else genre_scores(both.mean(0), self.multi_label)
            attention = (attention + (equal if attention.ndim == 3 else equal[:, :, None])) / 2
        return scores, attention


def build_model(
    model: Any,
    clip_shape: Sequence[int],
    num_genres: int,
    *,
    subgenre_parents: tuple[int, ...] | None = None,
    multi_label: bool = False,
    seed: int,
) -> BagClassifier:
    """Builds the model that `config.model` describes.

    Args:
        model: `config.model`.
        clip_shape: (time, mel) or (feature,).
        num_genres: number of labels.
        subgenre_parents: the genre of each sub-genre, for the poolings that use them; the first ones are the genres
            themselves, and by default there are no others.
        multi_label: whether a clip may have several genres: the scores are then the log odds of each.
        seed: seed of the initial weights.

    Raises:
        UserError: an encoder or pooling that does not exist, or an option that it does not have; a pooling that does
            not go with several genres; another value of
            `model.kernels` than those of `config.keys.KERNELS` (where it is absent, it is "auto").
    """
    kernels = getattr(model, "kernels", "auto")
    if kernels not in KERNELS:
        raise UserError(f"config.model.kernels={kernels!r}: choose one of {', '.join(KERNELS)}")
    encoder, encoder_options = _choose(ENCODER, model.encoder, ENCODERS)
    pooling, pooling_options = _choose(POOLING, model.pooling, POOLINGS)
    if multi_label:
        _check_multi_label(model.pooling.name, pooling)
        pooling_options["multi_label"] = True
    if "subgenre_parents" in options_of(pooling, frozenset()):
        pooling_options["subgenre_parents"] = subgenre_parents or tuple(range(num_genres))
    rngs = nnx.Rngs(seed)
    built = encoder(clip_shape, **encoder_options, rngs=rngs)
    pooled = pooling(built.features, num_genres, **pooling_options, rngs=rngs)
    classifier = BagClassifier(
        built,
        pooled,
        num_genres,
        model.head_dropout,
        clips_too=getattr(model, "clips_too", False),
        multi_label=multi_label,
        rngs=rngs,
    )
    set_platform_kernels(classifier, kernels != "plain")
    if kernels == "gru_kernel":
        use_gru_kernels(classifier, model.dtype)
    return classifier


def set_platform_kernels(model: nnx.Module, use: bool) -> None:
    """Lets all layers of a model use the kernels made for the platform, or XLA's own operations alone.

    It sets the attribute `platform_kernels` of the layers that have one. It alters nothing but roundings and speed.
    """
    model.set_attributes(platform_kernels=use, raise_if_not_found=False)


def check_names(model: Any, *, multi_label: bool = False) -> None:
    """Raises `UserError` for an encoder or pooling that does not exist, or an option that it does not have.

    Also for a pooling that does not go with several genres per clip, if these are asked for.
    """
    _choose(ENCODER, model.encoder, ENCODERS)
    pooling, _ = _choose(POOLING, model.pooling, POOLINGS)
    if multi_label:
        _check_multi_label(model.pooling.name, pooling)


def _check_multi_label(name: str, pooling: Callable[..., Any]) -> None:
    if "multi_label" not in options_of(pooling, frozenset()):
        able = ", ".join(other for other, cls in POOLINGS.items() if "multi_label" in options_of(cls, frozenset()))
        raise UserError(
            f"config.model.pooling.name={name} scores one genre among all and does not go with "
            f"config.task=multi_label: choose one of {able}."
        )


def _choose(
    choice: Choice, given: Any, registry: Mapping[str, Callable[..., Any]]
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Returns the encoder or pooling that a part of the configuration names, and its options there."""
    options = dict(given)
    name = options.pop("name", None)
    if name not in registry:
        raise UserError(f"config.{choice.key}={name!r}: choose one of {', '.join(registry)}")
    known = options_of(registry[name], choice.supplied)
    unknown = sorted(set(options) - set(known))
    if unknown:
        kind = choice.options.rpartition(".")[2]
        raise UserError(
            f"the {kind} {name} has no option {', '.join(unknown)}; it has {', '.join(known) if known else 'none'}. "
            f"config.{choice.options} holds those of another {kind}: give all of it, or replace it by the flag "
            f"--config.{choice.key}={name}."
        )
    return registry[name], options


def describe_model(model: Any) -> str:
    """Names the system that `config.model` describes as the papers do: encoder + pooling.

    Options of the pooling that differ from their defaults follow in brackets.
    """
    encoder = model.encoder.name.upper().replace("_", "-")
    pooling, options = _choose(POOLING, model.pooling, POOLINGS)
    name = model.pooling.name.replace("_", " ")
    if name == "none":
        return encoder
    defaults = options_of(pooling, POOLING.supplied)
    changed = [key for key, default in defaults.items() if options.get(key, default) != default]
    form = ", ".join([f"{key}={options[key]}" for key in changed] + ["clips too"] * getattr(model, "clips_too", False))
    title = name.replace("matt", "MATT") if "matt" in name else f"MIL ({name})"
    return f"{encoder} + {title}" + (f" ({form})" if form else "")


def count_parameters(model: nnx.Module) -> int:
    """Number of weights and batch-norm moments, as Keras and the papers count."""
    counted = nnx.All(nnx.Any(nnx.Param, nnx.BatchStat), nnx.Not(Count))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, counted)))


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, Any, Any]:
    """Returns the model's structure, its weights and its batch statistics, the latter two as nested dicts."""
    graph, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)  # type: ignore[misc]
    return graph, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
