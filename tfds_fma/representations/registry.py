"""What is computed from a clip and stored: the registry of representations.

There are two kinds: those computed from a clip's audio (`AudioRepresentation`) and `FeatureVector`, which is read
from a table of features. To add one of the first kind (another spectrogram, say) write a frozen dataclass with the
members of `AudioRepresentation` and put an instance of it into `REPRESENTATIONS`. The builder, the command line and
the readers take everything they need from there. `Precomputed` is for arrays that were made elsewhere; it is not in
the registry.
"""

import re
from typing import TYPE_CHECKING, Any

from tfds_fma.errors import UserError
from tfds_fma.representations.feature_names import FEATURE_SETS, GROUPS

if TYPE_CHECKING:
    pass
from tfds_fma.representations.audio import Audio
from tfds_fma.representations.base import KAISER_BEST, Representation
from tfds_fma.representations.feature_vector import FeatureVector
from tfds_fma.representations.log_mel import LogMel, LogMelBelowPeak, LogStft


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
    # The same, resampled as librosa 0.8 did it, with which MATT's spectrograms were made.
    LogMel("mel_1360x96_librosa08", samples=29 * 12_000, n_fft=2048, resampler=KAISER_BEST, **_MATT),
    # With the window of Choi et al. 2017, which MATT's code names (n_fft = 512) and does not pass on.
    LogMel("mel_1360x96_nfft512", samples=29 * 12_000, n_fft=512, **_MATT),
    # PRCNN: nearly the whole clip, as the code has it; with the text's hop length, its first half.
    LogMelBelowPeak("mel_640x128", hop=1024, frames=640, **_UBC),
    LogMelBelowPeak("mel_640x128_hop512", hop=512, frames=640, **_UBC),
    # Segments of 5 s, six of each excerpt of GTZAN: of Feng et al., and as the PRCNN report's.
    LogStft("stft_128x513", sample_rate=22_050, n_fft=1024, hop=861, frames=128, seconds=5),
    LogMelBelowPeak("mel_107x128", hop=1024, frames=107, seconds=5, **_UBC),
    *(Audio(rate) for rate in _AUDIO_RATES),
    FeatureVector("features_518", tuple(GROUPS)),
    # Single sets, for tables that hold no others. `feature_names.columns_of` picks sets out of the 518.
    *(FeatureVector(f"features_{name}", groups) for name, groups in FEATURE_SETS.items() if len(groups) == 1),
    # The settings of both papers on the first 5.4 and 5.6 s: for the short clips of the demo corpus.
    LogMel("mel_256x96", samples=255 * 256, n_fft=2048, **_MATT),
    LogMel("mel_256x96_librosa08", samples=255 * 256, n_fft=2048, resampler=KAISER_BEST, **_MATT),
    LogMelBelowPeak("mel_120x128", hop=1024, frames=120, **_UBC),
    *(Audio(rate, short=True) for rate in _AUDIO_RATES),
)


REPRESENTATIONS: dict[str, Representation] = {representation.name: representation for representation in _ALL}


# What stands for a spectrogram of 30 s where clips are as short as those of the demo corpus.
_SHORT = {
    "mel_1360x96": "mel_256x96",
    "mel_1360x96_librosa08": "mel_256x96_librosa08",
    "mel_1360x96_nfft512": "mel_256x96",
    "mel_640x128": "mel_120x128",
    "mel_640x128_hop512": "mel_120x128",
}


def get_representation(name: str) -> Representation:
    """Looks a representation up by name.

    Raises:
      UserError: if there is none of that name.
    """
    if name in REPRESENTATIONS:
        return REPRESENTATIONS[name]
    audio = re.fullmatch(r"audio_([1-9]\d{3,4})(_short)?", name)
    if audio and 4_000 <= int(audio[1]) <= 48_000:
        return Audio(int(audio[1]), short=bool(audio[2]))
    raise UserError(
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
    except UserError:
        return "mel_256x96"
    if isinstance(chosen, Audio):
        return Audio(chosen.sample_rate, short=True).name
    return _SHORT.get(name, name)
