"""Computes FMA's 518 features from audio: of FMA's tracks, or of one's own music.

    python -m tfds_fma.extract_features --source ~/fma --subset small
    python -m tfds_fma.extract_features --audio ~/music --out music.csv

The definition is that of FMA (features.py of mdeff/fma), which ran it with librosa 0.5.0 on the whole tracks. Some of
librosa's defaults have changed since, so this module sets them as they were:

* The signal is continued by reflection at both ends. librosa 0.10 and later put zeros there, which makes the first and
  the last frames outliers: minimum, skewness and kurtosis of MFCCs and contrast change most.
* The constant-Q transform has 12 bins per octave, and the chroma features are told so: their default is now 36, for
  which these 84 bins would be mixed up.
* Its filters are 3 % shorter than today's, and CENS smooths with a periodic window, not a symmetric one.
* ``rmse`` is the root of the mean of the squared STFT magnitudes, not scaled to the amplitude of the signal.

What uses the constant-Q transform (chroma_cqt, chroma_cens, tonnetz) still differs by some thousandths of the chroma,
because its filters are designed otherwise today; the rest equals librosa 0.5.0 to about 1e-5.

An interrupted run continues where it was: rows are appended to ``.NAME.partial`` beside the table NAME.
"""

import argparse
import collections
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from tfds_fma.errors import ClipError, FmaError, in_words
from tfds_fma.feature_table import format_row, write_rows
from tfds_fma.features import COLUMNS, GROUPS, STATISTICS, groups_of
from tfds_fma.labels import SUBSETS
from tfds_fma.locks import only_one
from tfds_fma.metadata import read_tracks
from tfds_fma.parallel import check_workers, ordered_map
from tfds_fma.prepare import run_command
from tfds_fma.sources import Container, find_containers

_N_FFT = 2048
_HOP = 512

# FMA did not pass the sample rate to the features of the magnitude spectrogram, so that librosa took its default.
# Their frequencies are shares of the true ones: half, for CD audio.
_ASSUMED_RATE = 22_050

_FROM_CQT = ("chroma_cens", "chroma_cqt", "tonnetz")
_FROM_SPECTRA = ("chroma_stft", "mfcc", "rmse", *(group for group in GROUPS if group.startswith("spectral_")))

_OCTAVES = 7
# The pass band of the highest filter ends at 4,127 Hz, or half a semitone higher if the music is tuned so.
_MIN_CQT_RATE = 8500

# librosa 0.5.0 had filters of Q sr / f samples with Q = 1 / (r - 1), r = 2^(1/12); since 0.10 they have
# (r^2 + 1) / (r^2 - 1) sr / f.
_SEMITONE = 2 ** (1 / 12)
_CQT_FILTER_SCALE = (_SEMITONE**2 - 1) / (_SEMITONE**2 + 1) / (_SEMITONE - 1)

# librosa's `piptrack` looks for pitches below this frequency in Hz.
_MAX_PITCH = 4000.0

# Edges in Hz of the bands of the spectral contrast, and the share of a band that counts as its peak or valley.
_CONTRAST_EDGES = (0, 200, 400, 800, 1600, 3200, 6400)
_CONTRAST_SHARE = 0.02

_ROLLOFF_SHARE = 0.85

# Spectra are computed and used up in blocks of frames: with all that is made of them, those of an hour would take many
# gigabytes. Those of up to five minutes are kept meanwhile (107 MB), which saves computing them twice or thrice.
_BLOCK_FRAMES = 256
_KEPT_SAMPLES = 300 * 44_100

# Samples per channel that are decoded at a time.
_BLOCK_SAMPLES = 1 << 20

