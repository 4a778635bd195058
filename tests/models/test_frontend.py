import functools

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
from flax import nnx

from mgc_jax.data import frontend
from mgc_jax.data.frontend import LogMelFrontend, frontend_for
from mgc_jax.errors import UserError
from mgc_jax.runtime import platform
from mgc_jax.runtime.devices import data_mesh, shard
from tfds_fma.representations.registry import get_representation
from tfds_fma.representations.spectrogram import log_mel, log_mel_below_peak

NAMES = ["mel_1360x96", "mel_1360x96_nfft512", "mel_640x128", "mel_640x128_hop512", "mel_256x96", "mel_120x128"]
DB_PER_LN = 10 / np.log(10)


@pytest.fixture(params=["cpu form", "batch form"])
def form(request, monkeypatch):
    monkeypatch.setattr(platform, "on_cpu", lambda: request.param == "cpu form")


def _clips(module, seconds_more=0.5):
    """Clips of wide dynamic range, all of one length; the fourth is loudest behind the frames that are kept."""
    rng = np.random.default_rng(0)
    rate, samples = module.sample_rate, round(module.samples + seconds_more * module.sample_rate)
    time = np.arange(samples) / rate
    noise = 0.2 * rng.normal(size=samples)
    tones = sum(a * np.sin(2 * np.pi * f * time) for a, f in ((0.5, 440), (0.05, 1234.5), (5e-4, 0.45 * rate)))
    swell = 10 ** np.linspace(-5, 0, samples)  # 100 dB
    clips = [noise, tones + 1e-5 * noise, (tones + noise) * swell, noise * swell**2, np.zeros(samples)]
    clips.append(np.where(time % 2 < 1, tones, 0))  # digital silence in between
    return np.clip(clips, -1, 1).astype(np.float32)


def _by_librosa(name, clip):
    """Decibels, by the plain recipe."""
    r = get_representation(name)
    power = librosa.feature.melspectrogram(
        y=clip[: r.at_most], sr=r.sample_rate, n_fft=r.n_fft, hop_length=r.hop, n_mels=r.n_mels, pad_mode="reflect"
    )
    return librosa.power_to_db(power, ref=np.max if r.scale == "ln" else 1.0).T[: r.shape[0]]


def _by_tfds_fma(name, clip):
    """Decibels, before the rounding for storage."""
    r = get_representation(name)
    settings = (r.sample_rate, r.n_fft, r.hop, r.n_mels)
    if r.scale == "ln":
        return log_mel_below_peak(clip[: r.at_most], *settings)[: r.shape[0]] * DB_PER_LN
    return log_mel(clip[: r.at_most], *settings)


def _assert_equal_but_for_the_fft(decibels, expected):
    """Within 1e-3 dB; or, seldom, within the rounding of a float32 FFT.

    librosa's FFT is a float64 one; ours is float32, as is that of tfds_fma, whose rounding JAX 0.10.2 shared and JAX
    0.12 does not. The rounding is 2**-24 of the clip's strongest amplitude: more than 1e-3 dB from 66 dB below it on.
    Of these clips it shows in the noiseless tones only, with n_fft = 512.
    """
    error = np.abs(decibels - expected)
    below_peak = expected.max(axis=(1, 2), keepdims=True) - expected
    assert (error <= np.maximum(1e-3, 20 / np.log(10) * 2**-24 * 10 ** (below_peak / 20))).all()
    assert np.mean(error > 1e-3) < 3e-4
    assert (error[[0, 2, 3, 4]] < 1e-4).all()  # all but the noiseless tones


def _decibels(module, spectrograms):
    return np.asarray(spectrograms) * (DB_PER_LN if module.representation.scale == "ln" else 1)


@functools.cache
def _reference(recipe, name, int16):
    clips = _clips(LogMelFrontend(name))
    clips = np.rint(clips * 32767).astype(np.float32) / 32767 if int16 else clips
    return np.stack([recipe(name, clip) for clip in clips])


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("int16", [False, True], ids=["float32", "int16"])
@pytest.mark.parametrize("name", NAMES)
def test_equals_librosa_and_the_stored_spectrograms(name, int16):
    module = LogMelFrontend(name)
    clips = _clips(module)
    clips = np.rint(clips * 32767).astype(np.int16) if int16 else clips
    result = _decibels(module, jax.jit(module.__call__)(jnp.asarray(clips)))
    assert result.shape == (len(clips), *module.clip_shape)
    _assert_equal_but_for_the_fft(result, _reference(_by_librosa, name, int16))
    _assert_equal_but_for_the_fft(result, _reference(_by_tfds_fma, name, int16))


@pytest.mark.parametrize("name", ["mel_256x96", "mel_120x128"])
def test_a_sharded_batch_stays_on_its_devices(name):
    module = LogMelFrontend(name)
    clips = np.tile(_clips(module), (4, 1))  # 24, three for each device
    mesh = data_mesh()

    @jax.jit
    def function(audio):
        with platform.dealt_over(mesh):
            return module(audio)

    batch = shard(clips, mesh)
    compiled = function.lower(batch).compile().as_text()
    assert "fft(" in compiled
    assert "all-gather" not in compiled
    result = function(batch)
    assert result.sharding.is_equivalent_to(batch.sharding, 3)
    _assert_equal_but_for_the_fft(_decibels(module, result)[-6:], _reference(_by_librosa, name, False))

    gradient = jax.jit(jax.grad(lambda audio: jnp.sum(function(audio))))
    assert "all-gather" not in gradient.lower(batch).compile().as_text()
    alone = jax.grad(lambda audio: jnp.sum(module(audio)))(clips[:6])
    np.testing.assert_allclose(gradient(batch)[:6], alone, rtol=1e-3, atol=1e-3)


