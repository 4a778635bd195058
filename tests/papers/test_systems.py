"""Every system of both papers: its parameter count beside the paper's, and its configuration."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from flax import nnx

from mgc_jax.config.keys import to_json
from mgc_jax.config.loading import run_config_file
from mgc_jax.models.classifier import build_model
from mgc_jax.papers import SYSTEMS, fma, gtzan, matt, ubc
from mgc_jax.papers.__main__ import main, parameters

CONFIGS = Path(__file__).parents[2] / "configs"
# Weights, biases and batch-norm moments; printed in the papers, or following from the layers that they describe.
PUBLISHED = {
    "ubc_rnn": 75_528,
    "ubc_cnn5": 34_600,
    "ubc_cnn3": 646_824,
    "prcnn": 110_120,
    "prcnn_2rnn": 184_616,
    "prcnn_attention_literal": 232_744,
    "crnn": 393_680,
    "crnn_tf": 1_004_112,
    "fcn4": 17_302_928,
}


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.file)
def test_parameters_are_the_published_ones(system):
    assert system.published == PUBLISHED.get(system.file)
    assert system.printed == (system.published in (232_744, 393_680, 1_004_112))
    if system.published is not None:
        assert parameters(system) == system.published


@pytest.mark.parametrize("system", ubc.ABLATIONS, ids=lambda system: system.name)
def test_an_ablation_varies_the_system_whose_file_it_names(system):
    (base,) = (other for other in ubc.SYSTEMS if other.file == system.file)
    assert system.name.startswith(base.name.partition(":")[0])
    ours, theirs = system.config().model.encoder, base.config().model.encoder
    assert sum(ours[key] != theirs[key] for key in theirs) == 1
    if system.published is not None:
        assert parameters(system) == system.published


def test_on_gtzan_the_halves_of_feng_have_256_features_each():
    """As Feng et al. have it: 128 x 513 becomes 1 x 4 x 64 in the CNN, and 2 x 128 states of the GRU."""
    system = gtzan.system("PRCNN of Feng et al., 5 s")
    encoder = nnx.eval_shape(lambda: build_model(system.config().model, (128, 513), 10, seed=0)).encoder
    assert encoder.cnn.features == encoder.rnn.features == 256


def test_matt_adds_one_query_per_genre():
    counts = {system.file: parameters(system) for system in SYSTEMS}
    assert counts["matt_crnn_tf"] == counts["crnn_tf"] + 16 * 64
    assert counts["matt_crnn"] == counts["crnn"] + 16 * 32
    assert counts["matt_mlp"] == counts["mlp_mil"] + 16 * 518 == 2 * 16 * 518 + 16


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.file)
def test_the_list_names_the_configuration_that_it_counts(system):
    assert to_json(run_config_file(CONFIGS / f"{system.file}.py")) == to_json(system.config())


def test_every_configuration_of_a_system_is_in_the_list():
    ours = {
        "any",
        "best_bags",
        "best_fma_small_mels",
        "echonest",
        "fma_small_mels",
        "probe",
        "vggish",
    }  # of no paper's models
    assert {path.stem for path in CONFIGS.glob("*.py")} == ours | {system.file for system in SYSTEMS}


def test_the_command_lists_ours_beside_the_papers():
    output = subprocess.run(
        [sys.executable, "-m", "mgc_jax.papers"], capture_output=True, text=True, check=True
    ).stdout
    for system in SYSTEMS:
        (line,) = (line for line in output.splitlines() if line.startswith(f"{system.name:<29}{system.paper.name}"))
        assert line.endswith(f"  {system.file}")
        if system.published:
            assert line.count(f"{system.published:,}") == 2


def test_systems_by_name_and_by_their_arguments():
    assert matt.system("CRNN-TF+MATT").config().model.pooling.name == "matt"
    assert ubc.system("CNN and 2-layer RNN").config().model.encoder.gru_layers == 2
    config = matt.system("MLP+MATT").config("features=mfcc,hidden=64")
    assert (config.data.features, config.model.encoder.hidden) == ("mfcc", (64,))
    assert fma.system("KNN").config("k=5").baseline.n_neighbors == 5
    assert len({system.name for system in SYSTEMS}) == len(SYSTEMS)


def test_the_command_shows_the_layers_of_a_system(capsys):
    assert main(["--layers", "prcnn_attention_literal"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["encoder.cnn.blocks.0", "TimeConvBlock", "319 x 64 x 16", "64"] in [
        re.split(r"  +", line) for line in lines
    ]
    assert lines[-1].split() == ["total", "232,744"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("knn", "knn is a baseline of scikit-learn and has no layers"), ("x", "choose one of ubc_rnn")],
)
def test_what_has_no_layers_is_one_sentence(capsys, name, message):
    assert main(["--layers", name]) == 1
    assert message in capsys.readouterr().err


def test_the_command_shows_the_datasets_of_the_report(capsys):
    assert main(["--datasets"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["FMA-small", "8,000", "8,000", "8", "2017"] in rows
    assert ["FMA", "106,674", "106,574", "161", "16,341", "2017"] in rows  # one digit is mistyped there
    assert ["GTZAN", "1,000", "10", "300", "2002"] in rows
