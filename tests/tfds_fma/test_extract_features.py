import csv
import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import soundfile
from feature_reference import assert_equal_by_column, reference
from fma_trees import clip_path, write_table

from tfds_fma import UserError
from tfds_fma.clips.feature_extraction import extract, statistics
from tfds_fma.errors import ClipError
from tfds_fma.extract_features import _load_mono, extract_folder, extract_tracks, main
from tfds_fma.representations.feature_names import COLUMNS, GROUPS, STATISTICS, columns_of
from tfds_fma.source.feature_table import read_features

RATE = 44_100


def music(rate: int = RATE, seconds: float = 3.0, tuning: float = 0.27) -> np.ndarray:
    """Decaying chords above a bass, out of tune by `tuning` semitones, with hiss and a beat."""
    rng = np.random.default_rng(0)
    time_s = np.arange(int(rate * seconds)) / rate
    audio = 0.003 * rng.normal(size=len(time_s))
    for start in np.arange(0, seconds, 0.5):
        for note in [33, *rng.choice([57, 60, 64, 67, 72, 76], 3, replace=False)]:
            hertz = 440 * 2 ** ((note - 69 + tuning) / 12)
            age = np.maximum(time_s - start, 0)
            for partial in range(1, 6):
                audio += (age > 0) * np.exp(-5 * age) * np.sin(2 * np.pi * partial * hertz * age) / partial**1.5 / 8
        audio += (time_s > start) * np.exp(-90 * np.abs(time_s - start)) * rng.normal(size=len(time_s)) / 4
    return audio.astype(np.float32)


# What librosa 0.5.0, with which FMA made its table, computes of `music()`: the statistics of the last dimension of
# each feature, in the order of STATISTICS.
OF_LIBROSA_0_5 = {
    "chroma_cens": [-0.364821, 0.354898, 0.163914, 0.185596, 0.00472101, -0.226263, 0.0733511],
    "chroma_cqt": [1.44408, 0.956819, 0.327962, 0.281468, 0.13617, 1.03059, 0.145574],
    "chroma_stft": [5.62422, 1.0, 0.34577, 0.369945, 0.150323, 0.463945, 0.105913],
    "mfcc": [-1.18192, 8.45057, -3.28327, 0.657525, -21.5734, -0.661449, 8.96748],
    "rmse": [-0.0241067, 7.2513, 2.2079, 1.68348, 0.455233, 0.940228, 1.52444],
    "spectral_bandwidth": [-1.25908, 3601.32, 2812.75, 2844.46, 1858.2, -0.197749, 503.724],
    "spectral_centroid": [1.24642, 4695.56, 1919.72, 1690.41, 795.786, 1.24986, 934.364],
    "spectral_contrast": [4.96546, 19.9288, 13.5271, 13.4017, 11.2061, 1.03641, 1.02786],
    "spectral_rolloff": [-1.41804, 9140.84, 4559.18, 4791.14, 796.729, -0.029426, 2684.84],
    "tonnetz": [-0.00827002, 0.0811225, 0.041907, 0.0419024, 0.00854165, 0.378086, 0.0148325],
    "zcr": [3.53803, 0.155273, 0.0460775, 0.0366211, 0.0209961, 1.99731, 0.0272569],
}


@pytest.mark.parametrize("group", OF_LIBROSA_0_5)
def test_features_are_those_of_the_librosa_that_fma_used(group):
    ours = extract(music(), RATE, [group]).reshape(len(STATISTICS), -1)[:, -1]
    if group in ("chroma_cens", "chroma_cqt", "tonnetz"):  # today's constant-Q transform has other filters
        np.testing.assert_allclose(ours[2:4], OF_LIBROSA_0_5[group][2:4], atol=0.012)
    else:
        np.testing.assert_allclose(ours, OF_LIBROSA_0_5[group], rtol=2e-5)


@pytest.mark.parametrize("rate", [44_100, 22_050, 12_000, 96_000])
def test_every_column_is_that_of_librosa_and_scipy(rate):
    samples = music(rate)
    assert_equal_by_column(extract(samples, rate), reference(samples, rate))


def test_every_column_of_a_demo_clip(demo_tree):
    samples, rate = _load_mono(sorted(demo_tree.glob("fma_medium/*/*.mp3"))[3].read_bytes())
    assert_equal_by_column(extract(samples, rate), reference(samples, rate))


