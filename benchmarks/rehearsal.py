"""FMA-medium at its real size, without FMA: every command in turn, with its time, memory and disk.

    python -m benchmarks.rehearsal --folder /tmp/rehearsal            # 2,500 and 25,000 tracks: an hour or two
    python -m benchmarks.rehearsal --folder /tmp/rehearsal --mp3 DIR  # clips linked to real ones
    python -m benchmarks.rehearsal --folder /tmp/rehearsal --show     # the table of what was measured

The tree has FMA-medium's tracks per split and genre, the columns of the real tables, and clips of 30 s that are links
to a few files. A stage is the command that a user gives, in a process of its own; only the intervals and the table's
numbers are computed on invented scores of all clips. What was measured is not measured again: rehearsal.json in the
folder of a size has it. Memory is the proportional set size of the process and its workers, sampled four times a
second.
"""

import argparse
import dataclasses
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.prepare import memory_of

ROOT = Path(__file__).parents[1]
SIZES = (2_500, 25_000)
TRAIN_STEPS = 50

_SAMPLE_SECONDS = 0.25  # of memory; what it costs grows with the process

_ALBUM_CLIPS = 4
_MEL, _TABLE = "mel_1360x96", "features_518"

# What a child process that computes intervals is told.
_MEASURE = "--measure"


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of the rehearsal.

    Attributes:
        name: in the table.
        work: what it counts, of a number of tracks: clips, steps.
        command: arguments of Python; None: see `write_tree`.
        stop_at: a file that ends it, by SIGTERM, when it appears; None: it runs to its end.
    """

    name: str
    work: int
    command: list[str] | None
    stop_at: Path | None = None


def stages(folder: Path, tracks: int) -> list[Stage]:
    """The stages of a size, in order."""
    data = ["--data_dir", str(folder / "data")]
    source = ["--source", str(folder / "tree"), "--subset", "medium"]
    config = [f"--config.data.data_dir={folder / 'data'}", "--config.data.corpus=fma_medium"]
    of_mel = ["--subset", "medium", "--representation", _MEL]
    mlp, crnn = folder / "matt_mlp", folder / "matt_crnn_tf"
    trained = sum(row["split"] == "training" for row in plan(tracks))

    def main(name: str, workdir: Path, *flags: str) -> list[str]:
        return ["-m", "mgc_jax.main", "--config", f"configs/{name}.py", "--workdir", str(workdir), *config, *flags]

    crnn_flags = (f"--config.data.representation={_MEL}", "--config.data.placement=stream")
    # No evaluation comes before the last step.
    crnn_flags += (f"--config.train.checkpoint_every_steps={TRAIN_STEPS}", "--config.train.eval_every_epochs=60")
    return [
        Stage("write the tree", tracks, None),
        Stage(f"prepare {_MEL}", tracks, ["-m", "tfds_fma.prepare", *source, "--representation", _MEL, *data]),
        Stage(f"prepare {_TABLE}", tracks, ["-m", "tfds_fma.prepare", *source, "--representation", _TABLE, *data]),
        Stage("validate", tracks, ["-m", "tfds_fma.validate", *of_mel, *data]),
        Stage("describe", tracks, ["-m", "tfds_fma.describe", *of_mel, *data]),
        Stage("open, from the disk", tracks, [*_child(), "open", str(folder / "data")]),
        Stage("matt_mlp, one epoch", trained, main("matt_mlp", mlp, "--config.train.epochs=1")),
        Stage(f"matt_crnn_tf, {TRAIN_STEPS} steps", TRAIN_STEPS,
              main("matt_crnn_tf", crnn, *crnn_flags), crnn / "checkpoints" / str(TRAIN_STEPS)),
        Stage("evaluate matt_crnn_tf", tracks, main("matt_crnn_tf", crnn, *crnn_flags, "--mode", "eval", "--test")),
        Stage("report", tracks, ["-m", "mgc_jax.report", str(crnn)]),
        Stage("export", 1, ["-m", "mgc_jax", "export", str(crnn)]),
        Stage("analyse matt_mlp", tracks, ["-m", "mgc_jax", "analyse", str(mlp)]),
        Stage("intervals of a level", tracks, [*_child(), "intervals", str(tracks)]),
        Stage("a table's numbers with intervals", tracks, [*_child(), "table", str(tracks)]),
    ]  # fmt: skip


def _child() -> list[str]:
    return ["-m", "benchmarks.rehearsal", _MEASURE]


def plan(tracks: int) -> list[dict]:
    """The tracks: FMA-medium's number per split and genre, or that share of it; FMA's order, genres mixed."""
    from tfds_fma.labels import GENRES
    from tfds_fma.source.counts import clips_per_genre

    official = clips_per_genre("medium")
    assert official is not None
    total = sum(sum(genres.values()) for genres in official.values())
    rng = np.random.default_rng(0)
    rows, artist, album = [], 0, 0
    for split, name in (("train", "training"), ("validation", "validation"), ("test", "test")):
        for genre in GENRES:
            left = max(2, round(official[split][genre] * tracks / total))
            while left:
                count = min(left, int(rng.geometric(1 / _ALBUM_CLIPS)))
                artist, album, left = artist + int(rng.random() < 0.75), album + 1, left - count
                rows += [
                    {"split": name, "genre": genre, "artist": f"{split} {genre} {artist}", "album": album}
                ] * count
    albums = rng.permutation(album + 1)
    rows.sort(key=lambda row: albums[row["album"]])
    ids = 2 + np.cumsum(rng.integers(1, 6, len(rows)))
    return [row | {"track_id": int(track)} for row, track in zip(rows, ids, strict=True)]


def write_tree(folder: Path, tracks: int, mp3: list[Path]) -> None:
    """Writes fma_metadata with tracks.csv, genres.csv and features.csv, and fma_medium."""
    from tfds_fma.labels import GENRES
    from tfds_fma.representations.feature_names import COLUMNS
    from tfds_fma.source.feature_table import write_features
    from tfds_fma.synthesis.catalogue import DemoTrack, write_metadata

    rows = plan(tracks)
    number = {name: n + 1 for n, name in enumerate(dict.fromkeys(row["artist"] for row in rows))}
    small = set(GENRES[:8])
    demo = [
        DemoTrack(
            row["track_id"], number[row["artist"]], row["album"], row["genre"], "", row["split"],
            "small" if row["genre"] in small and n % 3 == 0 else "medium", 1,
        )
        for n, row in enumerate(rows)
    ]  # fmt: skip
    write_metadata(folder / "fma_metadata", demo)
    audio = folder / "fma_medium"
    for track, file in zip(demo, itertools.cycle(mp3)):
        path = audio / f"{track.track_id // 1000:03d}" / f"{track.track_id:06d}.mp3"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(file.resolve(), path)
    values = np.random.default_rng(1).normal(size=(len(demo), len(COLUMNS))).astype(np.float32)
    write_features(folder / "fma_metadata" / "features.csv", np.array([track.track_id for track in demo]), values)


def synthesized(folder: Path, count: int = 8) -> list[Path]:
    """MP3 files of 30 s as FMA's: 44.1 kHz, stereo."""
    import soundfile
    import soxr

    from tfds_fma.labels import GENRES
    from tfds_fma.synthesis.music import SAMPLE_RATE, Identity, render

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, genre in enumerate(GENRES[:count]):
        rendered = soxr.resample(render(Identity(0, genre, number, number, number, 0)), SAMPLE_RATE, 44_100)
        mono = np.resize(rendered, 30 * 44_100)
        paths.append(folder / f"{number}.mp3")
        stereo = np.stack([mono, np.roll(mono, 400)], axis=1)
        soundfile.write(paths[-1], stereo, 44_100, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.2)
    return paths


