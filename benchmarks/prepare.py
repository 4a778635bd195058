"""How fast MP3 files become log-mel spectrograms, beside the plain librosa recipe, and how much memory that takes.

    python benchmarks/prepare.py --source DIR            # a folder with MP3 files, such as fma_small
    python benchmarks/prepare.py --source DIR --memory 500 2000

Per core: both recipes on all clips in turns, each in a process of its own. The figure is CPU time on one thread, the
ratio the median over the rounds. The librosa recipe is what tutorials and both papers have: `librosa.load(path, sr)`,
`melspectrogram`, `power_to_db`. The peer is given `pad_mode="reflect"`, so that the results can be compared; it costs
nothing.

On several cores: the way of `tfds_fma.prepare`, from the files to records on disk, with 1, 2, ... workers in turns.
Starting the workers is left out; the rate is that of the clips after the first ones.
"""

import argparse
import concurrent.futures
import functools
import itertools
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from tfds_fma.clips.decode import decode
from tfds_fma.clips.make import Clip, Reject
from tfds_fma.clips.sources import ClipSource
from tfds_fma.labels import genres_of
from tfds_fma.parallel import keep_freed_memory, ordered_map, usable_cores
from tfds_fma.representations.base import AudioRepresentation
from tfds_fma.representations.log_mel import LogMel, LogMelBelowPeak
from tfds_fma.representations.registry import get_representation
from tfds_fma.source.tracks import Track
from tfds_fma.storage.shards import Staging, plan_shards

REPRESENTATIONS = ("mel_1360x96", "mel_640x128")


def ours(path: Path, representation: AudioRepresentation) -> np.ndarray:
    with path.open("rb", buffering=0) as file:
        audio = decode(file, representation.sample_rate, representation.samples, at_most=representation.at_most)
    return representation.compute(audio.samples)


def plain_librosa(path: Path, representation: LogMel | LogMelBelowPeak) -> np.ndarray:
    import librosa

    audio, rate = librosa.load(path, sr=representation.sample_rate)
    relative = isinstance(representation, LogMelBelowPeak)
    if not relative:
        audio = librosa.util.fix_length(audio, size=representation.samples)
    power = librosa.feature.melspectrogram(
        y=audio,
        sr=rate,
        n_fft=representation.n_fft,
        hop_length=representation.hop,
        n_mels=representation.n_mels,
        pad_mode="reflect",
    )
    decibels = librosa.power_to_db(power, ref=np.max if relative else 1.0).T
    return decibels[: representation.shape[0]]


def difference(path: Path, representation: LogMel | LogMelBelowPeak) -> float:
    """Largest difference between both recipes in dB, before float16."""
    from tfds_fma.representations.spectrogram import log_mel

    theirs = plain_librosa(path, representation)
    if isinstance(representation, LogMelBelowPeak):
        return float(np.abs(ours(path, representation) * (10 / np.log(10)) - theirs).max())
    audio = decode(path.read_bytes(), representation.sample_rate, representation.samples).samples
    settings = (representation.sample_rate, representation.n_fft, representation.hop, representation.n_mels)
    return float(np.abs(log_mel(audio, *settings) - theirs).max())


def start_librosa() -> None:
    """Keeps the BLAS that librosa calls to the core that is measured."""
    threadpool_limits(1)


def start_ours() -> None:
    """As a worker of `tfds_fma.parallel` starts."""
    keep_freed_memory()


def cpu_seconds(recipe: Callable[[Path, Any], np.ndarray], paths: list[Path], representation: Any) -> float:
    """CPU seconds a clip."""
    start = time.process_time()
    for path in paths:
        recipe(path, representation)
    return (time.process_time() - start) / len(paths)


def per_core(paths: list[Path], representation: Any, rounds: int) -> tuple[float, float, float]:
    """Returns the CPU seconds a clip of ours and of librosa's, and the ratio: medians over the rounds.

    Each recipe has a process of its own, as in use, and they take turns: all clips with the one, then with the other.
    """
    context = multiprocessing.get_context("spawn")
    with (
        concurrent.futures.ProcessPoolExecutor(1, context, start_ours) as mine,
        concurrent.futures.ProcessPoolExecutor(1, context, start_librosa) as theirs,
    ):
        recipes = ((mine, ours), (theirs, plain_librosa))
        pairs = [
            [pool.submit(cpu_seconds, recipe, paths, representation).result() for pool, recipe in recipes]
            for _ in range(rounds + 1)
        ][1:]  # in the first: imports, tables, numba
    mine_s, theirs_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    return mine_s, theirs_s, statistics.median(b / a for a, b in pairs)


def clip_of(paths: list[Path], representation: AudioRepresentation, track: Track) -> Clip | Reject:
    return Clip(ours(paths[track.track_id % len(paths)], representation), padded=False)