def test_of_a_longer_clip_the_first_samples_are_used():
    module = LogMelFrontend("mel_256x96")
    clips = _clips(module)
    result = module(jnp.asarray(clips))
    np.testing.assert_array_equal(result, module(jnp.asarray(clips[:, : module.samples])))
    assert module(jnp.asarray(clips[:0])).shape == (0, 256, 96)


def test_the_peak_is_that_of_all_of_the_audio():
    module = LogMelFrontend("mel_120x128")
    clip = np.tile(_clips(module)[:1], 2)
    louder = clip.copy()
    louder[:, clip.shape[1] // 2 + module.samples // 2 :] *= 4  # behind the frames that are kept
    difference = module(jnp.asarray(louder)) - module(jnp.asarray(clip))
    np.testing.assert_allclose(difference, -2 * np.log(4), atol=0.2)
    np.testing.assert_allclose(difference, difference[0, 0, 0], atol=1e-5)


@pytest.mark.usefixtures("form")
def test_gradient_of_decibels():
    """Audio times 1 + e is louder by 20 e / ln 10 dB everywhere: Euler's theorem on homogeneous functions."""
    module = LogMelFrontend("mel_256x96")
    rng = np.random.default_rng(1)
    clips = jnp.asarray(rng.normal(size=(3, module.samples)) * 0.1, jnp.float32)
    weight = jnp.asarray(rng.uniform(size=(3, *module.clip_shape)), jnp.float32)
    gradient = jax.jit(jax.grad(lambda audio: jnp.sum(weight * module(audio))))(clips)
    actual = np.sum(np.asarray(gradient * clips, np.float64), axis=1)
    np.testing.assert_allclose(actual, 20 / np.log(10) * np.sum(weight, axis=(1, 2)), rtol=1e-4)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("name", ["mel_256x96", "mel_120x128"])
def test_gradient_is_finite_for_silence_too(name):
    module = LogMelFrontend(name)
    gradient = jax.jit(jax.grad(lambda audio: jnp.sum(module(audio))))(jnp.asarray(_clips(module)))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[:4]).max(axis=1).min() > 0


def test_gradient_of_the_spectra_is_that_of_rfft():
    rng = np.random.default_rng(2)
    frames = jnp.asarray(rng.normal(size=(2, 3, 16)), jnp.float32)
    g = jnp.asarray(rng.normal(size=(2, 3, 9)) + 1j * rng.normal(size=(2, 3, 9)), jnp.complex64)
    (spectra, pull), (expected, expected_pull) = jax.vjp(frontend._rfft, frames), jax.vjp(jnp.fft.rfft, frames)
    np.testing.assert_allclose(spectra, expected, atol=1e-5)
    np.testing.assert_allclose(pull(g)[0], expected_pull(g)[0], atol=1e-5)


def test_nothing_is_trained_or_stored():
    module = LogMelFrontend("mel_1360x96")
    assert jax.tree.leaves(nnx.state(module)) == []
    assert (module.sample_rate, module.samples, module.clip_shape) == (12_000, 348_000, (1360, 96))


@pytest.mark.usefixtures("form")
def test_can_be_exported_for_any_number_of_clips():
    module = LogMelFrontend("mel_256x96")
    (clips,) = jax.export.symbolic_shape("clips")
    audio = jax.ShapeDtypeStruct((clips, module.samples), jnp.int16)
    exported = jax.export.export(jax.jit(module.__call__))(audio)
    batch = np.rint(_clips(module, 0.0) * 32767).astype(np.int16)
    np.testing.assert_allclose(exported.call(batch), module(jnp.asarray(batch)), rtol=0, atol=1e-4)


def test_errors():
    module = LogMelFrontend("mel_256x96")
    with pytest.raises(UserError, match=r"mel_256x96 needs 65280 samples .* the clips have 65279"):
        module(jnp.zeros((1, 65279)))
    with pytest.raises(UserError, match="audio of type int32"):
        module(jnp.zeros((1, 65280), jnp.int32))
    with pytest.raises(UserError, match="Unknown representation 'mel'"):
        LogMelFrontend("mel")
    for name in ("features_518", "audio_12000"):
        with pytest.raises(UserError, match=f"{name} is no spectrogram"):
            LogMelFrontend(name)
    with pytest.raises(UserError, match=r"which was resampled with soxr HQ: prepare mel_1360x96_librosa08 itself"):
        LogMelFrontend("mel_1360x96_librosa08")


def test_frontend_for_stored_audio():
    assert frontend_for("mel_640x128", "audio_22050").clip_shape == (640, 128)
    for name in NAMES:  # stored audio is long enough for each
        module = LogMelFrontend(name)
        stored = get_representation(f"audio_{module.sample_rate}")
        assert frontend_for(name, stored.name).samples == module.samples <= stored.samples
    with pytest.raises(UserError, match=r"at 12000 Hz, not at the 22050 Hz of audio_22050; prepare .* as audio_12000"):
        frontend_for("mel_1360x96", "audio_22050")
    with pytest.raises(UserError, match=r"mel_1360x96 is not audio, .* as audio_12000"):
        frontend_for("mel_1360x96", "mel_1360x96")
    with pytest.raises(UserError, match="Unknown representation"):
        frontend_for("mel_1360x96", "wav")
