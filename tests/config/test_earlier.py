"""Configurations that earlier versions saved."""

import copy
import json

import pytest

from mgc_jax.config import earlier, keys
from mgc_jax.config.identity import differences
from mgc_jax.config.loading import load_config
from mgc_jax.errors import UserError


def saved(rows, clips_per_row):
    """As a version with rows saved it."""
    config = keys.to_json(load_config("matt_crnn_tf"))
    del config["batch"]["clips"], config["batch"]["bags"], config["bench"]["batch_clips"]
    config["batch"] |= {"rows": rows, "clips_per_row": clips_per_row}
    config["bench"] |= {"rows": [], "clips_per_row": [8]}
    config["demo"]["batch"] = {"clips_per_row": 32}
    return config


def test_a_saved_configuration_gets_the_keys_of_this_version(tmp_path):
    before = saved(4, 12)
    given = copy.deepcopy(before)
    (tmp_path / "config.json").write_text(json.dumps(before))
    loaded = load_config(tmp_path)
    assert (loaded.batch.clips, loaded.batch.bags) == (48, 0)
    assert earlier.current(given) == earlier.current(earlier.current(given))
    assert given == before
    assert earlier.current(keys.to_json(loaded)) == keys.to_json(loaded)


@pytest.mark.parametrize("group", ["bench", "profile", "optimizer.options", "loss", "data.arrays.columns"])
def test_a_group_that_is_newer_than_the_run_is_that_of_the_defaults(tmp_path, group):
    before = keys.to_json(load_config("matt_crnn_tf"))
    *above, name = group.split(".")
    inside = before
    for key in above:
        inside = inside[key]
    given = inside.pop(name)
    (tmp_path / "config.json").write_text(json.dumps(before))
    loaded, usual = (keys.to_json(config) for config in (load_config(tmp_path), keys.default()))
    for key in (*above, name):
        loaded, usual = loaded[key], usual[key]
    assert loaded == usual
    inside[name] = given
    (tmp_path / "config.json").write_text(json.dumps(before))
    assert keys.to_json(load_config(tmp_path)) == before
    inside[name] = 3
    (tmp_path / "config.json").write_text(json.dumps(before))
    with pytest.raises(UserError, match=rf"config\.json cannot be read \({name} is no JSON object\)"):
        load_config(tmp_path)


@pytest.mark.parametrize("given", ["paper", "pair", None])
def test_bags_and_folds_of_before_were_scored_with_the_label_and_selected_themselves(tmp_path, given):
    before = keys.to_json(load_config("matt_crnn_tf", {"data.folds": 5}))
    del before["data"]["fold_selection"], before["data"]["bag_key"]
    before["data"] |= {"bag_key": given} if given else {}
    (tmp_path / "config.json").write_text(json.dumps(before))
    loaded = load_config(tmp_path)
    assert (loaded.data.bag_key, loaded.data.fold_selection) == ("pair" if given == "pair" else "published", "scored")
    assert differences(loaded, before) == []
    config = load_config("matt_crnn_tf", {"data.folds": 5, "data.bag_key": given or "paper"})
    changed = {line.partition(":")[0] for line in differences(config, before)}
    assert changed == {"data.fold_selection"} | ({"data.bag_key"} if given != "pair" else set())


@pytest.mark.parametrize(("rows", "clips_per_row", "different"), [(1, 50, 0), (1, 64, 1), (5, 10, 1), (2, 50, 2)])
def test_batches_of_one_row_are_those_of_this_version(rows, clips_per_row, different):
    config = load_config("matt_crnn_tf")
    assert config.batch.clips == 50
    found = differences(config, saved(rows, clips_per_row))
    assert len(found) == different
    evaluated = differences(config, saved(rows, clips_per_row), training=False)
    assert evaluated == [line for line in found if line.startswith("batch.clips")]
