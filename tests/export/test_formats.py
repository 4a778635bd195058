"""Formats for other programs give what the model gives, and files that do not are found."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import untrained

from mgc_jax.data import frontend
from mgc_jax.errors import UserError
from mgc_jax.export import files, formats, reference
from mgc_jax.export.__main__ import _run
from mgc_jax.export.folder import write_export
from mgc_jax.export.reference import CLOSE, COARSE, read_probe
from mgc_jax.export.stablehlo import from_stablehlo
from mgc_jax.inference import load_export
from mgc_jax.models.encoders.mlp import Mlp
from tfds_fma.representations.log_mel import LogMelBelowPeak
from tfds_fma.representations.registry import get_representation
from tfds_fma.representations.spectrogram import mel_power

CRNN_TF = {"name": "crnn_tf", "filters": (4, 4), "pools": ((2, 4), (2, 4)), "gru_units": 4, "features": 8}
MLP = {"name": "mlp", "hidden": (4,)}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model, and the folder of its export with StableHLO."""
    folder, model = tmp_path_factory.mktemp("formats") / "export", untrained(CRNN_TF)
    write_export(folder, model)
    formats.write_stablehlo(folder, model)
    return model, folder


@pytest.fixture
def copy(exported, tmp_path):
    shutil.copytree(exported[1], tmp_path / "export")
    return tmp_path / "export"


@pytest.mark.parametrize(("bags", "slots"), [(1, 1), (7, 1), (1, 13), (7, 13)])
def test_stablehlo_gives_what_the_model_gives(exported, bags, slots):
    model, folder = exported
    rng = np.random.default_rng(bags + slots)
    sizes = rng.integers(1, slots + 1, bags)
    present = np.arange(slots) < sizes[:, None]
    clips = np.where(present[..., None, None], rng.normal(size=(bags, slots, 40, 12)), 1e3).astype(np.float32)
    function = from_stablehlo((folder / files.STABLEHLO).read_bytes(), "it")
    scores = function(jnp.asarray(clips), jnp.asarray(present))
    expected, aux = model(clips[present], np.nonzero(present)[0])
    np.testing.assert_allclose(scores.log_scores, expected, atol=1e-5)
    np.testing.assert_allclose(np.asarray(scores.embedding)[present], aux["embedding"], atol=1e-5)
    weights = np.moveaxis(np.asarray(scores.attention), 1, 2)[present]  # [clip, genre]
    bag = np.nonzero(present)[0]
    np.testing.assert_allclose(weights, aux["attention"][bag, :, np.arange(len(bag))], atol=1e-5)
    assert not np.moveaxis(np.asarray(scores.attention), 1, 2)[~present].any()


def test_stablehlo_holds_no_kernel_of_a_platform(exported):
    loaded = jax.export.deserialize(bytearray((exported[1] / files.STABLEHLO).read_bytes()))
    assert loaded.platforms == ("cpu", "cuda", "tpu")
    called = set(re.findall(r"custom_call @(\w+)", loaded.mlir_module()))
    assert called <= {"shape_assertion"}


def with_front_end(made):
    statistics = {"mean": [-40.0] * made.n_mels, "std": [20.0] * made.n_mels}
    options = {"stored_shape": (made.samples,), "model": {"frontend": made.name}, "standardization": statistics}
    return untrained(MLP, "mean", made.shape, **options)


@pytest.mark.parametrize("name", ["mel_120x128", "mel_256x96"])
def test_a_front_end_is_inside(tmp_path, name):
    made = get_representation(name)
    model = with_front_end(made)
    write_export(tmp_path / "export", model)
    (compared,) = formats.write_stablehlo(tmp_path / "export", model)
    assert compared.difference < 1e-5
    probe = read_probe(tmp_path / "export", model.meta)
    assert probe["clips"].shape == (2, 3, made.samples)
    assert probe["spectrogram"].shape == (2, *made.shape)
    # The model takes int16, too, as it is stored: the file takes float32 of full scale 1.
    stored = np.rint(probe["clips"][probe["present"]] * 32767).astype(np.int16)
    scores, _ = model(stored, np.nonzero(probe["present"])[0])
    np.testing.assert_allclose(scores, probe["log_scores"], atol=1e-4)


@pytest.mark.parametrize("forgotten", ["DYNAMIC_RANGE_DB", "POWER_FLOOR"])
def test_a_front_end_without_its_clamp_or_floor_is_found(tmp_path, monkeypatch, forgotten):
    made = get_representation("mel_120x128")
    model = with_front_end(made)
    write_export(tmp_path / "export", model)
    monkeypatch.setattr(frontend, forgotten, {"DYNAMIC_RANGE_DB": 300.0, "POWER_FLOOR": 0.0}[forgotten])
    with pytest.raises(UserError, match=r"model\.stablehlo does not give log_scores of the model"):
        formats.write_stablehlo(tmp_path / "export", model)


