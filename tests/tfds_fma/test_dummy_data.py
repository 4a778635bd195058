"""The builder on its dummy data, as TFDS's `DatasetBuilderTestCase` would test it (which needs TensorFlow)."""

import csv
from pathlib import Path

import numpy as np
import pytest

import tfds_fma
from tfds_fma.clips.make import Clip
from tfds_fma.clips.sources import fma_source
from tfds_fma.demo import make_dummy_data
from tfds_fma.fma_dataset_builder import Builder
from tfds_fma.preparation import prepare
from tfds_fma.reading import load
from tfds_fma.representations.feature_names import COLUMNS
from tfds_fma.representations.registry import REPRESENTATIONS
from tfds_fma.source.feature_table import read_features

PACKAGE = Path(tfds_fma.__file__).parent
DUMMY = PACKAGE / "dummy_data"

pytestmark = pytest.mark.skipif(not DUMMY.is_dir(), reason="the dummy data is not in installed wheels")


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_every_representation_can_be_computed(name):
    source = fma_source(DUMMY, "medium", name)
    clips = [source.make(track) for track in source.tracks]
    assert len(clips) == 6
    for clip in clips:
        assert isinstance(clip, Clip)
        assert not clip.padded
        assert clip.array.shape == REPRESENTATIONS[name].shape
        assert clip.array.dtype == np.dtype(REPRESENTATIONS[name].dtype)
        assert np.isfinite(clip.array).all()
        assert clip.array.astype(np.float32).std() > 0


@pytest.mark.parametrize("name", ["mel_640x128", "features_518"])
def test_the_whole_way(name, tmp_path):
    path = prepare(DUMMY, "medium", name, tmp_path, workers=2, progress=False, log=lambda line: None)
    splits = load(path)
    assert {split: len(source) for split, source in splits.items()} == {"train": 2, "validation": 2, "test": 2}
    ids = [example["track_id"] for source in splits.values() for example in source]
    assert len(set(ids)) == 6
    numbers = sorted(len(example["genres_all"]) for source in splits.values() for example in source)
    assert numbers == [1, 2, 2, 2, 2, 2]  # a top genre, and a sub-genre of all tracks but one


def test_it_is_what_the_generator_writes(tmp_path):
    made = make_dummy_data(tmp_path / "dummy")
    for table in ("tracks.csv", "genres.csv"):
        assert (made / "fma_metadata" / table).read_bytes() == (DUMMY / "fma_metadata" / table).read_bytes()
    assert {path.relative_to(made) for path in made.rglob("*.mp3")} == {
        path.relative_to(DUMMY) for path in DUMMY.rglob("*.mp3")
    }
    ours, stored = read_features(made), read_features(DUMMY)
    np.testing.assert_array_equal(ours.track_id, stored.track_id)
    means = [number for number, (_, statistic, _) in enumerate(COLUMNS) if statistic == "mean"]
    np.testing.assert_allclose(ours.values[:, means], stored.values[:, means], rtol=0.02, atol=0.02)


def test_the_folder_is_as_tfds_wants_it():
    assert {"README.md", "CITATIONS.bib", "TAGS.txt", "__init__.py", "fma_dataset_builder.py"} <= {
        path.name for path in PACKAGE.iterdir()
    }
    assert str(Builder.VERSION) in Builder.RELEASE_NOTES
    assert Builder.name == "fma"
    metadata = Builder.get_metadata()
    assert "Free Music Archive" in metadata.description
    assert "1612.01840" in metadata.citation
    assert "ml.task.audio-classification" in metadata.tags
    names = {config.name for config in Builder.BUILDER_CONFIGS}
    assert {"small-mel_640x128", "medium-mel_1360x96", "large-features_518", "full-audio_22050"} <= names
    with (DUMMY / "fma_metadata" / "tracks.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 3 + 6
