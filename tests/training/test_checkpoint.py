import contextlib
import dataclasses
import json
import logging
import math
import os
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CHECKPOINT_META as META
from helpers import small_config

from mgc_jax.errors import UserError
from mgc_jax.inference import CheckpointMeta
from mgc_jax.models.layers import ENDLESS
from mgc_jax.modes import train
from mgc_jax.training.checkpoint import DamagedError, open_checkpoints
from mgc_jax.training.state import TrainState

SELECT = "bag/accuracy"


def state(step):
    weights = jax.random.normal(jax.random.key(step), (300, 40))
    return TrainState(jnp.array(step, jnp.int32), {"w": weights, "b": weights[0]}, {}, (weights,))


@pytest.fixture
def workdir(tmp_path):
    """Checkpoints of steps 2, 4 and 6; the best on validation is 2."""
    with open_checkpoints(tmp_path, SELECT, 2) as checkpoints:
        for step, metric in ((2, 0.9), (4, 0.8), (6, 0.7)):
            checkpoints.save(state(step), META, {SELECT: metric})
    return tmp_path


def opened(workdir):
    return open_checkpoints(workdir, SELECT, 2)


def folder(workdir, step):
    return workdir / "checkpoints" / str(step)


def names(workdir):
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


def last_whole(workdir, check=lambda meta: None):
    with opened(workdir) as checkpoints:
        return checkpoints.last_whole(state(0), check)


def assert_is(found, step, best=2):
    expected = state(step)
    assert int(found[0].step) == step
    jax.tree.map(np.testing.assert_array_equal, found[0], expected)
    assert found[1] == dataclasses.replace(META, step=step, best_step=best, checksums=found[1].checksums)


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