def run_stage(stage: Stage, folder: Path, mp3: list[Path]) -> dict[str, float]:
    """Runs a stage; returns seconds, CPU seconds, peak memory and what the folder grew by, in MiB."""
    before, cpu = used(folder), cpu_seconds()
    start = time.perf_counter()
    if stage.command is None:
        write_tree(folder / "tree", stage.work, mp3)
        peak = 0.0
    else:
        log = folder / "logs" / f"{stage.name.replace(' ', '_').replace(',', '')}.txt"
        log.parent.mkdir(exist_ok=True)
        with log.open("w") as out:
            process = subprocess.Popen(
                [sys.executable, *stage.command], cwd=ROOT, stdout=out, stderr=subprocess.STDOUT
            )
            peak = watch(process, stage.stop_at)
        if process.returncode and stage.stop_at is None:
            sys.exit(f"{stage.name}: exit status {process.returncode}\n{log.read_text()[-3000:]}")
    seconds = time.perf_counter() - start
    grown = (used(folder) - before) / 2**20
    return {"seconds": seconds, "cpu_seconds": cpu_seconds() - cpu, "peak_mib": peak / 2**20, "disk_mib": grown}


def cpu_seconds() -> float:
    """CPU time of this process and of all that it has waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def watch(process: subprocess.Popen, stop_at: Path | None) -> float:
    """Waits for a process; returns the peak of its memory, and its children's, in bytes."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, memory_of(process.pid))
        if stop_at is not None and stop_at.exists():
            process.send_signal(signal.SIGTERM)
            stop_at = None
        time.sleep(_SAMPLE_SECONDS)
    return peak


