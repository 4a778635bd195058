import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make_corpus, score_in_rows, small_config

from mgc_jax.data.bags import bags_of
from mgc_jax.data.inputs import make_inputs
from mgc_jax.data.placement import DeviceClips, HostClips
from mgc_jax.evaluation.evaluator import Evaluator
from mgc_jax.models.classifier import build_model, split_model
from mgc_jax.runtime.devices import data_mesh
from mgc_jax.runtime.terminal import clock
from mgc_jax.scoring import Scorer
from mgc_jax.training.progress import Progress


@pytest.fixture
def parts(tmp_path):
    corpus = make_corpus(num_clips=230)
    config = small_config(tmp_path, corpus)
    model = build_model(config.model, (40, 12), 3, seed=0)
    return corpus, model, make_inputs(config, corpus)


def scores_with(parts, source=DeviceClips, batch_clips=16):
    corpus, model, inputs = parts
    _, params, stats = split_model(model)
    mesh = data_mesh()
    clips, no_adjustment = source(corpus.clips, mesh), np.zeros(3, np.float32)
    evaluator = Evaluator(Scorer(model, inputs, mesh, batch_clips, no_adjustment), clips, True)
    return evaluator.score_split(params, stats, corpus, "train", bags_of(corpus, "train", "pair"))


def test_every_bag_is_scored_as_if_alone(parts):
    corpus, model, inputs = parts
    scores = scores_with(parts)
    offsets, bags = scores.offsets, bags_of(corpus, "train", "pair")
    assert scores.bag_sizes.max() > 20
    for b in [0, 1, 2, int(scores.bag_sizes.argmax()), len(scores.bag_sizes) - 1]:
        rows = bags.clips[offsets[b] : offsets[b + 1]]
        clips = inputs.evaluation(jnp.asarray(corpus.clips[rows]))
        together, aux = score_in_rows(model, clips[None], jnp.zeros((1, len(rows)), int))
        alone, _ = score_in_rows(model, clips[:, None], jnp.zeros((len(rows), 1), int))
        np.testing.assert_allclose(
            scores.bag_scores[offsets[b] : offsets[b + 1]], np.broadcast_to(together[0, 0], (len(rows), 3)), atol=1e-5
        )
        np.testing.assert_allclose(scores.clip_scores[offsets[b] : offsets[b + 1]], alone[:, 0], atol=1e-5)
        attention = aux["attention"][
            0, 0, int(together[0, 0].argmax())
        ]  # MATT: under the query of the predicted genre
        np.testing.assert_allclose(scores.attention[offsets[b] : offsets[b + 1]], attention, atol=1e-5)


def test_every_clip_counts_once_whatever_the_batch_size(parts):
    corpus = parts[0]
    reference = scores_with(parts)
    np.testing.assert_array_equal(np.sort(reference.track_id), np.sort(corpus.track_id[corpus.indices("train")]))
    for source, batch_clips in ((HostClips, 16), (DeviceClips, 7), (DeviceClips, 1000)):
        other = scores_with(parts, source, batch_clips)
        np.testing.assert_allclose(other.bag_scores, reference.bag_scores, atol=1e-5)
        np.testing.assert_allclose(other.clip_scores, reference.clip_scores, atol=1e-5)


def test_progress_adds_up_parts_over_runs(capsys):
    progress = Progress(10, 0, {"data": 2.0})
    with progress.timed("data"):
        pass
    with progress.timed("train"):
        pass
    assert progress.seconds["data"] > 2.0
    assert 0 <= progress.seconds["train"] < 1
    assert [clock(s) for s in (7, 200, 7500)] == ["7s", "3m20s", "2h05m"]
