import collections
import json

import soundfile

from benchmarks import rehearsal
from tfds_fma.source.audio_files import find_containers
from tfds_fma.source.counts import clips_per_genre
from tfds_fma.source.feature_table import read_features
from tfds_fma.source.tracks import SPLITS, read_tracks


def test_the_real_size_has_the_published_counts():
    rows = rehearsal.plan(25_000)
    counts = collections.Counter((SPLITS[row["split"]], row["genre"]) for row in rows)
    official = clips_per_genre("medium")
    assert counts == {(split, genre): number for split in official for genre, number in official[split].items()}
    artists = {(row["artist"], row["split"]) for row in rows}
    assert len(artists) == len({artist for artist, _ in artists})  # none is in two splits
    assert len({row["track_id"] for row in rows}) == len(rows)


def test_the_tree_is_fmas(tmp_path):
    mp3 = rehearsal.synthesized(tmp_path / "mp3", 1)
    assert soundfile.info(mp3[0]).samplerate == 44_100
    assert 29.9 < soundfile.info(mp3[0]).duration < 30.2
    rehearsal.write_tree(tmp_path / "tree", 250, mp3)
    tracks = read_tracks(tmp_path / "tree", "medium")
    assert len(tracks) == len(rehearsal.plan(250))
    assert {track.genre for track in tracks} == set(clips_per_genre("medium")["train"])
    assert list(read_features(tmp_path / "tree").track_id) == sorted(track.track_id for track in tracks)
    (container,) = find_containers(tmp_path / "tree", "medium")
    assert all(container.state(track.track_id) for track in tracks)


def test_the_table_compares_the_rates_of_two_sizes(tmp_path):
    for tracks, seconds in ((100, 2.0), (1_000, 10.0)):
        folder = tmp_path / str(tracks)
        folder.mkdir()
        row = {
            "seconds": 3 * seconds,
            "cpu_seconds": seconds,
            "peak_mib": 300.0,
            "disk_mib": 0.2 * tracks,
            "work": tracks,
        }
        (folder / "rehearsal.json").write_text(json.dumps({"validate": row}))
    line = "| validate | 6.0 s, 2.0 s, 300 MiB, 20 MiB | 30.0 s, 10.0 s, 300 MiB, 200 MiB | 2.00 |"
    assert rehearsal.table(tmp_path, [100, 1_000]).splitlines()[-1] == line
