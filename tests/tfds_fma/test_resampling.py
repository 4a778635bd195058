"""The resampler is part of a representation: which one, and that the prepared dataset says so."""

import numpy as np
import pytest
import soxr
from fma_trees import clip_path, write_table

from tfds_fma.clips.resampling import resample
from tfds_fma.demo import demo_representation
from tfds_fma.preparation import prepare
from tfds_fma.reading import resampler_of
from tfds_fma.representations.base import KAISER_BEST, SOXR
from tfds_fma.representations.registry import get_representation
from tfds_fma.representations.spectrogram import log_mel

# What resampy 0.2.2 makes of an impulse: its middle and what follows, at 12,000 Hz.
IMPULSES = {
    44_100: [0.257848630, 0.0146742736, -0.0144671720, 0.0140165169, -0.0133470236],
    8_000: [0.947593717, 0.436820826, -0.175249524, -0.0511071916, 0.117475396],
}


@pytest.mark.parametrize("rate", IMPULSES)
def test_kaiser_best_is_that_of_resampy(rate):
    impulse = np.zeros(rate // 10, np.float32)
    impulse[rate // 20] = 1
    response = resample(impulse, rate, 12_000, KAISER_BEST)
    assert response.dtype == np.float32
    assert response.shape == (1200,)
    np.testing.assert_allclose(response[600:605], IMPULSES[rate], rtol=0, atol=1e-7)
    np.testing.assert_allclose(response[600:595:-1], IMPULSES[rate], rtol=0, atol=1e-7)
    assert resample(impulse, 12_000, 12_000, KAISER_BEST) is impulse


@pytest.mark.parametrize("resampler", [SOXR, KAISER_BEST])
@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_a_tone_keeps_its_phase_and_height(resampler, rate):
    def tone(rate):
        return np.sin(2 * np.pi * 1000 * np.arange(rate // 2) / rate).astype(np.float32)

    resampled = resample(tone(rate), rate, 12_000, resampler)
    assert len(resampled) == 6000
    # resampy steps through its table in whole entries, 139 for 139.3 from 44,100 Hz: it makes that tone too loud.
    uneven = resampler == KAISER_BEST and rate in (22_050, 44_100)
    np.testing.assert_allclose(resampled[300:-300], tone(12_000)[300:-300], rtol=0, atol=2.5e-3 if uneven else 1e-4)


def test_resamplers_differ_in_the_top_bands_alone():
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * 44_100).astype(np.float32)
    ours, librosa08 = (
        log_mel(resample(noise, 44_100, 12_000, resampler), 12_000, 2048, 256, 96).mean(axis=0)
        for resampler in (SOXR, KAISER_BEST)
    )
    np.testing.assert_allclose(librosa08[:91], ours[:91], rtol=0, atol=0.2)
    assert (librosa08 - ours)[-5:].mean() == pytest.approx(-1.7, abs=0.2)


def test_the_representation_of_librosa_08_is_resampled_otherwise():
    today, librosa08 = (get_representation(name) for name in ("mel_1360x96", "mel_1360x96_librosa08"))
    assert (today.resampler, librosa08.resampler) == (SOXR, KAISER_BEST)
    assert KAISER_BEST in librosa08.description
    assert SOXR not in today.description
    assert get_representation(demo_representation(librosa08.name)).resampler == KAISER_BEST


def test_a_prepared_dataset_says_what_resampled_its_audio(dataset, own, mp3, tmp_path):
    version = f"soxr HQ, soxr {soxr.__version__} with libsoxr {soxr.__libsoxr_version__}"
    assert resampler_of(dataset) == version
    (own / "metadata.json").unlink()
    assert resampler_of(own) == "soxr HQ, version unknown"  # prepared by an earlier version
    write_table(tmp_path / "source", [{"track_id": 2}])
    clip_path(tmp_path / "source", 2).write_bytes(mp3)
    name = "mel_256x96_librosa08"
    made = prepare(tmp_path / "source", "small", name, tmp_path / "data", workers=1, progress=False)
    assert resampler_of(made) == "kaiser_best of resampy 0.2, own"
