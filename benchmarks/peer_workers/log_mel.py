"""Log-mel spectrograms of 30 s of audio, one clip at a time: our jitted front end, our NumPy form, or librosa."""

import sys

import numpy as np
from protocol import Peer, serve

from tfds_fma.representations.log_mel import LogMelBelowPeak
from tfds_fma.representations.registry import get_representation


class LogMel(Peer):
    def __init__(self, recipe):
        self.recipe = recipe

    def hello(self):
        if self.recipe == "librosa":
            import librosa

            return {"librosa": librosa.__version__, "backend": "cpu"}
        if self.recipe == "numpy":
            return {"numpy": np.__version__, "backend": "cpu"}
        import jax

        return {"jax": jax.__version__, "backend": jax.default_backend()}

    def make(self, options, path):
        """Writes the audio: tones and noise."""
        found = get_representation(options["config"])
        rng = np.random.default_rng(0)
        seconds = np.arange(found.samples) / found.sample_rate
        tones = sum(np.sin(2 * np.pi * f * seconds) for f in rng.uniform(80, 4000, 12))
        audio = 0.05 * (tones + rng.normal(size=found.samples))
        np.savez(path, representation=found.name, audio=audio.astype(np.float32))

    def open(self, path):
        with np.load(path) as file:
            found, audio = get_representation(str(file["representation"])), file["audio"]
        below_peak = isinstance(found, LogMelBelowPeak)
        if self.recipe == "librosa":
            import librosa

            def compute():
                power = librosa.feature.melspectrogram(
                    y=audio,
                    sr=found.sample_rate,
                    n_fft=found.n_fft,
                    hop_length=found.hop,
                    n_mels=found.n_mels,
                    pad_mode="reflect",  # costs nothing, and makes the results comparable
                )
                decibels = librosa.power_to_db(power, ref=np.max if below_peak else 1.0).T[: found.shape[0]]
                return decibels * (np.log(10) / 10) if below_peak else decibels

        elif self.recipe == "numpy":

            def compute():
                return found.compute(audio)
        else:
            import jax

            from mgc_jax.data.frontend import LogMelFrontend

            frontend = LogMelFrontend(found.name)
            jitted = jax.jit(lambda clips: frontend(clips))
            placed = jax.device_put(audio[None])

            def compute():
                return np.asarray(jitted(placed)[0])

        self.compute = compute

    def forms(self, mode):
        return [self.recipe]

    def run(self, mode, form, steps):
        for _ in range(steps):
            self.compute()

    def size(self):
        return {"clips": 1, "weights": []}

    def check(self):
        return np.asarray(self.compute(), np.float32), []


if __name__ == "__main__":
    serve(LogMel(sys.argv[1]))