def used(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def invented(clips: int) -> Any:
    """Predictions of invented scores: FMA-medium's genres, six clips of an artist, three of a bag."""
    from mgc_jax.evaluation.predictions import Predictions
    from tfds_fma.labels import GENRES
    from tfds_fma.source.counts import clips_per_genre

    counts = clips_per_genre("medium")
    assert counts is not None
    train_clips = np.array([counts["train"][genre] for genre in GENRES])
    rng = np.random.default_rng(0)
    label = rng.choice(len(GENRES), clips, p=train_clips / train_clips.sum()).astype(np.int32)
    scores = rng.normal(size=(clips, len(GENRES))) + 2 * np.eye(len(GENRES))[label]
    scores = (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)
    bags = np.arange(clips) // 3
    return Predictions(
        genres=GENRES,
        track_id=np.arange(clips),
        split=np.full(clips, "test"),
        label=label,
        artist=np.char.add("artist ", (bags // 2).astype(str)),
        album=bags.astype(str),
        bag=bags,
        bag_scores=scores,
        train_clips=train_clips,
    )


def child(what: str, argument: str) -> None:
    """What a stage of this file does in its own process."""
    if what == "open":
        from mgc_jax.config.keys import default
        from mgc_jax.data.open import open_corpus

        config = default()
        config.data.update(corpus="fma_medium", representation=_MEL, data_dir=argument, placement="stream")
        start = time.perf_counter()
        print(open_corpus(config.data).summary())
    elif what == "intervals":
        from mgc_jax.evaluation.results import summary

        predictions = invented(int(argument))
        start = time.perf_counter()
        print(summary(predictions)["intervals"])
    else:
        from mgc_jax.papers.matt_tables import RECALLS
        from mgc_jax.tables.measure import measure

        predictions = invented(int(argument))
        of_curve = ["max_f1", *(f"precision_at {recall}" for recall in RECALLS)]
        of_genres = [f"{kind} {of}" for kind in ("precision", "recall", "f1") for of in (*predictions.genres, "macro")]
        names = ["accuracy", "paper_accuracy", "micro_ap", "bag_micro_ap", "top_2 <100", *of_curve, *of_genres]
        start = time.perf_counter()
        for name in names:
            print(name, measure(name, [predictions], "bag"))
    print(f"{time.perf_counter() - start:.2f} s beside imports")


def rehearse(folder: Path, tracks: int, mp3: list[Path]) -> None:
    """Runs the stages of a size that were not run yet."""
    file = folder / "rehearsal.json"
    measured = json.loads(file.read_text()) if file.exists() else {}
    folder.mkdir(parents=True, exist_ok=True)
    for stage in stages(folder, tracks):
        if stage.name not in measured:
            measured[stage.name] = run_stage(stage, folder, mp3) | {"work": stage.work}
            file.write_text(json.dumps(measured, indent=1))
            row = measured[stage.name]
            cells = f"{row['seconds']:9.1f} s {row['cpu_seconds']:9.1f} s {row['peak_mib']:7.0f} MiB"
            print(f"{tracks:>7} {stage.name:32} {cells}", flush=True)


def table(home: Path, sizes: list[int]) -> str:
    """What was measured, as a Markdown table: a column for each size, and the last size's rate beside the first's.

    Rates are per CPU second, which other work on the machine changes least.
    """
    of_size = [json.loads((home / str(tracks) / "rehearsal.json").read_text()) for tracks in sizes]
    titles = [f"{tracks:,} tracks" for tracks in sizes]
    lines = [
        "Seconds, CPU seconds, peak memory, disk.",
        "",
        f"| stage | {' | '.join(titles)} | clips per CPU second, last to first |",
        f"|---|{'---|' * (len(sizes) + 1)}",
    ]
    for name in of_size[0]:
        rows = [measured[name] for measured in of_size if name in measured]
        cells = [
            f"{row['seconds']:.1f} s, {row['cpu_seconds']:.1f} s, {row['peak_mib']:,.0f} MiB, "
            f"{max(0, row['disk_mib']):,.0f} MiB"
            for row in rows
        ]
        first, last = (row["work"] / row["cpu_seconds"] for row in (rows[0], rows[-1]))
        lines.append(f"| {name} | {' | '.join(cells)} | {last / first:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="a folder for each size is made in it; 25,000 tracks take 8 GB")
    parser.add_argument("--tracks", type=int, nargs="+", default=list(SIZES))
    parser.add_argument(
        "--mp3", type=Path, metavar="DIR", help="files that the clips are links to; default: synthetic ones"
    )
    parser.add_argument("--show", action="store_true", help="only print the table of what was measured")
    parser.add_argument(_MEASURE, nargs=2, metavar=("WHAT", "ARGUMENT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        child(*args.measure)
        return
    if args.folder is None:
        parser.error("say where: --folder DIR")
    if not args.show:
        mp3 = sorted(args.mp3.rglob("*.mp3")) if args.mp3 else synthesized(args.folder / "mp3")
        for tracks in args.tracks:
            rehearse(args.folder.resolve() / str(tracks), tracks, mp3)
    print(table(args.folder, args.tracks))


if __name__ == "__main__":
    main()
