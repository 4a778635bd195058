"""Log-mel spectrograms, as MATT and PRCNN have them, and the plain ones of Feng et al."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfds_fma.representations.base import SOXR

if TYPE_CHECKING:
    import numpy as np


# FMA's clips have 29.98 s or a little more; frames beyond that are not there.
_CLIP_SECONDS = 30


@dataclass(frozen=True)
class LogMel:
    """Log-mel spectrogram in decibels, as librosa 0.8 computed it for MATT; stored as float16 [frame, mel].

    Window: periodic Hann of `n_fft`, centred frames with *reflect* padding. Reflect was the default of
    librosa 0.8.0, with which MATT's spectrograms were made; librosa 0.10 and later pad with zeros unless told
    otherwise (``pad_mode``), which changes the first and the last n_fft / (2 hop) frames. The resampler of librosa 0.8
    is another one than today's, too: `resampler` chooses. Power spectrum,
    Slaney mel scale with area normalisation from 0 Hz to half the sample rate, ``10 log10`` relative to 1.0
    with a floor of 1e-10, and at most 80 dB below the loudest value of the clip.

    float16 steps are 1/16 dB between 64 and 128 dB and finer below, so storage is off by at most 1/32 dB.

    Attributes:
      name: see `Representation`.
      sample_rate: Hz.
      samples: number of audio samples used.
      n_fft: window length in samples.
      hop: distance between frames in samples.
      n_mels: number of mel bands.
      resampler: see `AudioRepresentation`.
    """

    name: str
    sample_rate: int
    samples: int
    n_fft: int
    hop: int
    n_mels: int
    dtype: str = "float16"
    scale: str = "dB"
    resampler: str = SOXR

    @property
    def at_most(self) -> int:
        """As many samples as are needed."""
        return self.samples

    @property
    def shape(self) -> tuple[int, int]:
        """(frames, mel bands)."""
        return 1 + self.samples // self.hop, self.n_mels

    @property
    def description(self) -> str:
        """One line for people."""
        return (
            f"log-mel spectrogram in dB, [{self.shape[0]} frames, {self.n_mels} mel bands], first "
            f"{self.samples / self.sample_rate:g} s at {self.sample_rate} Hz, window {self.n_fft}, "
            f"hop {self.hop}{'' if self.resampler == SOXR else f', resampled with {self.resampler}'}"
        )

    def compute(self, audio: "np.ndarray") -> "np.ndarray":
        """Computes the spectrogram of float32 audio [samples] -> float16 [frame, mel]."""
        from tfds_fma.representations.spectrogram import log_mel

        return log_mel(audio, self.sample_rate, self.n_fft, self.hop, self.n_mels).astype(self.dtype)


@dataclass(frozen=True)
class LogMelBelowPeak:
    """Log-mel spectrogram relative to the clip's maximum, of the PRCNN report (UBC); float32 [frame, mel].

    The report's spectrograms come from a published conversion script (priya-dwivedi/Music_Genre_Classification):
    ``power_to_db(melspectrogram(y, ...), ref=np.max)`` of the whole clip, of which the first 640 frames are kept, and
    then the natural logarithm of the power, x = dB ln(10) / 10, between -18.42 and 0. This x is what is stored, not
    rounded, so that no conversion is left to do (or to forget: the script left its test set in decibels). Window,
    padding and mel scale are those of `LogMel`.

    Attributes:
      name: see `Representation`.
      sample_rate: Hz.
      n_fft: window length in samples.
      hop: distance between frames in samples.
      n_mels: number of mel bands.
      frames: number of frames kept. The maximum is that of all frames of the clip.
      seconds: length of the clip; what follows is not looked at.
    """

    name: str
    sample_rate: int
    n_fft: int
    hop: int
    n_mels: int
    frames: int
    dtype: str = "float32"
    scale: str = "ln"
    resampler: str = SOXR
    seconds: int = _CLIP_SECONDS

    @property
    def samples(self) -> int:
        """What the windows of the kept frames cover."""
        return (self.frames - 1) * self.hop + self.n_fft // 2

    @property
    def at_most(self) -> int:
        """The whole clip."""
        return self.seconds * self.sample_rate

    @property
    def shape(self) -> tuple[int, int]:
        """(frames, mel bands)."""
        return self.frames, self.n_mels

    @property
    def description(self) -> str:
        """One line for people."""
        return (
            f"log-mel spectrogram, natural logarithm of the power relative to the clip's maximum, first {self.frames} "
            f"frames ({self.frames * self.hop / self.sample_rate:.1f} s), {self.n_mels} mel bands, {self.sample_rate} "
            f"Hz, window {self.n_fft}, hop {self.hop}"
        )

    def compute(self, audio: "np.ndarray") -> "np.ndarray":
        """Computes the spectrogram of float32 audio [samples] -> float32 [frame, mel]."""
        from tfds_fma.representations.spectrogram import log_mel_below_peak

        return log_mel_below_peak(audio, self.sample_rate, self.n_fft, self.hop, self.n_mels)[: self.frames]


@dataclass(frozen=True)
class LogStft:
    """Power spectrogram in decibels without mel bands, of the PRCNN of Feng et al. (2017); float16 [frame, bin].

    They have short-time Fourier spectra of 128 frames and 513 bins, so of windows of 1,024 samples. Neither the hop
    nor the scale is known to us: here the frames cover the segment of 5 s evenly, and the scale, the window, the
    padding and the limits are those of `LogMel`.

    Attributes:
      name: see `Representation`.
      sample_rate: Hz.
      n_fft: window length in samples.
      hop: distance between frames in samples.
      frames: number of frames kept.
      seconds: length of the clip; what follows is not looked at.
    """

    name: str
    sample_rate: int
    n_fft: int
    hop: int
    frames: int
    seconds: int
    dtype: str = "float16"
    scale: str = "dB"
    resampler: str = SOXR

    @property
    def samples(self) -> int:
        """What the centres of the kept frames span."""
        return (self.frames - 1) * self.hop

    @property
    def at_most(self) -> int:
        """The whole clip."""
        return self.seconds * self.sample_rate

    @property
    def shape(self) -> tuple[int, int]:
        """(frames, frequency bins)."""
        return self.frames, 1 + self.n_fft // 2

    @property
    def description(self) -> str:
        """One line for people."""
        return (
            f"power spectrogram in dB, [{self.shape[0]} frames, {self.shape[1]} bins], {self.seconds} s at "
            f"{self.sample_rate} Hz, window {self.n_fft}, hop {self.hop}"
        )

    def compute(self, audio: "np.ndarray") -> "np.ndarray":
        """Computes the spectrogram of float32 audio [samples] -> float16 [frame, bin]."""
        from tfds_fma.representations.spectrogram import log_power

        return log_power(audio, self.n_fft, self.hop)[: self.frames].astype(self.dtype)