def flip(file):
    content = bytearray(file.read_bytes())
    if content:
        content[len(content) // 2] ^= 4
    file.write_bytes(content)


def remove(file):
    file.unlink()


@pytest.mark.parametrize("ema", [False, True])
def test_a_state_without_counts_is_one_whose_averages_are_old(tmp_path, ema):
    """As of a version whose moving averages were not debiased, and not averaged with the weights."""
    params, norm = {"w": jnp.arange(3.0)}, {"mean": jnp.arange(2.0), "var": jnp.ones(2)}
    average = {"average": {"w": jnp.ones(3)}, "count": jnp.array(7)} if ema else None
    saved = TrainState(jnp.array(7, jnp.int32), params, {0: {"norm": norm}}, (), average)
    with open_checkpoints(tmp_path, SELECT) as checkpoints:
        checkpoints.save(saved, META, {SELECT: 0.5})
    counted = {0: {"norm": norm | {"count": jnp.array(3.0)}}}
    like = dataclasses.replace(saved, batch_stats=counted, ema=average and {**average, "batch_stats": counted})
    with open_checkpoints(tmp_path, SELECT) as checkpoints:
        found, _ = checkpoints.last_whole(like, lambda meta: None)
    assert jax.tree.structure(found) == jax.tree.structure(like)
    expected = {0: {"norm": norm | {"count": jnp.array(ENDLESS)}}}
    for batch_stats in (found.batch_stats, found.evaluated[1]):
        jax.tree.map(np.testing.assert_array_equal, batch_stats, expected)
    jax.tree.map(np.testing.assert_array_equal, found.evaluated[0], average["average"] if ema else params)


@pytest.mark.parametrize("damage", [cut, flip, remove])
def test_damage_to_any_file_never_gives_other_weights(workdir, tmp_path_factory, damage):
    """Whatever file it is, training goes on from what was saved: from the last checkpoint or the one before."""
    files = sorted(path.relative_to(workdir) for path in folder(workdir, 6).rglob("*") if path.is_file())
    fell_back = []
    for number, file in enumerate(files):
        copy = tmp_path_factory.mktemp("copy") / str(number)
        shutil.copytree(workdir, copy)
        damage(copy / file)
        found = last_whole(copy)
        step = int(found[0].step)
        assert_is(found, step)
        assert names(copy) == (["2", "4", "6"] if step == 6 else ["2", "4", "damaged-6"])
        if step != 6:
            fell_back.append(str(file))
    for part in ("meta/metadata", "metrics/metrics", "state/d/"):
        assert any(part in file for file in fell_back), part


@pytest.mark.parametrize("part", ["meta", "metrics", "state", "."])
def test_a_part_that_is_missing(workdir, part, caplog):
    caplog.set_level(logging.WARNING)
    shutil.rmtree(folder(workdir, 6) / part)
    folder(workdir, 6).mkdir(exist_ok=True)
    assert_is(last_whole(workdir), 4)
    assert names(workdir) == ["2", "4", "damaged-6"]
    assert f"checkpoint {folder(workdir, 6)} is damaged" in caplog.text
    assert "training goes on from the checkpoint of step 4" in caplog.text
    with opened(workdir) as checkpoints:
        checkpoints.save(state(6), META, {SELECT: 0.7})  # it is made again
    assert_is(last_whole(workdir), 6)
    cut(folder(workdir, 6) / "meta" / "metadata")
    last_whole(workdir)
    assert names(workdir) == ["2", "4", "damaged-6", "damaged-6-2"]


def test_nothing_is_moved_where_no_checkpoint_is_whole(workdir):
    for step in (2, 4, 6):
        cut(folder(workdir, step) / "meta" / "metadata")
    with pytest.raises(UserError, match=r"no checkpoint in .* can be used \(2, 4, 6\): .*give a new --workdir"):
        last_whole(workdir)
    assert names(workdir) == ["2", "4", "6"]


def test_no_checkpoint_is_no_damage(tmp_path):
    assert last_whole(tmp_path) is None


def test_a_checkpoint_of_another_run_is_an_error_whatever_lies_before_it(workdir):
    def check(meta):
        raise UserError(f"this is run {meta.fingerprint}")

    with pytest.raises(UserError, match="this is run a"):
        last_whole(workdir, check)
    assert names(workdir) == ["2", "4", "6"]


def test_an_old_checkpoint_that_was_being_deleted_is_no_damage(workdir):
    shutil.rmtree(folder(workdir, 4) / "metrics")
    shutil.rmtree(folder(workdir, 4) / "meta")
    assert_is(last_whole(workdir), 6)
    with opened(workdir) as checkpoints:
        assert checkpoints.best_step() == 2


@pytest.mark.parametrize("damage", [cut, flip])
def test_the_best_is_not_exchanged_in_silence(workdir, damage, caplog):
    damage(folder(workdir, 2) / "metrics" / "metrics")
    with opened(workdir) as checkpoints:
        with pytest.raises(DamagedError, match=r"checkpoints/2 is damaged.*rename that folder to damaged-2"):
            checkpoints.best_step()
        with pytest.raises(DamagedError, match="checkpoints/2 is damaged"):  # it would be deleted as an old one
            checkpoints.last_whole(state(0), lambda meta: None)
    folder(workdir, 2).rename(folder(workdir, "damaged-2"))
    with opened(workdir) as checkpoints:
        assert checkpoints.best_step() == 4
        assert checkpoints.lost_best() == 2
    assert "step 2 was the best on validation, and is gone" in caplog.text


def test_a_metric_that_is_not_a_number_is_never_the_best(tmp_path):
    """Orbax sorts it like a number: wherever it comes, the best checkpoint must stay."""
    with open_checkpoints(tmp_path, SELECT, 1) as checkpoints:
        for step, value in ((1, math.nan), (2, 0.7), (3, math.nan), (4, 0.3), (5, math.nan)):
            checkpoints.save(state(step), META, {SELECT: value})
        checkpoints.wait()
        assert checkpoints.best_step() == 2
    assert names(tmp_path) == ["2", "5"]
    with open_checkpoints(tmp_path, SELECT, 1) as checkpoints:
        assert checkpoints.best_step() == 2


def test_the_best_whose_weights_are_damaged(workdir):
    flip(max((folder(workdir, 2) / "state").rglob("d/*"), key=lambda path: path.stat().st_size))
    with opened(workdir) as checkpoints:
        assert checkpoints.best_step() == 2
        with pytest.raises(DamagedError, match="checkpoints/2 is damaged"):
            checkpoints.restore(2, state(0))


def test_checkpoints_of_early_versions_have_no_checksums(workdir):
    file = folder(workdir, 6) / "meta" / "metadata"
    meta = json.loads(file.read_text())
    del meta["checksums"], meta["best_step"], meta["step"], meta["init_from"], meta["window"]
    file.write_text(json.dumps(meta | {"of another version": 1}))
    found = last_whole(workdir)
    jax.tree.map(np.testing.assert_array_equal, found[0], state(6))
    assert found[1] == META
    with opened(workdir) as checkpoints:
        assert checkpoints.best_step() == 2


@contextlib.contextmanager
def no_room():
    """Lets no file grow: writes fail as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def save_without_room(workdir, ends):
    with opened(workdir) as checkpoints, no_room():
        checkpoints.save(state(8), META, {SELECT: 0.95})
        ends(checkpoints)
        checkpoints.close()


def save_another(checkpoints):
    checkpoints.save(state(10), META, {SELECT: 0.96})
    raise AssertionError


@pytest.mark.parametrize("noticed", [save_another, lambda checkpoints: None], ids=["at the next save", "at the end"])
def test_a_checkpoint_that_cannot_be_written_is_told_and_the_one_before_stays(workdir, noticed):
    with pytest.raises(UserError, match=r"checkpoints cannot be written: .*MiB free.*the same command resumes"):
        save_without_room(workdir, noticed)
    found, _ = last_whole(workdir)
    step = int(found.step)
    assert step in (6, 8)  # 8: a thread that was still writing, once there was room again, made it whole
    jax.tree.map(np.testing.assert_array_equal, found, state(step))
    with opened(workdir) as checkpoints:
        checkpoints.save(state(12), META, {SELECT: 0.95})
    assert_is(last_whole(workdir), 12, best=12)


def test_an_error_in_training_is_not_hidden_by_one_in_saving(workdir):
    with pytest.raises(ZeroDivisionError):
        save_without_room(workdir, lambda checkpoints: 1 / 0)


def test_a_meta_comes_back_as_it_was_and_one_that_says_too_little_is_named(workdir):
    full = dataclasses.replace(META, init_from={"path": "runs/a", "reset": ["head"]}, window=({"loss": 0.5},))
    assert CheckpointMeta.from_json(json.loads(json.dumps(full.to_json()))) == full
    with opened(workdir) as checkpoints:
        file = folder(workdir, 6) / "meta" / "metadata"
        meta = json.loads(file.read_text())
        del meta["genres"]
        file.write_text(json.dumps(meta))
        with pytest.raises(
            DamagedError, match=r"of another version of the program \(its meta: it does not say genres"
        ):
            checkpoints.meta(6)


def test_reading_alone_touches_nothing(workdir):
    unfinished = workdir / "checkpoints" / "8.orbax-checkpoint-tmp-0"
    unfinished.mkdir()
    with open_checkpoints(workdir, SELECT, read_only=True) as checkpoints:
        assert checkpoints.best_step() == 2
        assert int(checkpoints.restore(2, state(0)).step) == 2
    assert unfinished.is_dir()


def test_a_folder_where_checkpoints_would_not_be_whole_is_refused(tmp_path, corpus):
    """Orbax 0.12.8 saves no whole checkpoint below "proj [v2]"; findings/orbax_bracketed_folder.sh shows it."""
    for workdir in (tmp_path / "a[b]", tmp_path / "proj [v2]" / "run"):
        with pytest.raises(UserError, match=r"square brackets.*--workdir"):
            train(small_config(tmp_path, corpus), workdir)
        assert not workdir.exists()