@pytest.mark.parametrize("name", ["mel_120x128", "mel_256x96"])
def test_a_spectrogram_without_its_clamp_or_floor_is_found(monkeypatch, name):
    made = get_representation(name)
    made_of_audio = {"data": {"representation": name}, "corpus": "fma_small", "resampler": "soxr HQ"}
    model = untrained(MLP, "mean", made.shape, **made_of_audio)
    probe = reference.reference(model)
    unit = 1 if (below := isinstance(made, LogMelBelowPeak)) else 10 / np.log(10)

    def converted(decibels, floor):
        def run(audio):
            power = np.maximum(mel_power(audio[0], made.sample_rate, made.n_fft, made.hop, made.n_mels), floor)
            with np.errstate(divide="ignore", invalid="ignore"):
                logarithm = unit * np.log(power / power.max() if below else power)
                lowest = logarithm.max() - decibels / 10 * np.log(10) * unit
                return [np.maximum(logarithm, lowest)[None, : made.shape[0]].astype(np.float32)]

        monkeypatch.setattr(formats.onnx, "session", lambda content, what: run)
        return formats._compare_spectrogram(b"", model, probe, "spectrogram.onnx")

    assert converted(80, 1e-10) < 1e-3
    for forgotten in ((300, 1e-10), (80, 0)):
        with pytest.raises(UserError, match=r"spectrogram\.onnx does not give the spectrogram of the model"):
            converted(*forgotten)


def test_beside_a_gpu_the_cpu_is_compared_with_the_close_tolerance(exported, monkeypatch):
    model, folder = exported
    probe, content = read_probe(folder, model.meta), (folder / files.STABLEHLO).read_bytes()
    seen = []

    def compare(got, probe, tolerance, what):
        seen.append((got["log_scores"].device, tolerance))
        return 0.0

    first, *others = jax.devices("cpu")
    monkeypatch.setattr(formats, "require_equal", compare)
    monkeypatch.setattr(formats.platform, "on_cpu", lambda: False)
    with jax.default_device(others[-1] if others else first):  # as a GPU would be
        formats._compare_stablehlo(content, model, probe, "it")

        def no_cpu(**_):
            raise RuntimeError

        monkeypatch.setattr(reference.jax, "local_devices", no_cpu)
        formats._compare_stablehlo(content, model, probe, "it")
    assert seen == [(first, CLOSE), (others[-1] if others else first, COARSE)]


def test_all_files_are_compared(exported):
    compared = {line.name: line for line in formats.check(exported[1])}
    assert compared.keys() == {"weights.safetensors", files.STABLEHLO}
    assert max(line.difference for line in compared.values()) < 1e-5
    entry = json.loads((exported[1] / files.FILES).read_text())[files.STABLEHLO]
    assert entry["bytes"] == compared[files.STABLEHLO].bytes
    assert entry["max_difference"] < 1e-5


def damage(path, content):
    """Replaces a file, and what files.json says of it."""
    files.write(path.parent, path.name, content)


def test_a_cut_swapped_or_longer_file_is_found_before_it_is_read(copy):
    path = copy / files.STABLEHLO
    content = path.read_bytes()
    cases = {"were written": content[:-9], "bytes, but": content + b"x", "checksum is another": content[::-1]}
    for why, broken in cases.items():
        path.write_bytes(broken)
        with pytest.raises(UserError, match=f"model.stablehlo.*{why}"):
            formats.check(copy)
    path.unlink()
    with pytest.raises(UserError, match=r"model\.stablehlo cannot be read \(No such file"):
        formats.check(copy)
    (copy / files.ONNX).write_bytes(content)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.onnx is not of this export: files\.json does not name it"):
        formats.check(copy)


def test_the_file_of_another_model_is_found(copy, tmp_path):
    others = {"weights": untrained(CRNN_TF, seed=1), "shape": untrained(MLP, clip_shape=(6,))}
    for number, (kind, other) in enumerate(others.items()):
        write_export(tmp_path / str(number), other)
        formats.write_stablehlo(tmp_path / str(number), other)
        damage(copy / files.STABLEHLO, (tmp_path / str(number) / files.STABLEHLO).read_bytes())
        why = "does not give log_scores of the model" if kind == "weights" else "is of another model"
        with pytest.raises(UserError, match=f"model.stablehlo {why}"):
            formats.check(copy)
    damage(copy / files.STABLEHLO, b"nothing")
    with pytest.raises(UserError, match=r"model\.stablehlo is no function that this JAX reads"):
        formats.check(copy)


