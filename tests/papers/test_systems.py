"""Every system of both papers: its parameter count beside the paper's, and its configuration."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from mgc_jax.config.keys import to_json
from mgc_jax.papers.system import SYSTEMS

CONFIGS = Path(__file__).parents[2] / "configs"
# Weights, biases and batch-norm moments; printed in the papers, or following from the layers that they describe.
PUBLISHED = {
    "ubc_rnn.py": 75_528,
    "ubc_cnn5.py": 34_600,
    "ubc_cnn3.py": 646_824,
    "prcnn.py": 110_120,
    "prcnn_2rnn.py": 184_616,
    "prcnn_attention_literal.py": 232_744,
    "crnn.py": 393_680,
    "crnn_tf.py": 1_004_112,
    "fcn4.py": 17_302_928,
}


def load(file):
    spec = importlib.util.spec_from_file_location(Path(file).stem, CONFIGS / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.file)
def test_parameters_are_the_published_ones(system):
    assert system.published == PUBLISHED.get(system.file)
    assert system.printed == (system.published in (232_744, 393_680, 1_004_112))
    if system.published is not None:
        assert system.parameters() == system.published


def test_matt_adds_one_query_per_genre():
    parameters = {system.file: system.parameters() for system in SYSTEMS}
    assert parameters["matt_crnn_tf.py"] == parameters["crnn_tf.py"] + 16 * 64
    assert parameters["matt_crnn.py"] == parameters["crnn.py"] + 16 * 32
    assert parameters["matt_mlp.py"] == parameters["mlp_mil.py"] + 16 * 518 == 2 * 16 * 518 + 16


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.file)
def test_the_list_names_the_configuration_that_it_counts(system):
    assert to_json(load(system.file).get_config()) == to_json(system.config())


def test_every_configuration_of_a_system_is_in_the_list():
    ours = {"echonest.py", "fma_small_mels.py", "vggish.py"}  # for arrays that users bring
    assert {path.name for path in CONFIGS.glob("*.py")} == ours | {system.file for system in SYSTEMS}


def test_the_command_lists_ours_beside_the_papers():
    output = subprocess.run(
        [sys.executable, "-m", "mgc_jax.papers"], capture_output=True, text=True, check=True
    ).stdout
    for system in SYSTEMS:
        (line,) = (line for line in output.splitlines() if f"configs/{system.file}" in line)
        assert line.count(f"{system.published:,}" if system.published else "configs/") == (
            2 if system.published else 1
        )
