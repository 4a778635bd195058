"""Exported models: what comes back scores as what was trained."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers import make_corpus, small_config
from safetensors.numpy import load_file, save_file

from mgc_jax import modes
from mgc_jax.errors import UserError
from mgc_jax.experiment import Experiment
from mgc_jax.export import export_workdir
from mgc_jax.loading import load_model
from mgc_jax.models.layers import ENDLESS
from mgc_jax.training.checkpoint import open_checkpoints

NAMES = {
    "weights.safetensors", "labels.json", "config.json", "preprocessing.json", "probe.npz", "MODEL_CARD.md",
    "files.json",
}  # fmt: skip


def best(run):
    with open_checkpoints(run.workdir, run.config.train.select) as checkpoints:
        return modes.best_state(run, checkpoints)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Configuration, workdir and export of a short run with everything that an export must hold."""
    folder = tmp_path_factory.mktemp("export")
    corpus = make_corpus()
    changes = {
        "train.epochs": 2,
        "optimizer.ema": 0.5,
        "augment.crop_frames": 32,
        "model.pooling.queries": "frozen",
        "eval.logit_adjustment": 0.5,
    }
    config = small_config(folder, corpus, **changes)
    modes.train(config, folder / "run")
    return corpus, config, folder / "run", export_workdir(config, folder / "run")