# The usual endings of what libsndfile reads.
AUDIO_SUFFIXES = (".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".w64", ".wav")

# Tracks without features that are listed one by one at the end of a run.
_LISTED = 20

# Raise it when the numbers change: rows of different versions must not end up in one table.
_VERSION = 1


def extract(samples: np.ndarray, sample_rate: int, groups: Iterable[str] = tuple(GROUPS)) -> np.ndarray:
    """Computes FMA's features of one track.

    Where a value is the same in all frames, as in silence, the skewness is 0 and the kurtosis -3 (see `statistics`).

    Args:
      samples: mono float32 [sample], at its own rate: FMA did not resample.
      sample_rate: Hz.
      groups: which features (keys of `tfds_fma.features.GROUPS`); only what they need is computed.

    Returns:
      float32 [column], in the order of `tfds_fma.features.columns_of(groups)`.

    Raises:
      ClipError: if the audio is shorter than a window ("short"), not finite ("undecodable"), or its rate too low for
        the constant-Q transform ("low-rate").
      FmaError: if there is no such feature.
    """
    wanted = {group for name in groups for group in groups_of(name)}
    if len(samples) < _N_FFT:
        raise ClipError("short", f"{len(samples)} samples of the {_N_FFT} that a window needs")
    if not np.isfinite(samples).all():
        raise ClipError("undecodable", "the decoded audio is not finite")
    if sample_rate < _MIN_CQT_RATE and wanted.intersection(_FROM_CQT):
        raise ClipError("low-rate", f"{sample_rate} Hz of the {_MIN_CQT_RATE} Hz that chroma features need")
    with warnings.catch_warnings():
        # librosa warns of silence, of audio shorter than its filters, and of high rates: there, low mels have no bin.
        warnings.simplefilter("ignore", UserWarning)
        frames = _over_time(np.asarray(samples, np.float32), sample_rate, wanted)
    return np.concatenate([statistics(frames[group]).ravel() for group in GROUPS if group in wanted])


def statistics(values: np.ndarray) -> np.ndarray:
    """Computes the seven statistics over the frames.

    Skewness and (Fisher's) kurtosis are those of SciPy, biased; of a constant, they are 0 and -3 as in the SciPy of
    2017, with which FMA's table was made. Today's returns NaN.

    Args:
      values: float [dimension, frame].

    Returns:
      float32 [statistic, dimension], in the order of `tfds_fma.features.STATISTICS`.
    """
    values = values.astype(np.float64, copy=False)
    mean = values.mean(axis=1)
    deviation = values - mean[:, None]
    squared = np.square(deviation)
    second = squared.mean(axis=1)
    third, fourth = (squared * deviation).mean(axis=1), np.square(squared).mean(axis=1)
    constant = second <= np.square(1e-15 * mean)  # a mean is rounded, so the variance of a constant is not quite 0
    divisor = np.where(constant, 1.0, second)
    by_name = {
        "kurtosis": np.where(constant, 0.0, fourth / divisor**2) - 3.0,
        "max": values.max(axis=1),
        "mean": mean,
        "median": np.median(values, axis=1),
        "min": values.min(axis=1),
        "skew": np.where(constant, 0.0, third / divisor**1.5),
        "std": np.sqrt(second),
    }
    return np.stack([by_name[name] for name in STATISTICS]).astype(np.float32)


def _over_time(samples: np.ndarray, sample_rate: int, wanted: set[str]) -> dict[str, np.ndarray]:
    """Computes the wanted features in every frame: feature -> float [dimension, frame]."""
    frames = {"zcr": _zero_crossing_rate(samples)} if "zcr" in wanted else {}
    if wanted - {"zcr"}:
        spectra = _Spectra(samples)
        if wanted.intersection(_FROM_CQT):
            frames |= _constant_q_features(samples, sample_rate, _tuning(spectra, sample_rate, power=1))
        if wanted.intersection(_FROM_SPECTRA):
            frames |= _spectral_features(spectra, sample_rate, wanted)
    return frames


def _zero_crossing_rate(samples: np.ndarray) -> np.ndarray:
    """Counts the changes of sign per sample, float [1, frame].

    As librosa does: what is within 1e-10 of 0 is positive; both ends are continued by their last value.
    """
    negative = samples < -1e-10
    changes = np.pad(negative[1:] != negative[:-1], _N_FFT // 2)
    before = np.concatenate([[0], np.cumsum(changes)])
    starts = np.arange(0, len(samples) + 1, _HOP)
    return ((before[starts + _N_FFT - 1] - before[starts]) / _N_FFT)[None]


class _Spectra:
    """The STFT magnitudes of a track: iterates over blocks, float32 [frame, bin]."""

    def __init__(self, samples: np.ndarray):
        self._padded = np.pad(samples, _N_FFT // 2, mode="reflect")
        self._frames = 1 + len(samples) // _HOP
        self._kept = list(self._blocks()) if len(samples) <= _KEPT_SAMPLES else None

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self._kept) if self._kept is not None else self._blocks()

    def _blocks(self) -> Iterator[np.ndarray]:
        import librosa

        for first in range(0, self._frames, _BLOCK_FRAMES):
            last = min(first + _BLOCK_FRAMES, self._frames) - 1
            piece = self._padded[first * _HOP : last * _HOP + _N_FFT]
            yield np.abs(librosa.stft(piece, n_fft=_N_FFT, hop_length=_HOP, center=False)).T


def _tuning(spectra: _Spectra, rate: int, power: int) -> float:
    """Estimates by how much the music is tuned away from A = 440 Hz, in semitones.

    The same as ``librosa.estimate_tuning(S=magnitude**power, sr=rate)``, which looks for the pitches of all frames.
    Here it is shown only the bins that it looks at: those up to 4 kHz.
    """
    import librosa

    used = _N_FFT // 2
    while used % 2 == 0 and used // 2 * rate / _N_FFT >= _MAX_PITCH:
        used //= 2
    pitches, magnitudes = [], []
    for block in spectra:
        spectrum = (block**power).T
        peak = spectrum.max(axis=0)
        # As if the audio had been sampled at a lower rate: the same frequencies in the same bins.
        pitch, magnitude = librosa.piptrack(
            S=spectrum[: used + 1], sr=rate * 2 * used / _N_FFT, ref=lambda _, axis, peak=peak: peak
        )
        found = pitch > 0
        pitches.append(pitch[found])
        magnitudes.append(magnitude[found])
    pitch, magnitude = np.concatenate(pitches), np.concatenate(magnitudes)
    if not len(pitch):
        return 0.0
    return float(librosa.pitch_tuning(pitch[magnitude >= np.median(magnitude)]))


def _spectral_features(spectra: _Spectra, sample_rate: int, wanted: set[str]) -> dict[str, np.ndarray]:
    """Computes what depends on the STFT magnitudes: feature -> float [dimension, frame]."""
    import librosa

    chroma_filters = mel_filters = np.empty((0, 1 + _N_FFT // 2), np.float32)
    if "chroma_stft" in wanted:
        tuning = _tuning(spectra, _ASSUMED_RATE, power=2)
        chroma_filters = librosa.filters.chroma(sr=_ASSUMED_RATE, n_fft=_N_FFT, tuning=tuning)
    if "mfcc" in wanted:
        mel_filters = _mel_filters(sample_rate)
    blocks = [_spectral_block(block, chroma_filters, mel_filters, wanted) for block in spectra]
    frames = {name: np.concatenate([block[name] for block in blocks]).T for name in blocks[0]}
    if "chroma_stft" in wanted:
        frames["chroma_stft"] = librosa.util.normalize(frames["chroma_stft"], norm=np.inf, axis=0)
    if "mfcc" in wanted:
        frames["mfcc"] = librosa.feature.mfcc(S=librosa.power_to_db(frames["mfcc"]), n_mfcc=GROUPS["mfcc"])
    if "spectral_contrast" in wanted:
        # FMA passed magnitudes where librosa expects power: these decibels are half of the true ones.
        peaks, valleys = np.split(frames["spectral_contrast"], 2)
        frames["spectral_contrast"] = librosa.power_to_db(peaks) - librosa.power_to_db(valleys)
    return frames


@functools.cache
def _mel_filters(sample_rate: int) -> np.ndarray:
    """librosa's 128 mel filters, float32 [filter, bin]."""
    import librosa

    return librosa.filters.mel(sr=sample_rate, n_fft=_N_FFT)


def _spectral_block(
    magnitude: np.ndarray, chroma_filters: np.ndarray, mel_filters: np.ndarray, wanted: set[str]
) -> dict[str, np.ndarray]:
    """Computes what one frame determines.

    Args:
      magnitude: float32 [frame, bin].
      chroma_filters: float32 [chroma, bin].
      mel_filters: float32 [filter, bin].
      wanted: features.

    Returns:
      feature -> float [frame, dimension]; of chroma_stft the chroma before they are normalised, of mfcc the mel power,
      of spectral_contrast the peaks, then the valleys.
    """
    result = {}
    power = np.square(magnitude)
    frequency = np.fft.rfftfreq(_N_FFT, 1 / _ASSUMED_RATE)
    if "chroma_stft" in wanted:
        result["chroma_stft"] = power @ chroma_filters.T
    if "mfcc" in wanted:
        result["mfcc"] = power @ mel_filters.T
    if "rmse" in wanted:
        result["rmse"] = np.sqrt(power.mean(axis=1, keepdims=True))
    if "spectral_centroid" in wanted or "spectral_bandwidth" in wanted:
        weights = magnitude.astype(np.float64)
        total = weights.sum(axis=1, keepdims=True)
        weights /= np.where(total > 0, total, 1.0)
        result["spectral_centroid"] = weights @ frequency[:, None]
        squared = np.square(frequency - result["spectral_centroid"])
        result["spectral_bandwidth"] = np.sqrt(np.einsum("tf,tf->t", weights, squared))[:, None]
    if "spectral_rolloff" in wanted:
        below = np.cumsum(magnitude, axis=1)
        result["spectral_rolloff"] = frequency[(below >= _ROLLOFF_SHARE * below[:, -1:]).argmax(axis=1)][:, None]
    if "spectral_contrast" in wanted:
        result["spectral_contrast"] = _peaks_and_valleys(magnitude, frequency)
    return result


def _peaks_and_valleys(magnitude: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    """The means of the loudest and of the faintest bins of each octave band (Jiang et al., 2002).

    Args:
      magnitude: float32 [frame, bin].
      frequency: Hz, ascending [bin].

    Returns:
      float32 [frame, 2 bands]: the peaks of all bands, then the valleys.
    """
    peaks, valleys = [], []
    for low, high in zip(_CONTRAST_EDGES, (*_CONTRAST_EDGES[1:], None), strict=True):
        # librosa's bands begin one bin below their lower edge; all but the last end one bin before the upper one.
        first = max(int(np.searchsorted(frequency, low)) - 1, 0)
        last = len(frequency) if high is None else int(np.searchsorted(frequency, high, side="right")) - 1
        bins = last - first + (high is not None)
        count = max(round(_CONTRAST_SHARE * bins), 1)
        ordered = np.sort(magnitude[:, first:last], axis=1)
        peaks.append(ordered[:, -count:].mean(axis=1))
        valleys.append(ordered[:, :count].mean(axis=1))
    return np.stack(peaks + valleys, axis=1)


def _constant_q_features(samples: np.ndarray, sample_rate: int, tuning: float) -> dict[str, np.ndarray]:
    """Computes what depends on the constant-Q transform: feature -> float [dimension, frame]."""
    import librosa
    import scipy.signal

    magnitude = np.abs(
        librosa.cqt(
            samples,
            sr=sample_rate,
            hop_length=_HOP,
            n_bins=12 * _OCTAVES,
            bins_per_octave=12,
            tuning=tuning,
            filter_scale=_CQT_FILTER_SCALE,
            pad_mode="reflect",
        )
    )
    cens = librosa.feature.chroma_cens(
        C=magnitude, bins_per_octave=12, smoothing_window=functools.partial(scipy.signal.windows.hann, sym=False)
    )
    return {
        "chroma_cqt": librosa.feature.chroma_cqt(C=magnitude, bins_per_octave=12),
        "chroma_cens": cens,
        "tonnetz": librosa.feature.tonnetz(chroma=cens),
    }


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
      text: as in the file; without numbers if there are no features.
      reason: why there are no features, in one word; "" if there are.
      detail: one line that says more.
    """

    text: str
    reason: str = ""
    detail: str = ""


def extract_tracks(
    source: str | Path,
    subset: str,
    out: str | Path | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    log: Callable[[str], None] = print,
) -> Path:
    """Writes the feature table of a subset of FMA. Continues a run that was interrupted.

    A track without usable audio gets a row of empty cells, as in FMA's table.

    Args:
      source: folder that holds FMA's metadata and audio, as folders or zip files.
      subset: a name in `tfds_fma.labels.SUBSETS`.
      out: the table; by default ``source/fma_metadata/features.csv``.
      workers: processes; by default one per CPU core.
      progress: whether to show a progress bar.
      overwrite: whether to replace a table that is there.
      log: takes the lines for people.

    Returns:
      The path of the table.

    Raises:
      FmaError: if something is wrong with the arguments or the source, or no track could be used.
    """
    source = Path(source).expanduser()
    target = Path(out).expanduser() if out else source / "fma_metadata" / "features.csv"
    _check_target(target, overwrite)
    if not out and (source / "fma_metadata.zip").is_file():
        # It would be taken instead of FMA's own, which was computed from whole tracks.
        archive = source / "fma_metadata.zip"
        raise FmaError(f"{archive} holds FMA's own features.csv. Give another place for this one with --out FILE.")
    track_ids = sorted(track.track_id for track in read_tracks(source, subset))
    containers = find_containers(source, subset)
    run = _Run(
        index="track_id",
        items=track_ids,
        compute=functools.partial(_row_of_track, containers),
        origin=[container.identity for container in containers],
        state=lambda track_id: " ".join(container.state(track_id) for container in containers),
    )
    return _write_table(run, target, workers, progress, overwrite, log)


def extract_folder(
    folder: str | Path,
    out: str | Path,
    *,
    workers: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    log: Callable[[str], None] = print,
) -> Path:
    """Writes the feature table of all audio files below a folder, with their relative paths in place of track ids.

    Args:
      folder: the folder; files whose names begin with a dot are passed over.
      out: the table.
      workers: see `extract_tracks`, as for the other arguments.
      progress: whether to show a progress bar.
      overwrite: whether to replace a table that is there.
      log: takes the lines for people.

    Returns:
      The path of the table.

    Raises:
      FmaError: if there is no audio, or no file could be used.
    """
    folder, target = Path(folder).expanduser(), Path(out).expanduser()
    _check_target(target, overwrite)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise FmaError(f"{folder} {what}. Give the folder of your music.")
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    audio = sorted(path.relative_to(folder).as_posix() for path in files if path.suffix.lower() in AUDIO_SUFFIXES)
    if not audio:
        raise FmaError(f"There is no audio in {folder}: looked for files that end in {', '.join(AUDIO_SUFFIXES)}.")
    others = collections.Counter(path.suffix.lower() for path in files) - collections.Counter(
        Path(name).suffix.lower() for name in audio
    )
    if others:
        some = ", ".join(f"{count} {suffix or 'without ending'}" for suffix, count in others.most_common(5))
        log(f"{folder}: {others.total()} files are not looked at ({some})")
    run = _Run(
        index="path",
        items=audio,
        compute=functools.partial(_row_of_file, folder),
        origin=[str(folder.absolute())],
        state=lambda name: f"{(folder / name).stat().st_size} {(folder / name).stat().st_mtime_ns}",
    )
    return _write_table(run, target, workers, progress, overwrite, log)


@dataclass(frozen=True)
class _Run:
    """What a table is made of.

    Attributes:
      index: name of the first column.
      items: track ids or paths, in the order of the rows.
      compute: makes the row of an item, in a worker process.
      origin: where the audio is.
      state: item -> text that differs if its audio is another than before.
    """

    index: str
    items: Sequence[Any]
    compute: Callable[[Any], Row]
    origin: list[str]
    state: Callable[[Any], str]

    def stamp(self) -> str:
        """One line that tells whether rows computed earlier belong to this run."""
        states = [(item, self.state(item)) for item in self.items]
        items = hashlib.sha256("\n".join(map(repr, states)).encode()).hexdigest()
        # Another librosa may compute other numbers.
        librosa = importlib.metadata.version("librosa")
        return json.dumps({"version": _VERSION, "librosa": librosa, "origin": self.origin, "items": items}) + "\n"


def _check_target(target: Path, overwrite: bool) -> None:
    """Raises FmaError if the table is there and must not be replaced."""
    if target.is_dir():
        raise FmaError(f"{target} is a folder. Give the name of the file with --out.")
    if target.exists() and not overwrite:
        raise FmaError(f"{target} exists. Replace it with --overwrite, or choose another file with --out.")


def _write_table(
    run: _Run, target: Path, workers: int | None, progress: bool, overwrite: bool, log: Callable[[str], None]
) -> Path:
    """Computes the rows that are not there yet, then puts the table in its place."""
    from tqdm import tqdm

    check_workers(workers)
    partial = target.with_name(f".{target.name}.partial")
    with only_one(target.parent, log):
        _check_target(target, overwrite)  # another process may have made it meanwhile
        try:
            with partial.open("a+b") as file:
                done = _resume(file, run, partial)
                if done:
                    log(f"{target}: {done} of {len(run.items)} rows are there from an interrupted run")
                rows = ordered_map(run.compute, run.items[done:], workers)
                hidden = None if progress else True  # None: hidden where there is no terminal
                for row in tqdm(rows, "features", len(run.items), initial=done, unit=" tracks", disable=hidden):
                    file.write(json.dumps([row.text, row.reason, row.detail]).encode() + b"\n")
                    file.flush()
                failures = [row for row in _rows(file) if row.reason]
                if len(failures) < len(run.items):
                    write_rows(target, run.index, (row.text for row in _rows(file)))
            partial.unlink()
        except OSError as error:
            raise FmaError(f"{partial} cannot be written ({in_words(error)}). Choose another --out.") from error
    reasons = collections.Counter(row.reason for row in failures)
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    if len(failures) == len(run.items):
        raise FmaError(f"No features were computed: {counts}; the first one: {failures[0].detail}.")
    log(f"{target}: {len(run.items)} rows, {len(failures)} of them without features{f': {counts}' if counts else ''}")
    for row in failures[:_LISTED]:
        log(f"  {row.reason}: {row.detail}")
    if len(failures) > _LISTED:
        log(f"  and {len(failures) - _LISTED} more")
    return target


def _resume(file: IO[bytes], run: _Run, partial: Path) -> int:
    """Keeps the good rows that an earlier run left, returns their number, and leaves the file open at their end.

    Raises:
      FmaError: if the file belongs to another run.
    """
    file.seek(0)
    stamp = run.stamp().encode()
    first = file.readline()
    if first.endswith(b"\n") and first != stamp:
        raise FmaError(
            f"{partial} is of an interrupted run on other tracks, other audio or with another librosa. Finish that "
            "one with the same arguments, or delete the file."
        )
    if first != stamp:  # new, or interrupted at once
        file.truncate(0)
        file.write(stamp)
        return 0
    done, end = 0, file.tell()
    for line in file:
        try:
            Row(*json.loads(line))
        except (ValueError, TypeError):
            break
        if not line.endswith(b"\n"):
            break
        done, end = done + 1, end + len(line)
    file.truncate(end)  # what was cut off when the run was
    return done


def _rows(file: IO[bytes]) -> Iterator[Row]:
    """Reads the rows of a partial file."""
    file.seek(0)
    file.readline()  # the stamp
    for line in file:
        yield Row(*json.loads(line))


def _row_of_track(containers: tuple[Container, ...], track_id: int) -> Row:
    """Computes the row of a track of FMA from the first usable copy (runs in a worker process)."""
    failures = []
    for container in containers:
        try:
            return Row(format_row(str(track_id), _features(container.read(track_id))))
        except ClipError as error:
            failures.append((error.reason, f"{container.location(track_id)}: {error.detail}"))
    reason, detail = next((failure for failure in failures if failure[0] != "missing"), failures[0])
    return Row(_empty_row(str(track_id)), reason, detail)


def _row_of_file(folder: Path, name: str) -> Row:
    """Computes the row of an audio file (runs in a worker process)."""
    try:
        return Row(format_row(name, _features((folder / name).read_bytes())))
    except ClipError as error:
        return Row(_empty_row(name), error.reason, f"{name}: {error.detail}")
    except OSError as error:
        return Row(_empty_row(name), "unreadable", f"{name}: {in_words(error)}")


def _empty_row(index: str) -> str:
    return format_row(index, np.full(len(COLUMNS), np.nan))


def _features(data: bytes) -> np.ndarray:
    """Decodes an audio file and computes all its features."""
    _use_one_thread()
    return extract(*_load_mono(data))


@functools.cache
def _use_one_thread() -> None:
    """Keeps NumPy's BLAS to one thread: those of several workers fight over the cores."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)


def _load_mono(data: bytes) -> tuple[np.ndarray, int]:
    """Decodes an audio file at its own rate and mixes its channels.

    Returns:
      Mono float32 [sample], and the rate in Hz.

    Raises:
      ClipError: if it is empty or cannot be decoded.
    """
    import soundfile

    from tfds_fma.decode import decoder_errors_as_clip_errors

    if not data:
        raise ClipError("empty", "the file has no bytes")
    pieces = [np.empty(0, np.float32)]
    with decoder_errors_as_clip_errors(), soundfile.SoundFile(io.BytesIO(data)) as file:
        while len(block := file.read(_BLOCK_SAMPLES, dtype="float32", always_2d=True)):
            pieces.append(functools.reduce(np.add, block.T) / np.float32(block.shape[1]))
        return np.concatenate(pieces), file.samplerate


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tfds_fma.extract_features", description=__doc__.splitlines()[0])
    music = parser.add_mutually_exclusive_group(required=True)
    music.add_argument(
        "--source", metavar="DIR", help="folder with fma_metadata and FMA's audio, extracted or zipped; needs --subset"
    )
    music.add_argument("--audio", metavar="DIR", help="folder of any other music; needs --out")
    parser.add_argument("--subset", choices=SUBSETS)
    parser.add_argument("--out", metavar="FILE", help="the table; default: SOURCE/fma_metadata/features.csv")
    parser.add_argument(
        "--workers", type=int, metavar="N", help=f"processes; default: one per CPU core ({os.cpu_count()})"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a table that is there")
    args = parser.parse_args(argv)
    if args.source is not None and args.subset is None:
        parser.error("--source needs --subset")
    if args.audio is not None and args.out is None:
        parser.error("--audio needs --out")
    options = {"workers": args.workers, "overwrite": args.overwrite}
    if args.audio is not None:
        return run_command(lambda: extract_folder(args.audio, args.out, **options))
    return run_command(lambda: extract_tracks(args.source, args.subset, args.out, **options))


if __name__ == "__main__":
    sys.exit(main())