def test_tuning_is_estimated_and_matters(monkeypatch):
    import librosa

    assert librosa.estimate_tuning(y=music(tuning=0.27), sr=RATE) == pytest.approx(0.27, abs=0.03)
    means = STATISTICS.index("mean")
    for group in ("chroma_cqt", "chroma_cens", "chroma_stft"):
        in_tune, out_of_tune = (extract(music(tuning=by), RATE, [group]).reshape(7, 12)[means] for by in (0, 0.27))
        monkeypatch.setattr("librosa.pitch_tuning", lambda *args, **kwargs: 0.0)
        not_tuned = extract(music(tuning=0.27), RATE, [group]).reshape(7, 12)[means]
        monkeypatch.undo()
        assert np.abs(not_tuned - in_tune).mean() > 1.5 * np.abs(out_of_tune - in_tune).mean()


def test_a_long_track_is_computed_in_blocks(monkeypatch):
    samples = music(seconds=7)
    whole = extract(samples, RATE)
    monkeypatch.setattr("tfds_fma.clips.feature_extraction._KEPT_SAMPLES", 0)
    np.testing.assert_array_equal(extract(samples, RATE), whole)
    monkeypatch.setattr("tfds_fma.clips.feature_extraction._BLOCK_FRAMES", 100)
    assert_equal_by_column(extract(samples, RATE), whole)


@pytest.mark.parametrize(
    "groups", [[group] for group in GROUPS] + [["zcr", "chroma_cens"], ["mfcc", "spectral_contrast"]]
)
def test_some_features_are_the_same_alone(groups):
    samples = music(seconds=1)
    assert_equal = np.testing.assert_array_equal
    assert_equal(extract(samples, RATE, groups), extract(samples, RATE)[columns_of(groups)])


def test_only_what_is_needed_is_computed(monkeypatch):
    monkeypatch.setattr("librosa.cqt", lambda *args, **kwargs: pytest.fail("the constant-Q transform is not needed"))
    extract(music(seconds=1), RATE, ["mfcc", "chroma_stft", "zcr"])
    monkeypatch.setattr("librosa.stft", lambda *args, **kwargs: pytest.fail("the STFT is not needed"))
    assert extract(music(seconds=1), RATE, ["zcr"]).shape == (7,)
    with pytest.raises(UserError, match="Unknown features 'loudness'"):
        extract(music(seconds=1), RATE, ["loudness"])


def test_silence_has_the_values_of_fma():
    values = dict(zip(COLUMNS, extract(np.zeros(RATE, np.float32), RATE), strict=True))
    assert all(np.isfinite(value) for value in values.values())
    assert {value for column, value in values.items() if column[1] == "skew"} == {0}
    assert {value for column, value in values.items() if column[1] == "kurtosis"} == {-3}
    assert values["mfcc", "mean", "01"] == pytest.approx(-100 * 128**0.5)  # the floor of -100 dB in 128 bands
    assert values["zcr", "max", "01"] == values["chroma_stft", "max", "07"] == 0


def test_statistics_of_constants_and_of_noise():
    import scipy.stats

    noise = np.random.default_rng(0).normal(size=1000)
    values = np.stack([np.full(1000, 0.1), np.zeros(1000), noise, 1e6 + noise, 1e-20 * noise])
    kurtosis, largest, mean, median, smallest, skew, std = statistics(values)
    assert kurtosis[:2].tolist() == [-3, -3]
    assert skew[:2].tolist() == [0, 0]
    np.testing.assert_allclose(kurtosis[2:], scipy.stats.kurtosis(values[2:], axis=1), rtol=1e-6)
    np.testing.assert_allclose(skew[2:], scipy.stats.skew(values[2:], axis=1), rtol=1e-6)
    np.testing.assert_allclose(std, values.std(axis=1), rtol=1e-6, atol=1e-15)
    for ours, function in ((largest, np.max), (mean, np.mean), (median, np.median), (smallest, np.min)):
        np.testing.assert_allclose(ours, function(values, axis=1), rtol=1e-6)


@pytest.mark.parametrize(
    ("samples", "rate", "reason", "detail"),
    [
        (np.zeros(0, np.float32), RATE, "short", "0 samples of the 2048"),
        (np.ones(1, np.float32), RATE, "short", "1 samples of the 2048"),
        (np.ones(2047, np.float32), RATE, "short", "2047 samples"),
        (np.full(5000, np.nan, np.float32), RATE, "undecodable", "not finite"),
        (np.zeros(8000, np.float32), 8000, "low-rate", "8000 Hz of the 8500 Hz that chroma features need"),
    ],
)
def test_audio_that_cannot_be_used(samples, rate, reason, detail):
    with pytest.raises(ClipError, match=detail) as caught:
        extract(samples, rate)
    assert caught.value.reason == reason


@pytest.mark.parametrize("rate", [8500, 9000, 192_000])
def test_odd_rates_and_lengths(rate):
    for samples in (music(rate, 2048 / rate), music(rate, 2049 / rate), np.eye(1, 4000, 2000, dtype=np.float32)[0]):
        assert np.isfinite(extract(samples, rate)).all()


