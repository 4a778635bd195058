"""FMA's features computed in the plain way: what those of `tfds_fma.extract_features` must equal."""

import numpy as np

from tfds_fma.representations.feature_names import COLUMNS, GROUPS, STATISTICS, columns_of


def reference(samples: np.ndarray, rate: int) -> np.ndarray:
    """FMA's features, with whole spectrograms, librosa's feature functions and SciPy's statistics: float [518]."""
    import librosa
    import scipy.stats
    from librosa import feature

    stft = np.abs(librosa.stft(samples, n_fft=2048, hop_length=512, pad_mode="reflect"))
    ratio = 2 ** (1 / 12)
    cqt = np.abs(
        librosa.cqt(
            samples,
            sr=rate,
            n_bins=84,
            tuning=librosa.estimate_tuning(S=stft, sr=rate),
            filter_scale=(ratio**2 - 1) / (ratio**2 + 1) / (ratio - 1),
            pad_mode="reflect",
        )
    )
    cens = feature.chroma_cens(
        C=cqt, bins_per_octave=12, smoothing_window=lambda size: scipy.signal.get_window("hann", size)
    )
    mel = feature.melspectrogram(S=stft**2, sr=rate)
    frames = {
        "chroma_cens": cens,
        "chroma_cqt": feature.chroma_cqt(C=cqt, bins_per_octave=12),
        "chroma_stft": feature.chroma_stft(S=stft**2),
        "mfcc": feature.mfcc(S=librosa.power_to_db(mel), n_mfcc=20),
        "rmse": np.sqrt(np.mean(stft.astype(float) ** 2, axis=0, keepdims=True)),
        "spectral_bandwidth": feature.spectral_bandwidth(S=stft),
        "spectral_centroid": feature.spectral_centroid(S=stft),
        "spectral_contrast": feature.spectral_contrast(S=stft),
        "spectral_rolloff": feature.spectral_rolloff(S=stft),
        "tonnetz": feature.tonnetz(chroma=cens),
        "zcr": feature.zero_crossing_rate(samples),
    }
    by_name = {
        "kurtosis": scipy.stats.kurtosis,
        "max": np.max,
        "mean": np.mean,
        "median": np.median,
        "min": np.min,
        "skew": scipy.stats.skew,
        "std": np.std,
    }
    table = {
        (group, statistic, f"{number:02d}"): value
        for group, values in frames.items()
        for statistic, function in by_name.items()
        for number, value in enumerate(function(values.astype(np.float64), axis=1), 1)
    }
    return np.array([table[column] for column in COLUMNS])


def assert_equal_by_column(ours: np.ndarray, theirs: np.ndarray) -> None:
    """To 1e-4, relative to the value or to the values of the same statistic of the same feature."""
    for group in GROUPS:
        positions = columns_of([group]).reshape(len(STATISTICS), -1)
        for statistic, of_statistic in zip(STATISTICS, positions, strict=True):
            scale = np.abs(theirs[of_statistic]).max()
            np.testing.assert_allclose(
                ours[of_statistic],
                theirs[of_statistic],
                rtol=1e-4,
                atol=1e-5 * scale + 1e-9,
                err_msg=f"{group} {statistic}",
            )
