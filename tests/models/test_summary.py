import pytest

from mgc_jax.models.summary import layers_of
from mgc_jax.papers import SYSTEMS
from mgc_jax.papers.__main__ import parameters


def _of(file):
    (system,) = (system for system in SYSTEMS if system.file == file)
    return layers_of(system.config().model, system.clip_shape, system.num_genres)


def test_the_report_s_figure_4():
    """Output shapes and parameters as printed; what only moves values there has no line here."""
    found = [(layer.shape, layer.parameters) for layer in _of("prcnn_attention_literal") if layer.parameters]
    assert found == [
        ((319, 64, 16), 64), ((158, 32, 32), 1_568), ((78, 16, 64), 6_208), ((19, 4, 64), 12_352),
        ((4, 1, 64), 12_352), ((2, 128), 198_144), ((1, 8), 2_056),
    ]  # fmt: skip
    shapes = {layer.name: layer.shape for layer in _of("prcnn_attention_literal")}
    assert shapes["encoder.cnn"] == shapes["encoder.rnn"] == shapes["encoder"] == (256,)


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.file)
def test_the_layers_have_all_parameters(system):
    if parameters(system) is None:
        pytest.skip("a baseline of scikit-learn")
    found = _of(system.file)
    assert sum(layer.parameters for layer in found) == parameters(system)
    assert all(layer.parameters >= 0 for layer in found)
