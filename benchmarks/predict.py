"""Songs classified per second: `mgc-jax predict`, the same with librosa in a loop, and the decoder alone.

    python benchmarks/predict.py runs/matt --songs 200 --seconds 180

Generates MP3 files (a few, linked under many names), and runs the three in turn, several rounds. The loop is what
people write: librosa.load at the rate of the model, mel spectrogram of each window, the model on the windows of one
file. It needs a model of spectrograms in dB, such as MATT's. The decoder alone is soundfile in as many processes.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from mgc_jax.loading import load_model
from mgc_jax.runtime.process_setup import prepare_process
from mgc_jax.songs.representation import song_representation
from tfds_fma.parallel import ordered_map
from tfds_fma.representations.log_mel import LogMel

DISTINCT = 4
RATE = 44_100


def make_songs(folder, songs, seconds):
    """Writes stereo MP3 files of tones and noise, as loud as music."""
    rng = np.random.default_rng(0)
    time_axis = np.arange(seconds * RATE) / RATE
    for number in range(min(DISTINCT, songs)):
        tones = sum(
            0.1 * np.sin(2 * np.pi * f * time_axis) * (1 + np.sin(time_axis * w))
            for f, w in zip(rng.uniform(80, 4000, 6), rng.uniform(0.2, 5, 6), strict=True)
        )
        audio = tones[:, None] + rng.normal(0, 0.05, (len(time_axis), 2))
        soundfile.write(folder / f"{number:04d}.mp3", audio.clip(-1, 1), RATE)
    for number in range(DISTINCT, songs):
        os.link(folder / f"{number % DISTINCT:04d}.mp3", folder / f"{number:04d}.mp3")


def decode_only(path):
    with soundfile.SoundFile(path) as audio:
        return sum(len(block) for block in audio.blocks(1 << 18, dtype="float32"))


def by_librosa(model, representation, paths):
    """A mean of log scores per file."""
    import librosa

    scores = []
    for path in paths:
        audio, rate = librosa.load(path, sr=representation.sample_rate)
        windows = []
        for begin in range(0, len(audio), representation.samples):
            window = audio[begin : begin + representation.samples]
            if len(window) < representation.samples / 2:
                break
            window = np.pad(window, (0, representation.samples - len(window)))
            mel = librosa.feature.melspectrogram(
                y=window, sr=rate, n_fft=representation.n_fft, hop_length=representation.hop,
                n_mels=representation.n_mels, pad_mode="reflect",
            )  # fmt: skip
            windows.append(librosa.power_to_db(mel).T.astype(np.float16))
        log_scores, _ = model(np.array(windows))
        scores.append(log_scores.mean(axis=0))
    return np.array(scores)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--songs", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=180)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--librosa_songs", type=int, default=20, help="songs of the loop in each round")
    parser.add_argument("--workers", type=int)
    given = parser.parse_args()
    prepare_process()
    model = load_model(given.model)
    representation = song_representation(model.meta)
    if not isinstance(representation, LogMel):
        parser.error("give a model of spectrograms in dB")
    with tempfile.TemporaryDirectory() as folder:
        make_songs(Path(folder), given.songs, given.seconds)
        paths = sorted(Path(folder).glob("*.mp3"))
        loop = paths[: given.librosa_songs]
        found = model.predict(paths[:DISTINCT], bags="none", workers=given.workers)  # compiles
        theirs = by_librosa(model, representation, paths[:DISTINCT])
        mine = np.array([song.window_scores.mean(axis=0) for song in found.songs])
        print(f"scores of the loop and of predict differ by up to {abs(theirs - mine).max():.4f}")
        rates = {"predict": [], "librosa": [], "decoder": []}
        for _ in range(given.rounds):
            start = time.perf_counter()
            model.predict(paths, bags="none", workers=given.workers)
            rates["predict"].append(given.seconds * len(paths) / (time.perf_counter() - start))
            start = time.perf_counter()
            by_librosa(model, representation, loop)
            rates["librosa"].append(given.seconds * len(loop) / (time.perf_counter() - start))
            start = time.perf_counter()
            list(ordered_map(decode_only, paths, given.workers))
            rates["decoder"].append(given.seconds * len(paths) / (time.perf_counter() - start))
            print(json.dumps({name: round(values[-1], 1) for name, values in rates.items()}), flush=True)
    median = {name: statistics.median(values) for name, values in rates.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"seconds of music per second: {', '.join(f'{name} {rate:,.0f}' for name, rate in median.items())}; "
        f"predict / librosa {median['predict'] / median['librosa']:.1f}, "
        f"decoder / predict {median['decoder'] / median['predict']:.2f}; peak memory {peak:,.0f} MiB"
    )


if __name__ == "__main__":
    main()