def test_the_export_scores_as_the_best_checkpoint(trained):
    corpus, config, workdir, folder = trained
    run = Experiment(config, workdir)
    state = best(run)
    expected = run.predict("validation", *state.evaluated)
    model = load_model(folder)
    assert model.genres == corpus.genres
    clips = corpus.clips[run.bags["validation"].clips]
    segment = expected.bag
    scores, aux = model(clips, segment)
    assert scores.shape == (len(expected.bag_sizes), 3)
    assert aux["embedding"].shape == (len(clips), 8)
    np.testing.assert_allclose(np.asarray(scores)[segment], expected.bag_scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model(clips)[0], expected.clip_scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(aux["attention"].sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("segment", [[7, 7], [-1, 0], [0], [0.5, 1]])
def test_bags_that_are_not_numbered_from_0_are_refused(trained, segment):
    corpus, *_, folder = trained
    with pytest.raises(UserError, match="numbered from 0"):
        load_model(folder)(corpus.clips[:2], np.array(segment))


def test_clips_of_another_shape_are_refused(trained):
    corpus, *_, folder = trained
    for clips in (corpus.clips[:2, :, :5], corpus.clips[:0]):
        with pytest.raises(UserError, match=r"this model takes \[clip, 40, 12\]"):
            load_model(folder)(clips)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_damaged_clips_are_named_and_not_scored(trained, value):
    corpus, *_, folder = trained
    clips = corpus.clips[:4].copy()
    clips[2, 5, 3] = value
    with pytest.raises(UserError, match="clip 2 has values that are not finite"):
        load_model(folder)(clips)


def test_the_files_can_be_read_without_us(trained):
    corpus, _, _, folder = trained
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
    assert json.loads((folder / "labels.json").read_text()) == list(corpus.genres)
    meta = json.loads((folder / "config.json").read_text())
    assert meta["config"]["model"]["encoder"]["name"] == "crnn_tf"
    assert meta["clip_shape"] == [32, 12]
    weights = load_file(folder / "weights.safetensors")
    assert weights["encoder.blocks.0.kernel"].shape == (3, 3, 1, 4)
    assert weights["standardization.mean"].shape == (12,)
    assert {array.dtype for array in weights.values()} == {np.dtype("float32")}


def test_the_averaged_weights_are_exported(trained):
    _, config, workdir, folder = trained
    run = Experiment(config, workdir)
    state = best(run)
    weights = load_file(folder / "weights.safetensors")
    np.testing.assert_array_equal(weights["head.kernel"], state.evaluated[0]["head"]["kernel"])
    assert not np.array_equal(weights["head.kernel"], np.asarray(state.params["head"]["kernel"]))


def test_the_corpus_is_not_needed(trained, tmp_path):
    _, config, workdir, folder = trained
    config = config.copy_and_resolve_references()
    config.data.arrays.clips = str(tmp_path / "gone.npz")
    before = load_file(folder / "weights.safetensors")
    again = load_file(export_workdir(config, workdir) / "weights.safetensors")
    jax.tree.map(np.testing.assert_array_equal, before, again)


def damaged(trained, tmp_path):
    copy = tmp_path / "export"
    shutil.copytree(trained[3], copy)
    return copy


@pytest.mark.parametrize("name", ["weights.safetensors", "labels.json", "config.json"])
def test_a_missing_or_cut_file_is_one_clear_error(trained, tmp_path, name):
    folder = damaged(trained, tmp_path)
    content = (folder / name).read_bytes()
    for broken in (content[: len(content) // 2], b""):
        (folder / name).write_bytes(broken)
        with pytest.raises(UserError, match="does not hold a complete export"):
            load_model(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"(does not hold a complete export|nor an export).*{name}"):
        load_model(folder)


def test_an_export_from_before_there_was_a_choice_of_kernels_scores_the_same(trained, tmp_path):
    corpus, folder = trained[0], damaged(trained, tmp_path)
    expected, _ = load_model(folder)(corpus.clips[:3])
    meta = json.loads((folder / "config.json").read_text())
    del meta["config"]["model"]["kernels"]
    (folder / "config.json").write_text(json.dumps(meta))
    np.testing.assert_array_equal(load_model(folder)(corpus.clips[:3])[0], expected)


def test_an_export_without_counts_has_old_moving_averages(trained, tmp_path):
    corpus, folder = trained[0], damaged(trained, tmp_path)
    expected, _ = load_model(folder)(corpus.clips[:3])
    weights = {k: v for k, v in load_file(folder / "weights.safetensors").items() if not k.endswith(".norm.count")}
    save_file(weights, folder / "weights.safetensors")
    model = load_model(folder)
    np.testing.assert_array_equal(model(corpus.clips[:3])[0], expected)
    assert model.model.encoder.blocks[0].norm.count[...] == ENDLESS


def test_weights_of_another_model_are_refused(trained, tmp_path):
    folder = damaged(trained, tmp_path)
    weights = load_file(folder / "weights.safetensors")
    save_file(weights | {"head.kernel": np.zeros((9, 3), np.float32)}, folder / "weights.safetensors")
    with pytest.raises(UserError, match=r"head\.kernel has shape \(9, 3\) there, \(8, 3\) here"):
        load_model(folder)
    del weights["head.kernel"]
    save_file(weights, folder / "weights.safetensors")
    with pytest.raises(UserError, match=r"belongs to another model.*head\.kernel"):
        load_model(folder)


def test_a_workdir_without_checkpoint_is_refused(trained, tmp_path):
    with pytest.raises(UserError, match="holds no"):
        export_workdir(trained[1], tmp_path / "empty")


def test_a_workdir_stands_for_its_best_checkpoint_or_without_checkpoints_for_its_export(trained, tmp_path):
    corpus, _, workdir, folder = trained
    from_run, exported = load_model(workdir), load_model(str(folder))
    assert from_run.meta.step == exported.meta.step
    scores = from_run(corpus.clips[:3])[0]
    np.testing.assert_array_equal(scores, exported(corpus.clips[:3])[0])
    shutil.copytree(folder, tmp_path / "run" / "export")
    np.testing.assert_array_equal(load_model(tmp_path / "run")(corpus.clips[:3])[0], scores)
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="empty"):
        load_model(tmp_path / "empty")
    with pytest.raises(UserError, match="neither checkpoints of a run nor an export"):
        load_model(tmp_path)
    with pytest.raises(UserError, match="nowhere is no folder"):
        load_model(tmp_path / "nowhere")


def test_an_export_of_another_version_loads(trained, tmp_path):
    folder = damaged(trained, tmp_path)
    meta = json.loads((folder / "config.json").read_text())
    del meta["init_from"], meta["seconds"], meta["best_step"]  # as before these were written
    (folder / "config.json").write_text(json.dumps(meta | {"checksums": {"state": 1}, "new": 1}))
    assert load_model(folder).meta.init_from is None
    del meta["fingerprint"]
    (folder / "config.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=r"does not hold a complete export .*it does not say fingerprint"):
        load_model(folder)


@pytest.mark.slow
def test_loading_needs_no_orbax_and_nothing_of_the_training(trained):
    program = (
        "import sys; sys.modules['orbax'] = sys.modules['orbax.checkpoint'] = None\n"
        "from mgc_jax.loading import load_model; print(load_model(sys.argv[1]).genres)\n"
        "assert not [name for name in sys.modules if name.startswith(('mgc_jax.training', 'tensorstore'))]"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(trained[3])], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert str(trained[0].genres) in done.stdout


@pytest.mark.parametrize("model", [{}, {"encoder": 5}, 5, {"encoder": {"name": "nothing"}}])
def test_a_config_that_describes_no_model_is_one_sentence(trained, tmp_path, model):
    folder = damaged(trained, tmp_path)
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(saved | {"config": saved["config"] | {"model": model}}))
    with pytest.raises(UserError, match=r"does not describe a model|choose one of"):
        load_model(folder)