def test_telephone_audio_has_the_other_features():
    assert np.isfinite(extract(music(8000), 8000, ["mfcc", "chroma_stft", "zcr"])).all()


def in_this_process(monkeypatch) -> None:
    """Computes rows here: starting workers takes seconds."""
    monkeypatch.setattr("tfds_fma.extract_features.ordered_map", lambda function, items, workers: map(function, items))
    monkeypatch.setattr("tfds_fma.extract_features._use_one_thread", lambda: None)


def make_source(folder, clips: dict[int, bytes], **columns):
    write_table(folder, [{"track_id": number} | columns for number in clips])
    for number, data in clips.items():
        if data is not None:
            clip_path(folder, number).write_bytes(data)
    return folder


def test_tracks_of_fma(tmp_path, mp3, demo_tree, capsys, monkeypatch):
    second = sorted(demo_tree.glob("fma_medium/*/*.mp3"))[1].read_bytes()
    source = make_source(tmp_path / "fma", {9: second, 2: mp3, 3: b"", 5: b"no audio", 7: None})
    assert main(["--source", str(source), "--subset", "small", "--workers", "2"]) == 0
    path = source / "fma_metadata" / "features.csv"
    table = read_features(source)
    assert table.track_id.tolist() == [2, 3, 5, 7, 9]
    assert table.incomplete().tolist() == [False, True, True, True, False]
    assert path.read_text().splitlines()[5] == "3" + 518 * ","
    np.testing.assert_allclose(table.values[4], extract(*_load_mono(second)), rtol=1e-5, atol=1e-6)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}: 5 rows, 3 of them without features: 1 empty, 1 undecodable, 1 missing"
    assert lines[1] == "  empty: fma_small/000/000003.mp3: the file has no bytes"
    assert lines[3] == "  missing: fma_small/000/000007.mp3: no such file"
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".lock", "features.csv", "tracks.csv"]
    # A table that is there may be FMA's own.
    path.write_text("mine")
    assert main(["--source", str(source), "--subset", "small"]) == 1
    assert path.read_text() == "mine"
    assert f"error: {path} exists. Replace it with --overwrite" in capsys.readouterr().err
    in_this_process(monkeypatch)
    extract_tracks(source, "small", progress=False, overwrite=True, log=lambda line: None)
    np.testing.assert_allclose(read_features(source).values, table.values, rtol=1e-4, atol=1e-5)


def test_clips_in_zip_files_and_the_next_copy_of_a_bad_one(tmp_path, mp3, monkeypatch):
    in_this_process(monkeypatch)
    source = make_source(tmp_path / "fma", {2: b"no audio", 3: mp3})
    with zipfile.ZipFile(source / "fma_medium.zip", "w") as archive:
        archive.writestr("fma_medium/000/000002.mp3", mp3)
    extract_tracks(source, "small", tmp_path / "t.csv", workers=1, progress=False, log=lambda line: None)
    table = read_features(tmp_path / "t.csv")
    np.testing.assert_array_equal(table.values[0], table.values[1])
    assert not table.incomplete().any()


