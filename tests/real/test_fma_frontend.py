"""The log-mel front end of the models on the clips of the FMA sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgc_jax.data.frontend import frontend_for
from tfds_fma.clips.decode import decode
from tfds_fma.representations.registry import get_representation


@pytest.mark.parametrize(
    ("name", "audio_name"), [("mel_1360x96", "audio_12000"), ("mel_640x128", "audio_22050")], ids=["matt", "prcnn"]
)
def test_frontend_on_stored_audio_equals_librosa(name, audio_name, real_data):
    import librosa

    frontend, audio = frontend_for(name, audio_name), get_representation(audio_name)
    r = frontend.representation
    paths = sorted((real_data / "fma_sample").glob("fma_small/*/*.mp3"))
    stored = np.stack(
        [audio.compute(decode(path.read_bytes(), audio.sample_rate, audio.samples).samples) for path in paths]
    )
    assert stored.shape == (8, audio.samples)
    assert stored.dtype == np.int16
    ours = np.asarray(jax.jit(frontend.__call__)(jnp.asarray(stored)))
    relative = r.scale == "ln"
    errors = []
    for clip, spectrogram in zip(stored.astype(np.float32) / 32767, ours, strict=True):
        power = librosa.feature.melspectrogram(
            y=clip if relative else clip[: r.samples],
            sr=r.sample_rate,
            n_fft=r.n_fft,
            hop_length=r.hop,
            n_mels=r.n_mels,
            pad_mode="reflect",
        )
        theirs = librosa.power_to_db(power, ref=np.max if relative else 1.0).T[: r.shape[0]]
        decibels = spectrogram * (10 / np.log(10)) if relative else spectrogram
        assert decibels.shape == theirs.shape
        errors.append(np.abs(decibels - theirs).max())
    print(f"{name}: at most {max(errors):.1e} dB from librosa")
    assert max(errors) < 1e-3