def test_a_damaged_probe_is_refused(copy, exported, tmp_path):
    meta, path = exported[0].meta, copy / "probe.npz"
    arrays = dict(np.load(path))
    for changed, why in (
        (arrays | {"clips": arrays["clips"][..., :5]}, "is of another model"),
        ({"clips": arrays["clips"]}, "cannot be read"),
        (arrays | {"log_scores": np.array([None])}, "cannot be read .*allow_pickle"),
    ):
        np.savez(path, **changed)
        with pytest.raises(UserError, match=f"probe.npz {why}"):
            read_probe(copy, meta)
    np.savez_compressed(path, **arrays)  # a small file may hold a huge array
    with pytest.raises(UserError, match="it is compressed"):
        read_probe(copy, meta)


def test_what_differs_is_not_written(exported, tmp_path, monkeypatch):
    model, _ = exported
    write_export(tmp_path / "export", model)
    other = formats.score_function(untrained(CRNN_TF, seed=1))
    monkeypatch.setattr(formats, "score_function", lambda exported: other)
    with pytest.raises(UserError, match=r"model\.stablehlo does not give log_scores of the model: .* differs by"):
        formats.write_stablehlo(tmp_path / "export", model)
    assert not (tmp_path / "export" / files.STABLEHLO).exists()


def test_other_formats_stay_with_their_model_alone(copy, exported):
    write_export(copy, exported[0])
    assert (copy / files.STABLEHLO).is_file()
    write_export(copy, untrained(CRNN_TF, seed=1))
    assert not (copy / files.STABLEHLO).exists()
    assert [line.name for line in formats.check(copy)] == ["weights.safetensors"]


def test_what_jax_cannot_export_is_named(exported, tmp_path, monkeypatch):
    def call(self, clips, mask, train, rngs):
        return jax.pure_callback(np.asarray, jax.ShapeDtypeStruct((clips.shape[0], 4), jnp.float32), clips[:, :4])

    model = untrained(MLP, clip_shape=(6,))
    write_export(tmp_path / "export", model)
    monkeypatch.setattr(Mlp, "__call__", call)
    with pytest.raises(UserError, match=r"JAX cannot export this model: .*callback"):
        formats.write_stablehlo(tmp_path / "export", model)


def test_the_command_writes_and_checks(exported, tmp_path, capsys):
    folder = tmp_path / "run" / "export"
    folder.mkdir(parents=True)
    for name in ("weights.safetensors", "labels.json", "config.json"):  # as earlier versions wrote it
        shutil.copy(exported[1] / name, folder)
    assert _run(tmp_path / "run", ["safetensors", "stablehlo"], False) == 0
    assert _run(folder, [], True) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^weights\.safetensors +[\d,]+  \d\.?\d*e-0[67]$", printed, re.MULTILINE)
    assert len(re.findall(r"^model\.stablehlo ", printed, re.MULTILINE)) == 2
    assert load_export(folder).genres == exported[0].genres
    with pytest.raises(UserError, match="unknown format 'tflite'; choose of safetensors, stablehlo, onnx"):
        _run(folder, ["tflite"], False)
    with pytest.raises(UserError, match="is neither the folder of a run nor an export"):
        _run(tmp_path, ["safetensors"], False)


def test_onnx_without_jax2onnx_names_the_script(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(UserError, match=r"launch/onnx_export\.sh EXPORT"):
        formats.write_onnx(exported[1], exported[0])


def test_what_the_script_for_onnx_does_not_install_is_not_needed(exported):
    """launch/onnx_export.sh installs what it names, and what that needs."""
    program = f"""
import pathlib, sys
for name in ("array_record", "grain", "jax2onnx", "jinja2", "joblib", "librosa", "markupsafe", "matplotlib", "pyarrow",
             "sklearn", "soundfile", "soxr", "tensorboardX", "tensorflow_datasets", "threadpoolctl",
             "tinytag", "tqdm"):
    sys.modules[name] = None
import mgc_jax.__main__
from mgc_jax.export.__main__ import _run
try:
    _run(pathlib.Path({str(exported[1])!r}), ["onnx"], False)
except Exception as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("ONNX needs jax2onnx"), done.stdout + done.stderr


def blocks_of(page, word):
    return next(b for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if word in b)


@pytest.mark.slow
def test_the_snippet_needs_jax_alone(exported):
    """As docs/howto/export.md and the model card print it."""
    model, folder = exported
    printed = [(ROOT / "docs/howto/export.md").read_text(), (folder / files.CARD).read_text()]
    snippets = [blocks_of(page, "export.deserialize") for page in printed]
    assert snippets[0].replace("runs/matt/export", "export") == snippets[1]
    program = "import sys; sys.modules['mgc_jax'] = sys.modules['flax'] = sys.modules['tfds_fma'] = None\n"
    program += snippets[1] + "print(genre); assert abs(scores - probe['log_scores']).max() < 1e-5\n"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=folder.parent
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in model.genres
