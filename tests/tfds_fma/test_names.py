"""Titles and artists' names of a corpus."""

import numpy as np
import pytest

from mgc_jax.config.keys import default
from mgc_jax.data.names import track_names
from tfds_fma.reading import read_dataset
from tfds_fma.source.tracks import read_tracks
from tfds_fma.storage import layout


def test_prepared_fma_has_those_of_its_tracks(dataset):
    data = default().data
    data.corpus, data.data_dir, data.representation = "fma_small", str(layout.data_dir_of(dataset)), "mel_256x96"
    columns, _ = read_dataset(dataset)
    order = np.random.default_rng(0).permutation(len(columns["track_id"]))[:20]
    names = track_names(data, columns["track_id"][order])
    assert names.title.tolist() == columns["title"][order].tolist()
    assert names.artist_name.tolist() == columns["artist"][order].tolist()
    assert all(names.title)


def test_fmas_own_table_has_those_of_the_track_not_of_the_album(demo_tree):
    data = default().data
    data.corpus, data.arrays.table = "arrays", str(next(demo_tree.glob("**/tracks.csv")))
    tracks = {track.track_id: track for track in read_tracks(demo_tree, "medium")}
    ids = np.array(sorted(tracks))[::-1]
    names = track_names(data, ids)
    assert names.title.tolist() == [tracks[track].title for track in ids.tolist()]
    assert names.artist_name.tolist() == [tracks[track].artist for track in ids.tolist()]


@pytest.mark.parametrize("columns", ["", "title", "artist_name", "artist_name,title"])
def test_a_table_may_have_none(tmp_path, columns):
    words = columns.split(",") if columns else []
    rows = [",".join(["track_id,genre_top,split,artist_id,album_id", *words])]
    rows += [",".join([f"{track},Rock,train,1,1", *(f" {word} {track} " for word in words)]) for track in (7, 3)]
    (tmp_path / "tracks.csv").write_text("\n".join(rows))
    data = default().data
    data.corpus, data.arrays.table = "arrays", str(tmp_path / "tracks.csv")
    names = track_names(data, np.array([3, 7]))
    for word, values in (("title", names.title), ("artist_name", names.artist_name)):
        assert values.tolist() == ([f"{word} 3", f"{word} 7"] if word in words else ["", ""])