def prepared_per_second(paths: list[Path], representation: AudioRepresentation, workers: int, clips: int) -> float:
    """Clips per second of wall time, from files to records on disk."""
    tracks = tuple(Track(number, "train", "Rock", 0, 0, "", "", 30.0) for number in range(clips))
    make = functools.partial(clip_of, paths, representation)
    source = ClipSource(tracks, genres_of("small"), representation, make, True, "benchmark")
    times = []

    def timed(made: Iterator[Clip | Reject]) -> Iterator[Clip | Reject]:
        for clip in made:
            times.append(time.perf_counter())
            yield clip

    with tempfile.TemporaryDirectory() as folder:
        staging = Staging(Path(folder), representation, source.genres)
        made = ordered_map(make, tracks, workers)
        for shard in plan_shards(source):
            staging.write(shard, timed(itertools.islice(made, len(shard.tracks))))
    first = 8 * workers  # as many as are under way at a time
    return (clips - first) / (times[-1] - times[first - 1])


def report_speed(paths: list[Path], workers: list[int], rounds: int, clips: int) -> str:
    """Prints the table; returns the line of figures."""
    print(f"{len(paths)} clips, {usable_cores()} cores; medians of {rounds} rounds")
    print(f"{'representation':15} {'librosa':>9} {'ours':>9} {'ratio':>6} {'worst difference':>17}   clips/s, ours")
    print(f"{'':15} {'CPU ms':>9} {'CPU ms':>9} {'':6} {'dB':>17}   " + "  ".join(f"{n} workers" for n in workers))
    figures = []
    for name in REPRESENTATIONS:
        representation: Any = get_representation(name)
        worst = max(difference(path, representation) for path in paths)
        mine, theirs, ratio = per_core(paths, representation, rounds)
        turns = [
            [prepared_per_second(paths, representation, n, clips * n // max(workers)) for n in workers]
            for _ in range(3)
        ]
        rates = [statistics.median(column) for column in zip(*turns, strict=True)]
        scaling = statistics.median(turn[-1] / turn[0] for turn in turns)
        row = "  ".join(f"{rate:9.1f}" for rate in rates)
        print(f"{name:15} {1e3 * theirs:9.1f} {1e3 * mine:9.1f} {ratio:6.2f} {worst:17.1e}   {row}")
        figures.append(
            f"{name}: ratio={ratio:.2f} clips_per_s_per_core={1 / mine:.1f} "
            f"librosa_clips_per_s_per_core={1 / theirs:.1f} "
            f"workers={workers[-1]} clips_per_s={rates[-1]:.1f} scaling={scaling:.2f} "
            f"of_per_core={rates[-1] * mine:.2f} worst_db={worst:.1e}"
        )
    print("\n".join(figures[1:]))
    return figures[0].partition(": ")[2]


def report_memory(counts: list[int]) -> str:
    """Prints the peak memory of preparing generated corpora of several sizes; returns the line of figures."""
    from tfds_fma.demo import make_demo_tree
    from tfds_fma.source.tracks import read_tracks

    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            home = Path(folder) / str(count)
            source = make_demo_tree(home / "source", clips=count)
            peak = peak_memory(source, home / "data")
            clips = len(read_tracks(source, "medium"))
            print(f"{clips} generated clips, mel_256x96, 2 workers: peak {peak / 2**20:.0f} MiB (PSS, all processes)")
            figures.append(f"peak_mib_{clips}={peak / 2**20:.0f}")
            shutil.rmtree(home)
    return " ".join(figures)


def peak_memory(source: Path, data_dir: Path) -> int:
    """Peak of the proportional set size of a prepare run and its workers, sampled every 50 ms; bytes."""
    from tfds_fma.prepare import main

    arguments = ["--source", str(source), "--subset", "medium", "--representation", "mel_256x96"]
    arguments += ["--data_dir", str(data_dir), "--workers", "2"]
    process = multiprocessing.get_context("spawn").Process(target=main, args=(arguments,))
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, memory_of(process.pid))

    process.start()
    watcher = threading.Thread(target=watch)
    watcher.start()
    process.join()
    done.set()
    watcher.join()
    return peak


def memory_of(pid: int | None) -> int:
    """Proportional set size of a process and its children, in bytes."""
    return sum(proportional_set_size(member) for member in family(pid))


def family(pid: int | None) -> list[int]:
    import psutil

    try:
        parent = psutil.Process(pid)
        return [parent.pid, *(child.pid for child in parent.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def proportional_set_size(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (OSError, ProcessLookupError):
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, type=Path, metavar="DIR", help="folder with MP3 files of 30 s")
    parser.add_argument("--limit", type=int, default=64, metavar="N", help="clips to use; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: %(default)s")
    parser.add_argument("--clips", type=int, default=300, metavar="N", help="for the run on all workers")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=sorted({1, usable_cores()}), metavar="N", help="numbers to try"
    )
    parser.add_argument("--memory", type=int, nargs="*", default=[], metavar="N", help="sizes of generated corpora")
    args = parser.parse_args()
    paths = sorted(args.source.rglob("*.mp3"))[: args.limit]
    if not paths:
        print(f"error: there is no MP3 file below {args.source}", file=sys.stderr)
        return 1
    figures = [report_speed(paths, args.workers, args.rounds, args.clips)]
    if args.memory:
        figures.append(report_memory(args.memory))
    print(" ".join(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
