"""preprocessing.json: what it says is enough to make the clips again, or it says that nobody can."""

import librosa
import numpy as np
import pytest
from helpers import untrained

from mgc_jax.export.preprocessing import describe
from tfds_fma.representations.feature_names import COLUMNS
from tfds_fma.representations.registry import get_representation

MLP = {"name": "mlp", "hidden": (4,)}


def described(shape, corpus="fma_small", resampler="soxr HQ, soxr 1.1.0", **changes):
    return describe(untrained(MLP, "mean", shape, corpus=corpus, resampler=resampler, **changes).meta)


@pytest.mark.parametrize("name", ["mel_256x96", "mel_120x128"])
def test_librosa_makes_the_spectrogram_from_what_it_says(name):
    made = get_representation(name)
    given = described(made.shape, data={"representation": name})
    assert given["kind"] == "log_mel"
    audio, spectrogram = given["audio"], given["spectrogram"]
    assert (spectrogram["window"], spectrogram["padding"]) == ("periodic Hann", "centred frames, reflect")
    assert (spectrogram["mel_scale"], spectrogram["mel_norm"]) == ("Slaney", "Slaney (unit area)")
    clip = 0.1 * np.random.default_rng(0).normal(size=audio["samples_at_most"]).astype(np.float32)
    power = librosa.feature.melspectrogram(
        y=clip, sr=audio["sample_rate"], n_fft=spectrogram["n_fft"], hop_length=spectrogram["hop"], window="hann",
        center=True, pad_mode="reflect", power=2.0, n_mels=spectrogram["n_mels"], fmin=spectrogram["lowest_hz"],
        fmax=spectrogram["highest_hz"], htk=False, norm="slaney",
    )  # fmt: skip
    reference = spectrogram["reference"] if spectrogram["reference"] == 1.0 else np.max
    decibels = librosa.power_to_db(
        power, ref=reference, amin=spectrogram["power_floor"], top_db=spectrogram["range_below_maximum_db"]
    )
    scale = np.log(10) / 10 if spectrogram["logarithm"].startswith("natural") else 1
    expected = made.compute(clip)
    assert expected.dtype == spectrogram["stored_as"]
    np.testing.assert_allclose(scale * decibels.T[: spectrogram["frames"]], expected, atol=0.04)  # float16


def test_librosa_makes_the_spectrogram_of_feng_from_what_it_says():
    made = get_representation("stft_128x513")
    given = described(made.shape, "own_gtzan", data={"representation": made.name})
    assert (given["kind"], given["clip"]["axes"]) == ("log_stft", "frame, frequency bin (lowest first)")
    spectrogram = given["spectrogram"]
    assert "n_mels" not in spectrogram
    clip = 0.1 * np.random.default_rng(0).normal(size=given["audio"]["samples_at_most"]).astype(np.float32)
    spectrum = librosa.stft(clip, n_fft=spectrogram["n_fft"], hop_length=spectrogram["hop"], pad_mode="reflect")
    assert spectrum.shape[0] == spectrogram["bins"]
    decibels = librosa.power_to_db(
        np.abs(spectrum) ** 2, ref=spectrogram["reference"], amin=spectrogram["power_floor"],
        top_db=spectrogram["range_below_maximum_db"],
    )  # fmt: skip
    np.testing.assert_allclose(decibels.T[: spectrogram["frames"]], made.compute(clip), atol=0.04)


def test_features_are_named_in_their_order():
    given = described((140,), resampler="", data={"representation": "features_518", "features": "mfcc"})
    assert given["kind"] == "features"
    assert given["features"]["names"] == ["/".join(column) for column in COLUMNS if column[0] == "mfcc"]
    given = described((518,), resampler="", data={"representation": "features_518"})
    assert given["features"]["names"] == ["/".join(column) for column in COLUMNS]


def test_columns_of_a_table_are_named():
    given = described((2,), corpus="arrays", resampler="", data={"arrays": {"features": ("tempo", "energy")}})
    assert given["features"]["names"] == ["tempo", "energy"]


@pytest.mark.parametrize("corpus", ["arrays", "fma_small"])
def test_of_arrays_nothing_is_known(corpus):
    """Also of those that were prepared under the name of a representation: nothing resampled them."""
    given = described((256, 96), corpus=corpus, resampler="", data={"representation": "mel_256x96"})
    assert given["kind"] == "unknown"
    assert ("somebody's own" if corpus == "arrays" else "was not recorded") in given["why"]
    assert "spectrogram" not in given
    assert given["clip"] == {"shape": [256, 96], "axes": "frame, mel band (lowest first)", "dtype": "float32"}


def test_a_front_end_takes_audio():
    made = get_representation("mel_120x128")
    given = described(
        made.shape, stored_shape=(130_000,), model={"frontend": "mel_120x128"},
        data={"representation": "audio_22050_short"},
    )  # fmt: skip
    assert given["kind"] == "audio"
    assert given["clip"]["shape"] == [130_000]
    assert given["audio"]["sample_rate"] == 22_050
    assert given["spectrogram"]["name"] == "mel_120x128"


def test_what_is_inside_the_model_is_told():
    given = described((40, 12), augment={"crop_frames": 32})["inside_the_model"]
    assert given["crop"] == "the middle 32 frames"
    assert given["standardization"]["std"] == [1.3] * 12
    identity = {"mean": [0.0] * 12, "std": [1.0] * 12}
    assert described((40, 12), standardization=identity)["inside_the_model"]["standardization"] is None
