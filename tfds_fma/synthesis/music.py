"""Procedural music for the demo corpus: short clips whose genre can be heard, more or less.

A `Style` says how a genre sounds: tempo, drum pattern, scale, timbre, levels of the layers, room. Artists
and albums shift it (the sound of a band, of a recording), and every clip shifts it again: it may borrow
traits from another genre, or be an intro in which most layers are silent. So single clips mislead, and
several clips of an album tell more.

All is plain NumPy on whole arrays: a clip of six seconds takes about 20 ms.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import scipy.fft

from tfds_fma.labels import GENRES
from tfds_fma.synthesis.styles import DRUMS, GROUPS, LEVELS, SHIFTED, STYLES, TABLE, Style

SAMPLE_RATE = 16_000


SECONDS = 5.8


_LENGTH = int(SECONDS * SAMPLE_RATE)


# How strongly artists, albums and clips shift a style (standard deviation of the logarithm), and how often
# albums and clips borrow. Set so that a linear classifier on simple statistics is right on about six clips
# in ten, and on seven in ten when it averages over an album.
_ARTIST_SPREAD, _ALBUM_SPREAD, _CLIP_SPREAD = 0.22, 0.12, 0.30


_ALBUM_BORROWS, _CLIP_BORROWS, _CLIP_IS_INTRO = 0.08, 0.30, 0.25


# Factors by which a sub-genre changes its genre: none, fast and bright, slow and dark.
_SUB_GENRE_SOUNDS: tuple[dict[str, float], ...] = (
    {},
    {"tempo": 1.12, "rolloff": 0.85, "decay": 0.8},
    {"tempo": 0.88, "rolloff": 1.2, "decay": 1.25},
)


@dataclass(frozen=True)
class Identity:
    """Which clip to render: all randomness follows from these.

    Attributes:
      seed, genre, artist_id, album_id, track_id: of the clip.
      sub_genre: position in _SUB_GENRE_SOUNDS.
    """

    seed: int
    genre: str
    artist_id: int
    album_id: int
    track_id: int
    sub_genre: int = 0


def render(identity: Identity) -> np.ndarray:
    """Renders a clip, float32 [SECONDS * SAMPLE_RATE], mono, within -1 and 1."""
    style, key, tilt = _style_of(identity)
    rng = np.random.default_rng((identity.seed, 3, identity.track_id))
    mix = _music(style, key, rng)
    if style.voice > 0.02:
        mix += style.voice * _voice(rng, spoken=style.lead + style.chords < 0.5)
    mix = np.tanh(style.drive * mix) / np.sqrt(style.drive)
    mix += style.noise * 0.2 * rng.standard_normal(_LENGTH, dtype=np.float32)
    mix = _record(mix, style, tilt, rng)
    level = 10 ** (rng.uniform(-12, -1) / 20)
    return (level * mix / max(float(np.abs(mix).max()), 1e-6)).astype(np.float32)


def _style_of(identity: Identity) -> tuple[Style, int, float]:
    """Returns the style of one clip, its key (MIDI note) and its spectral tilt (dB per octave)."""
    artist = np.random.default_rng((identity.seed, 1, identity.artist_id))
    album = np.random.default_rng((identity.seed, 2, identity.album_id))
    clip = np.random.default_rng((identity.seed, 4, identity.track_id))
    style = STYLES[identity.genre]
    changes = {name: factor * getattr(style, name) for name, factor in _SUB_GENRE_SOUNDS[identity.sub_genre].items()}
    style = _shift(dataclasses.replace(style, **changes), artist, _ARTIST_SPREAD)
    key, tilt = int(artist.integers(40, 52)), artist.normal(0, 1.2)
    if album.random() < _ALBUM_BORROWS:
        style = _borrow(style, album)
    style = _shift(style, album, _ALBUM_SPREAD)
    tilt += album.normal(0, 0.8)
    if clip.random() < _CLIP_BORROWS:
        style = _borrow(style, clip)
    style = _shift(style, clip, _CLIP_SPREAD)
    if clip.random() < _CLIP_IS_INTRO:
        style = _intro(style, clip)
    return style, key + int(clip.choice((0, 0, 0, 5, 7))), tilt + clip.normal(0, 0.8)


def _shift(style: Style, rng: np.random.Generator, spread: float) -> Style:
    """Multiplies every continuous field by a random factor."""
    factors = np.exp(spread * rng.standard_normal(len(SHIFTED)))
    changes = {name: getattr(style, name) * factor for name, factor in zip(SHIFTED, factors, strict=True)}
    changes["tempo"] = style.tempo * float(np.exp(0.3 * spread * rng.standard_normal()))
    changes["drive"] = max(changes["drive"], 1.0)
    return dataclasses.replace(style, **changes)


def _borrow(style: Style, rng: np.random.Generator) -> Style:
    """Takes one group of traits from another genre."""
    other = STYLES[GENRES[rng.integers(len(GENRES))]]
    group = GROUPS[rng.integers(len(GROUPS))]
    return dataclasses.replace(style, **{name: getattr(other, name) for name in group})


def _intro(style: Style, rng: np.random.Generator) -> Style:
    """Keeps two of the layers that the style has and almost silences the others."""
    sounding = [name for name in LEVELS if getattr(style, name) > 0.1]
    kept = set(rng.permutation(sounding)[:2])
    return dataclasses.replace(style, **{name: 0.1 * getattr(style, name) for name in sounding if name not in kept})


def _music(style: Style, key: int, rng: np.random.Generator) -> np.ndarray:
    """Drums, bass, chords and lead, float32 [samples]."""
    mix = np.zeros(_LENGTH + SAMPLE_RATE, np.float32)  # room for what rings on; cut off at the end
    beat = 60.0 / style.tempo
    beats = int(SECONDS / beat) + 1
    _add_drums(mix, style, beat, beats, rng)
    table = _wavetable(style.rolloff, style.even, rng)
    # One chord per two beats or bar, from the scale; third and fifth are scale steps above its root.
    span = int(rng.choice((2, 4)))
    roots = rng.choice((0, 0, 3, 4, 5), size=beats // span + 1)
    sine = _wavetable(3.0, 0.3, rng)
    for beat_number in range(beats):
        root = int(roots[beat_number // span])
        start = beat_number * beat
        if style.bass > 0.02:
            _add_note(mix, start, _frequency(style.scale, root, key - 12), sine, style.bass, 0.01, 0.3)
            if style.density > 1.5:
                late = start + beat * (0.5 + 0.25 * style.swing)
                _add_note(mix, late, _frequency(style.scale, root, key), sine, 0.6 * style.bass, 0.01, 0.2)
        if style.chords > 0.02 and (beat_number % span == 0 or style.attack < 0.05):
            for step in (0, 2, 4):
                pitch = _frequency(style.scale, root + step, key + 12)
                _add_note(mix, start, pitch, table, 0.3 * style.chords, style.attack, style.decay)
    if style.lead > 0.02:
        count = max(1, round(beats * min(style.density, 4.0)))
        steps = np.clip(np.cumsum(rng.integers(-2, 3, count)), -5, 9)
        onsets = np.arange(count) * beat / min(style.density, 4.0)
        onsets[1::2] += 0.25 * beat * style.swing
        for onset, step in zip(onsets, steps, strict=True):
            pitch = _frequency(style.scale, int(step), key + 24)
            level = 0.45 * style.lead * rng.uniform(0.6, 1.0)
            _add_note(mix, onset, pitch, table, level, style.attack, style.decay)
    return mix[:_LENGTH]


def _frequency(scale: tuple[int, ...], step: int, key: int) -> float:
    """Frequency in Hz of a scale step above a MIDI note."""
    octave, degree = divmod(step, len(scale))
    return 440.0 * 2.0 ** ((key + 12 * octave + scale[degree] - 69) / 12)


def _wavetable(rolloff: float, even: float, rng: np.random.Generator) -> np.ndarray:
    """One period of a tone with up to twelve partials, float32 [TABLE], peak 1."""
    partials = np.arange(1, 13)
    amplitudes = partials ** -float(rolloff)
    amplitudes[1::2] *= min(even, 1.0)
    spectrum = np.zeros(TABLE // 2 + 1, complex)
    spectrum[1:13] = amplitudes * np.exp(2j * np.pi * rng.random(12))
    wave = np.fft.irfft(spectrum)
    return (wave / np.abs(wave).max()).astype(np.float32)


def _add_note(
    mix: np.ndarray,
    start: float,
    frequency: float,
    table: np.ndarray,
    level: float,
    attack: float,
    decay: float,
) -> None:
    """Adds one tone to `mix`: a wavetable at `frequency` with a rising and falling envelope."""
    first = int(start * SAMPLE_RATE)
    count = min(int((attack + 3 * decay) * SAMPLE_RATE), len(mix) - first)
    if count <= 0:
        return
    time = np.arange(count, dtype=np.float32) / np.float32(SAMPLE_RATE)
    phase = (time * np.float32(frequency * TABLE)).astype(np.int32) & (TABLE - 1)
    envelope = np.exp(time * np.float32(-1 / decay)) * np.minimum(time * np.float32(1 / max(attack, 1e-3)), 1)
    mix[first : first + count] += np.float32(level) * table[phase] * envelope


def _add_drums(mix: np.ndarray, style: Style, beat: float, beats: int, rng: np.random.Generator) -> None:
    """Adds kick, snare and hi-hat to `mix`."""
    if max(style.drums, style.hats) < 0.02:
        return
    time = np.arange(int(0.25 * SAMPLE_RATE), dtype=np.float32) / np.float32(SAMPLE_RATE)
    noise = rng.standard_normal(len(time), dtype=np.float32)
    if style.pattern == "hand":  # skins: two pitched drums instead of kick and snare
        kick = np.sin(2 * np.pi * rng.uniform(90, 140) * time) * np.exp(-time * 14)
        snare = np.sin(2 * np.pi * rng.uniform(220, 380) * time) * np.exp(-time * 22) + 0.1 * noise * np.exp(
            -time * 80
        )
    else:
        sweep = np.cumsum(45 + 130 * np.exp(-time * 35)) / SAMPLE_RATE
        kick = np.sin(2 * np.pi * sweep) * np.exp(-time * rng.uniform(9, 18))
        snare = (0.6 * noise + 0.5 * np.sin(2 * np.pi * 190 * time)) * np.exp(-time * rng.uniform(14, 30))
    hat = np.diff(noise, prepend=np.float32(0)) * np.exp(-time * rng.uniform(40, 90))
    sounds = ((kick, style.drums), (0.7 * snare, style.drums), (0.35 * hat, style.hats))
    for (sound, level), pattern in zip(sounds, DRUMS[style.pattern], strict=True):
        hit = (np.float32(level) * sound).astype(np.float32)
        for step in range(4 * beats):
            if pattern[step % 16] == "x" and rng.random() > 0.04:
                late = 0.25 * style.swing if step % 4 == 2 else 0.0
                first = int((step + 2 * late) * beat / 4 * SAMPLE_RATE)
                room = len(mix) - first
                if room > 0:
                    mix[first : first + len(hit)] += hit[:room] * np.float32(rng.uniform(0.7, 1.0))


def _voice(rng: np.random.Generator, spoken: bool) -> np.ndarray:
    """A voice-like layer, float32 [samples]: a buzz, syllable by syllable, through three formants."""
    length = rng.uniform(0.14, 0.24) if spoken else rng.uniform(0.25, 0.6)
    per_syllable = int(length * SAMPLE_RATE)
    count = _LENGTH // per_syllable + 1
    pitch = rng.uniform(90, 220) * 2 ** (
        rng.choice((0, 2, 4, 5, 7), count) / 12 if not spoken else rng.normal(0, 0.12, count)
    )
    sounding = (rng.random(count) > 0.2).astype(np.float32)
    contour = np.repeat(pitch, per_syllable)[:_LENGTH]
    time = np.arange(_LENGTH) / SAMPLE_RATE
    vibrato = 1 + (0.0 if spoken else 0.012) * np.sin(2 * np.pi * 5.5 * time)
    phase = (np.cumsum(contour * vibrato) * (TABLE / SAMPLE_RATE)).astype(np.int64) & (TABLE - 1)
    shape = np.hanning(per_syllable).astype(np.float32) ** 0.5
    loudness = (sounding[:, None] * shape).ravel()[:_LENGTH]
    buzz = _BUZZ[phase] + 0.08 * rng.standard_normal(_LENGTH, dtype=np.float32)
    spectrum = scipy.fft.rfft(buzz * loudness)
    hertz = np.linspace(0, SAMPLE_RATE / 2, len(spectrum), dtype=np.float32)
    scale = rng.uniform(0.85, 1.2)
    formants = sum(
        gain / (1 + ((hertz - scale * centre) / width) ** 2)
        for centre, width, gain in ((550, 90, 1.0), (1400, 140, 0.6), (2600, 200, 0.35))
    )
    voice = scipy.fft.irfft(spectrum * formants, _LENGTH)
    return (0.6 * voice / max(float(np.abs(voice).max()), 1e-6)).astype(np.float32)


# One period with thirty equal partials: the source of the voice.
_BUZZ = (np.cos(2 * np.pi * np.outer(np.arange(1, 31), np.arange(TABLE) / TABLE)).sum(axis=0) / 30).astype(np.float32)


def _record(mix: np.ndarray, style: Style, tilt: float, rng: np.random.Generator) -> np.ndarray:
    """Room, band limits and equaliser of the recording, in one pass over the spectrum; float32 [samples]."""
    tail = int(min(style.reverb, 1.5) * SAMPLE_RATE)
    size = scipy.fft.next_fast_len(_LENGTH + tail, real=True)
    room = rng.standard_normal(tail, dtype=np.float32)
    room *= np.exp(np.arange(tail, dtype=np.float32) * np.float32(-5.0 / max(tail, 1)))
    room *= np.float32(0.5 * np.sqrt(style.reverb) / np.sqrt(np.square(room).sum() + 1e-9))
    room[0] += 1.0
    hertz = np.linspace(0, SAMPLE_RATE / 2, size // 2 + 1, dtype=np.float32)
    band = 1 / np.sqrt((1 + (style.low_cut / (hertz + 1)) ** 4) * (1 + (hertz / style.high_cut) ** 6))
    equaliser = 10 ** (np.float32(tilt / 20) * np.log2((hertz + 50) / 1000))
    spectrum = scipy.fft.rfft(mix, size) * scipy.fft.rfft(room, size) * (band * equaliser)
    return scipy.fft.irfft(spectrum, size)[:_LENGTH].astype(np.float32)