def test_own_music(tmp_path, mp3, capsys, monkeypatch):
    in_this_process(monkeypatch)
    music_folder = tmp_path / "music"
    (music_folder / "a, b").mkdir(parents=True)
    left, right = music(seconds=1), music(seconds=1, tuning=-0.2)
    soundfile.write(music_folder / "a, b" / 'say "hi".wav', np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    soundfile.write(music_folder / "ü.flac", left, RATE)
    soundfile.write(music_folder / "Z.OGG", left, RATE)
    soundfile.write(music_folder / "telephone.wav", music(8000), 8000)
    (music_folder / "m.mp3").write_bytes(mp3)
    (music_folder / "._m.mp3").write_bytes(b"")
    (music_folder / "cover.jpg").write_bytes(b"")
    out = tmp_path / "results" / "music.csv"
    assert main(["--audio", str(music_folder), "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{music_folder}: 1 files are not looked at (1 .jpg)"
    assert lines[1] == f"{out}: 5 rows, 1 of them without features: 1 low-rate"
    with out.open(newline="", encoding="utf-8") as file:
        header = [next(file) for _ in range(4)]
        rows = list(csv.reader(file))
    assert header[3] == "path" + 518 * "," + "\n"
    assert [row[0] for row in rows] == ["Z.OGG", 'a, b/say "hi".wav', "m.mp3", "telephone.wav", "ü.flac"]
    np.testing.assert_allclose(
        np.array(rows[1][1:], np.float32), extract((left + right) / 2, RATE), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(UserError, match="was made with --audio"):
        read_features(out)


def test_nothing_to_do(tmp_path, monkeypatch):
    in_this_process(monkeypatch)
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        extract_folder(tmp_path / "nowhere", tmp_path / "t.csv")
    with pytest.raises(UserError, match=r"There is no audio in .*\.mp3, "):
        extract_folder(tmp_path, tmp_path / "t.csv")
    source = make_source(tmp_path / "fma", {2: b"", 3: b"x"})
    with pytest.raises(
        UserError, match=r"No features were computed: 1 empty, 1 undecodable; the first one: fma_small/"
    ):
        extract_tracks(source, "small", progress=False)
    assert sorted(entry.name for entry in (source / "fma_metadata").iterdir()) == [".lock", "tracks.csv"]
    with pytest.raises(UserError, match="workers is 0"):
        extract_tracks(source, "small", workers=0)
    for arguments in (["--source", "x"], ["--audio", "x"], [], ["--audio", "x", "--source", "y"]):
        with pytest.raises(SystemExit):
            main(arguments)


def test_rows_of_another_run_are_not_taken(tmp_path, mp3, monkeypatch):
    in_this_process(monkeypatch)
    source = make_source(tmp_path / "fma", {2: mp3})
    partial = source / "fma_metadata" / ".features.csv.partial"
    partial.write_text(json.dumps({"version": 1, "librosa": "0.5.0"}) + "\n")
    with pytest.raises(UserError, match=r"\.features\.csv\.partial is of an interrupted run .* or delete the file"):
        extract_tracks(source, "small", workers=1, progress=False)
    partial.write_text('{"version": 1, "libr')  # interrupted at once
    extract_tracks(source, "small", workers=1, progress=False)
    assert not partial.exists()


@pytest.mark.parametrize(("lost", "done"), [(0, 3), (1, 2), (20, 2), (5000, 2), ("a row and more", 1)])
def test_an_interrupted_run_continues(tmp_path, mp3, monkeypatch, lost, done):
    """With Ctrl-C after three of five tracks; some bytes of the last row are lost, too."""
    source = make_source(tmp_path / "fma", {2: mp3, 3: b"", 5: mp3, 8: b"x", 9: mp3})
    whole, resumed, partial = (tmp_path / name for name in ("whole.csv", "resumed.csv", ".resumed.csv.partial"))
    in_this_process(monkeypatch)
    extract_tracks(source, "small", whole, progress=False, log=lambda line: None)

    def interrupted(function, items, workers):
        yield from map(function, items[:3])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tfds_fma.extract_features.ordered_map", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract_tracks(source, "small", resumed, progress=False)
    assert not resumed.exists()
    data = partial.read_bytes()
    count = lost if isinstance(lost, int) else len(data.splitlines()[-1]) + 10
    partial.write_bytes(data[: len(data) - count])
    lines: list[str] = []
    extract_tracks(source, "small", resumed, progress=False, log=lines.append)
    assert lines[0] == f"{resumed}: {done} of 5 rows are there from an interrupted run"
    assert lines[1] == f"{resumed}: 5 rows, 2 of them without features: 1 empty, 1 undecodable"
    assert resumed.read_bytes() == whole.read_bytes()
    assert not partial.exists()


@pytest.mark.slow
def test_a_killed_run_continues(demo_tree, tmp_path):
    """Killed with SIGKILL, its last line cut off: what comes out in the end is the same, byte for byte."""
    source = tmp_path / "fma"
    shutil.copytree(demo_tree, source)
    whole, resumed = tmp_path / "whole.csv", tmp_path / "resumed.csv"
    command = [sys.executable, "-m", "tfds_fma.extract_features", "--source", str(source), "--subset", "small"]
    partial = tmp_path / ".resumed.csv.partial"
    process = subprocess.Popen([*command, "--out", str(resumed), "--workers", "1"], start_new_session=True)
    while process.poll() is None and (not partial.exists() or partial.read_bytes().count(b"\n") < 5):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not resumed.exists()
    left = partial.read_bytes().splitlines(keepends=True)
    assert 5 <= len(left) < 49
    partial.write_bytes(b"".join(left[:-1]) + left[-1][:-20])
    lines: list[str] = []
    extract_tracks(source, "small", resumed, workers=2, progress=False, log=lines.append)
    assert lines[0] == f"{resumed}: {len(left) - 2} of 48 rows are there from an interrupted run"
    extract_tracks(source, "small", whole, workers=2, progress=False)
    assert resumed.read_bytes() == whole.read_bytes()


def test_help_is_quick():
    heavy = ("tensorflow_datasets", "librosa", "numba", "scipy", "soundfile", "pyarrow", "jax")
    check = (
        "from tfds_fma import extract_features\ntry: extract_features.main(['--help'])\nexcept SystemExit: pass\n"
        f"import sys; print('loaded', [name for name in {heavy} if name in sys.modules])"
    )
    assert "loaded []" in subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout
