"""What is computed from a clip and stored: the registry of representations.

There are two kinds: those computed from a clip's audio (`AudioRepresentation`) and `FeatureVector`, which is read
from a table of features. To add one of the first kind (another spectrogram, say) write a frozen dataclass with the
members of `AudioRepresentation` and put an instance of it into `REPRESENTATIONS`. The builder, the command line and
the readers take everything they need from there. `Precomputed` is for arrays that were made elsewhere; it is not in
the registry.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from tfds_fma.errors import FmaError
from tfds_fma.features import FEATURE_SETS, GROUPS, STATISTICS

if TYPE_CHECKING:
    import numpy as np


class Representation(Protocol):
    """What the builder needs to know about a representation."""

    @property
    def name(self) -> str:
        """Name on the command line and in the folder name."""

    @property
    def description(self) -> str:
        """One line for people."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stored array."""

    @property
    def dtype(self) -> str:
        """NumPy name of the stored type."""


@runtime_checkable
class AudioRepresentation(Representation, Protocol):
    """A representation that is computed from audio."""

    @property
    def sample_rate(self) -> int:
        """Rate in Hz of the audio that `compute` takes."""

    @property
    def samples(self) -> int:
        """Number of mono samples that `compute` needs, counted from the start of the clip."""

    @property
    def at_most(self) -> int:
        """Number of samples that `compute` takes if the clip has as many."""

    def compute(self, audio: "np.ndarray") -> "np.ndarray":
        """Computes the array to store from float32 audio [samples]."""


# FMA's clips have 29.98 s or a little more; frames beyond that are not there.
_CLIP_SECONDS = 30


@dataclass(frozen=True)
class LogMel:
    """Log-mel spectrogram in decibels, as librosa 0.8 computed it for MATT; stored as float16 [frame, mel].

    Window: periodic Hann of `n_fft`, centred frames with *reflect* padding. Reflect was the default of
    librosa 0.8.0, with which MATT's spectrograms were made; librosa 0.10 and later pad with zeros unless told
    otherwise (``pad_mode``), which changes the first and the last n_fft / (2 hop) frames. Power spectrum,
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
    """

    name: str
    sample_rate: int
    samples: int
    n_fft: int
    hop: int
    n_mels: int
    dtype: str = "float16"
    scale: str = "dB"

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
            f"hop {self.hop}"
        )

    def compute(self, audio: "np.ndarray") -> "np.ndarray":
        """Computes the spectrogram of float32 audio [samples] -> float16 [frame, mel]."""
        from tfds_fma.spectrogram import log_mel

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
      frames: number of frames kept. The maximum is that of all frames of the clip, up to 30 s.
    """

    name: str
    sample_rate: int
    n_fft: int
    hop: int
    n_mels: int
    frames: int
    dtype: str = "float32"
    scale: str = "ln"

    @property
    def samples(self) -> int:
        """What the windows of the kept frames cover."""
        return (self.frames - 1) * self.hop + self.n_fft // 2

    @property
    def at_most(self) -> int:
        """The whole clip."""
        return _CLIP_SECONDS * self.sample_rate

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
        from tfds_fma.spectrogram import log_mel_below_peak

        return log_mel_below_peak(audio, self.sample_rate, self.n_fft, self.hop, self.n_mels)[: self.frames]


@dataclass(frozen=True)
class Audio:
    """The clip's audio, mono, int16: for spectrograms computed on the device, and for models on raw audio.

    The sample x in [-1, 1] is stored as round(32767 x). The first 29.9 s hold what every spectrogram here needs, and
    nearly every clip of FMA has them (29.98 s), so that zeros at the end are rare. Of the demo corpus, with its clips
    of 5.8 s, the first 5.6 s hold what mel_256x96 and mel_120x128 need.

    Attributes:
      sample_rate: Hz.
      short: whether it is for the demo corpus.
    """

    sample_rate: int
    short: bool = False
    dtype: str = "int16"

    @property
    def name(self) -> str:
        """``audio_RATE`` or ``audio_RATE_short``."""
        return f"audio_{self.sample_rate}{'_short' if self.short else ''}"

    @property
    def seconds(self) -> float:
        """Length of what is stored."""
        return 5.6 if self.short else 29.9

    @property
    def samples(self) -> int:
        """As many as `seconds` have."""
        return round(self.seconds * self.sample_rate)

    @property
    def at_most(self) -> int:
        """As many samples as are needed."""
        return self.samples

    @property
    def shape(self) -> tuple[int]:
        """(samples,)."""
        return (self.samples,)

    @property
    def description(self) -> str:
        """One line for people."""
        return f"audio, mono int16, first {self.seconds:g} s at {self.sample_rate} Hz"

    def compute(self, audio: "np.ndarray") -> "np.ndarray":
        """Rounds float32 audio [samples] -> int16 [samples]; what is louder than full scale is clipped."""
        import numpy as np

        return np.rint(np.clip(audio, -1, 1) * np.float32(32767)).astype(self.dtype)


@dataclass(frozen=True)
class FeatureVector:
    """Statistics of audio features from ``features.csv``, FMA's own or made by `tfds_fma.extract_features`.

    FMA's file was computed from whole tracks with librosa 0.5 (Defferrard et al. 2017, section 3.4).

    Attributes:
      name: see `Representation`.
      groups: the features, in the order of FMA's columns.
    """

    name: str
    groups: tuple[str, ...]
    dtype: str = "float32"

    @property
    def shape(self) -> tuple[int]:
        """(columns,)."""
        return (len(STATISTICS) * sum(GROUPS[group] for group in self.groups),)

    @property
    def description(self) -> str:
        """One line for people."""
        return f"{self.shape[0]} columns of features.csv: {', '.join(self.groups)}"


@dataclass(frozen=True)
class Precomputed:
    """Arrays that someone else computed and `tfds_fma.prepare` takes as they are.

    Attributes:
      name: see `Representation`; it satisfies `is_name`.
      shape: (frames, mel bands) or (features,).
      dtype: uint8, float16 or float32.
      description: see `Representation`.
      scale: unit of the values; what it is the arrays do not tell.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    description: str
    scale: str = "as given"


