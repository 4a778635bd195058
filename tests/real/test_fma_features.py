"""FMA's features on genuine data: an excerpt of features.csv, and eight clips (skipped where they are absent)."""

import numpy as np
import pytest
from feature_reference import assert_equal_by_column, reference

from tfds_fma import UserError
from tfds_fma.clips.feature_extraction import extract
from tfds_fma.extract_features import _load_mono
from tfds_fma.representations.feature_names import STATISTICS, groups_of
from tfds_fma.source.feature_table import read_features


@pytest.fixture(scope="module")
def excerpt(real_data):
    return real_data / "fma_medium_tables" / "features_mfcc_excerpt.csv"


@pytest.fixture(scope="module")
def clips(real_data) -> list[tuple[np.ndarray, int]]:
    paths = sorted((real_data / "fma_sample" / "fma_small").glob("*/*.mp3"))
    assert len(paths) == 8
    return [_load_mono(path.read_bytes()) for path in paths]


def test_the_excerpt_reads(excerpt):
    table = read_features(excerpt)
    assert table.values.shape == (1796, 140)
    assert {column[0] for column in table.columns} == {"mfcc"}
    assert table.incomplete().sum() == 9
    assert np.isnan(table.values[table.incomplete()]).all()
    np.testing.assert_array_equal(read_features(excerpt, groups_of("mfcc")).values, table.values)


def test_features_that_the_excerpt_lacks_are_named(excerpt):
    with pytest.raises(
        UserError, match=r"features_mfcc_excerpt\.csv has no columns of spectral_contrast; it has mfcc\."
    ):
        read_features(excerpt, groups_of("mfcc+spectral_contrast"))


def test_mfccs_of_the_clips_are_where_those_of_other_tracks_are(excerpt, clips):
    """FMA's own values of these eight tracks are missing from the excerpt, so compare with those of all its tracks."""
    table = read_features(excerpt)
    theirs = table.values[~table.incomplete()]
    ours = np.stack([extract(samples, rate, ["mfcc"]) for samples, rate in clips])
    low, high = np.percentile(theirs, [0.5, 99.5], axis=0)
    inside = ((low <= ours) & (ours <= high)).mean()
    typical = (ours.mean(axis=0).reshape(7, 20), np.median(theirs, axis=0).reshape(7, 20))
    correlation = {statistic: np.corrcoef(a, b)[0, 1] for statistic, a, b in zip(STATISTICS, *typical, strict=True)}
    print(f"{inside:.3f} between the percentiles; {correlation}")
    assert inside > 0.95
    assert min(correlation[statistic] for statistic in ("mean", "median", "min")) > 0.99
    assert min(correlation.values()) > 0.9


def test_every_column_of_a_clip_is_that_of_librosa_and_scipy(clips):
    assert_equal_by_column(extract(*clips[2]), reference(*clips[2]))
