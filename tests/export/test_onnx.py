"""ONNX gives what the model gives, for every family of models; in an environment that has jax2onnx."""

import numpy as np
import pytest
from helpers import untrained

from mgc_jax.errors import UserError
from mgc_jax.export import files, formats, onnx
from mgc_jax.export.folder import write_export
from mgc_jax.export.functions import Scores, score_function
from mgc_jax.export.stablehlo import score_specs
from tfds_fma.representations.registry import get_representation

pytest.importorskip("jax2onnx", reason="needs jax2onnx: launch/onnx_export.sh says how", exc_type=ImportError)
pytest.importorskip("onnxruntime")

BLOCKS = {"filters": (4, 4), "pools": ((2, 4), (2, 4))}
PRCNN = {"filters": (4, 4), "pools": ((2, 2), (2, 2)), "gru_units": 4}
ATTENTION = {"name": "prcnn_attention", "filters": (4,), "frequency_pools": (4,), "gru_units": 4}
ENCODERS = [
    {"name": "mlp"},
    {"name": "crnn", **BLOCKS, "gru_units": 4},
    {"name": "crnn_pooled", **BLOCKS, "gru_units": 4, "features": 8},
    {"name": "crnn_tf", **BLOCKS, "gru_units": 4, "features": 8},
    {"name": "fcn4", **BLOCKS},
    {"name": "cnn", "filters": (4, 4), "pools": ((2, 2), (2, 2)), "kernel": (3, 2)},
    {"name": "bigru", "gru_units": 4, "gru_layers": 2, "rnn_embedding": 6},
    {"name": "prcnn", **PRCNN},
    {"name": "prcnn", **PRCNN, "activation": "leaky_relu"},
    {"name": "prcnn_attention_literal", **PRCNN},
    {"name": "statistics", "cepstra": 8, "bands": 3, "hidden": 8},
    *({**ATTENTION, "attention": f"{where}_{how}"} for where in ("parallel", "serial") for how in ("cnn", "linear")),
]
POOLINGS = [
    "none", "mean", "max", "mean_probability", "noisy_or", "hierarchical_matt", "gated_attention", "set_transformer",
    {"name": "matt", "score": "additive", "activation": "none"}, {"name": "matt", "score": "hidden"},
    {"name": "matt", "train_query": "own"},
]  # fmt: skip
CASES = [(encoder, "matt") for encoder in ENCODERS] + [({"name": "mlp", "hidden": (8,)}, p) for p in POOLINGS]


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "pooling"), CASES, ids=str)
def test_every_family(encoder, pooling):
    model = untrained(encoder, pooling, (64, 12))  # GRUs along time and frequency have unequal steps
    function = score_function(model)
    specs = score_specs((64, 12))
    content = onnx.to_onnx(lambda clips, present: tuple(function(clips, present)), specs, Scores._fields)
    run = onnx.session(content, "it")
    rng = np.random.default_rng(0)
    for bags, slots in ((1, 1), (7, 1), (1, 13), (7, 13)):
        present = np.arange(slots) < rng.integers(1, slots + 1, bags)[:, None]
        clips = rng.normal(size=(bags, slots, 64, 12)).astype(np.float32)
        log_scores, _, embedding = run(clips=clips, present=present)
        expected, aux = model(clips[present], np.nonzero(present)[0])
        np.testing.assert_allclose(log_scores, expected, atol=1e-5)
        np.testing.assert_allclose(embedding[present], aux["embedding"], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mel_120x128", "mel_256x96"])
@pytest.mark.parametrize("frontend", [False, True], ids=["spectrograms", "front end"])
def test_from_audio(tmp_path, name, frontend):
    """The spectrogram's file feeds the model's."""
    made, folder = get_representation(name), tmp_path / "export"
    options = {"data": {"representation": name}, "corpus": "fma_small", "resampler": "soxr HQ"}
    options["standardization"] = {"mean": [-40.0] * made.n_mels, "std": [20.0] * made.n_mels}
    if frontend:
        options |= {"model": {"frontend": name}, "stored_shape": (made.samples,)}
    model = untrained({"name": "mlp", "hidden": (4,)}, "matt", made.shape, **options)
    write_export(folder, model)
    compared = {line.name: line.difference for line in formats.write_onnx(folder, model)}
    assert compared[files.ONNX] < 1e-5
    assert compared[files.SPECTROGRAM] < 1e-4
    assert {line.name for line in formats.check(folder)} == {"weights.safetensors", *compared}
    audio = 0.1 * np.random.default_rng(2).normal(size=(1, made.at_most)).astype(np.float32)
    audio = audio[:, : made.samples] if frontend else audio
    (clip,) = onnx.session((folder / files.SPECTROGRAM).read_bytes(), "it")(audio=audio)
    run = onnx.session((folder / files.ONNX).read_bytes(), "it")
    log_scores, *_ = run(clips=clip[None], present=np.ones((1, 1), bool))
    stored = audio if frontend else made.compute(audio[0]).astype(np.float32)[None]
    np.testing.assert_allclose(log_scores, model(stored)[0], atol=0.05)  # of stored float16


@pytest.mark.slow
def test_a_model_that_onnx_runtime_does_not_take_is_refused(tmp_path):
    model = untrained({"name": "crnn_tf", **BLOCKS, "gru_units": 4, "features": 8}, model={"dtype": "bfloat16"})
    write_export(tmp_path / "export", model)
    with pytest.raises(UserError, match=r"ONNX Runtime does not take model\.onnx: .*bfloat16"):
        formats.write_onnx(tmp_path / "export", model)
    assert not (tmp_path / "export" / files.ONNX).exists()