def is_name(name: str) -> bool:
    """Whether a representation can be called that: TFDS makes a folder's name of it."""
    return re.fullmatch(r"[a-z0-9_.+]+", name) is not None


_MATT: dict[str, Any] = {"sample_rate": 12_000, "hop": 256, "n_mels": 96}
_UBC: dict[str, Any] = {"sample_rate": 22_050, "n_fft": 2048, "n_mels": 128}

# Rates at which audio is listed; every other one from 4 kHz to 48 kHz can be had as well.
_AUDIO_RATES = (12_000, 16_000, 22_050, 44_100)

_ALL: tuple[Representation, ...] = (
    # MATT and CRNN-TF: the first 29 s of the 30 s clip.
    LogMel("mel_1360x96", samples=29 * 12_000, n_fft=2048, **_MATT),
    # With the window of Choi et al. 2017, which MATT's code names (n_fft = 512) and does not pass on.
    LogMel("mel_1360x96_nfft512", samples=29 * 12_000, n_fft=512, **_MATT),
    # PRCNN: nearly the whole clip, as the code has it; with the text's hop length, its first half.
    LogMelBelowPeak("mel_640x128", hop=1024, frames=640, **_UBC),
    LogMelBelowPeak("mel_640x128_hop512", hop=512, frames=640, **_UBC),
    *(Audio(rate) for rate in _AUDIO_RATES),
    FeatureVector("features_518", tuple(GROUPS)),
    # Single sets, for tables that hold no others. `tfds_fma.features.columns_of` picks sets out of the 518.
    *(FeatureVector(f"features_{name}", groups) for name, groups in FEATURE_SETS.items() if len(groups) == 1),
    # The settings of both papers on the first 5.4 and 5.6 s: for the short clips of the demo corpus.
    LogMel("mel_256x96", samples=255 * 256, n_fft=2048, **_MATT),
    LogMelBelowPeak("mel_120x128", hop=1024, frames=120, **_UBC),
    *(Audio(rate, short=True) for rate in _AUDIO_RATES),
)

REPRESENTATIONS: dict[str, Representation] = {representation.name: representation for representation in _ALL}

# What stands for a spectrogram of 30 s where clips are as short as those of the demo corpus.
_SHORT = {
    "mel_1360x96": "mel_256x96",
    "mel_1360x96_nfft512": "mel_256x96",
    "mel_640x128": "mel_120x128",
    "mel_640x128_hop512": "mel_120x128",
}


def get_representation(name: str) -> Representation:
    """Looks a representation up by name.

    Raises:
      FmaError: if there is none of that name.
    """
    if name in REPRESENTATIONS:
        return REPRESENTATIONS[name]
    audio = re.fullmatch(r"audio_([1-9]\d{3,4})(_short)?", name)
    if audio and 4_000 <= int(audio[1]) <= 48_000:
        return Audio(int(audio[1]), short=bool(audio[2]))
    raise FmaError(
        f"Unknown representation {name!r}. Choose one of: {', '.join(REPRESENTATIONS)}; or audio_RATE with a rate "
        "from 4000 to 48000 Hz."
    )


def demo_representation(name: str) -> str:
    """Returns the name of what the demo corpus has instead of a representation.

    That of a spectrogram or audio of 30 s is its short counterpart, features and what is short stay the same. A name
    that is none here is one of precomputed arrays: the demo has mel_256x96 instead.
    """
    try:
        chosen = get_representation(name)
    except FmaError:
        return "mel_256x96"
    if isinstance(chosen, Audio):
        return Audio(chosen.sample_rate, short=True).name
    return _SHORT.get(name, name)
