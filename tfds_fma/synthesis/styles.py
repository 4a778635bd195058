"""The sound of each genre of the demo corpus: a table of styles."""

from dataclasses import dataclass

TABLE = 2048  # samples of a wavetable, one period


_MAJOR = (0, 2, 4, 5, 7, 9, 11)


_MINOR = (0, 2, 3, 5, 7, 8, 10)


_BLUES = (0, 3, 5, 6, 7, 10)


_PENTATONIC = (0, 2, 4, 7, 9)


_PHRYGIAN_DOMINANT = (0, 1, 4, 5, 7, 8, 10)


_WHOLE_TONE = (0, 2, 4, 6, 8, 10)


# Kick, snare and hi-hat on the sixteen steps of a bar.
DRUMS = {
    "rock": ("x.....x.x.x.....", "....x.......x...", "x.x.x.x.x.x.x.x."),
    "house": ("x...x...x...x...", "....x.......x...", "..x...x...x...x."),
    "boom-bap": ("x..x......x.....", "....x..x.x..x...", "x.xxx.x.x.xxx.x."),
    "pop": ("x...x.x.x...x...", "....x.......x...", "x.x.x.x.x.x.x.x."),
    "hand": ("x..x..x...x.x...", "..x..x..x..x..xx", "................"),
    "ride": ("x...............", "......x......x..", "x...x.x.x...x.x."),
    "shuffle": ("x.......x.......", "....x.......x...", "x..xx..xx..xx..x"),
    "train": ("x...x...x...x...", "..x...x...x...x.", "xxxxxxxxxxxxxxxx"),
    "oom-pah": ("x.......x.......", "....x.......x...", "................"),
    "soft": ("x.......x.......", "....x.......x...", "x...x...x...x..."),
}


@dataclass(frozen=True)
class Style:
    """How a genre sounds.

    Attributes:
      tempo: beats per minute.
      pattern: drum pattern, a key of DRUMS.
      scale: semitones above the key note.
      drums, hats, bass, chords, lead, voice, noise: levels of the layers.
      rolloff: partial k of a tone has the amplitude k ** -rolloff: small is bright.
      even: level of the even partials (0 sounds hollow, like a clarinet).
      attack, decay: seconds in which a tone rises and falls.
      density: lead notes per beat.
      swing: delay of every second eighth, as a share of it.
      drive: distortion; 1 is clean.
      reverb: seconds in which the room dies away.
      low_cut, high_cut: band of the recording in Hz.
    """

    tempo: float
    pattern: str
    scale: tuple[int, ...]
    drums: float = 0.0
    hats: float = 0.0
    bass: float = 0.0
    chords: float = 0.0
    lead: float = 0.0
    voice: float = 0.0
    noise: float = 0.01
    rolloff: float = 1.5
    even: float = 1.0
    attack: float = 0.01
    decay: float = 0.4
    density: float = 1.0
    swing: float = 0.0
    drive: float = 1.0
    reverb: float = 0.25
    low_cut: float = 40.0
    high_cut: float = 9000.0


STYLES: dict[str, Style] = {
    "Rock": Style(
        128,
        "rock",
        _MINOR,
        drums=0.9,
        hats=0.5,
        bass=0.6,
        chords=0.9,
        lead=0.35,
        voice=0.3,
        rolloff=0.9,
        drive=4.0,
        decay=0.5,
        density=1.0,
    ),
    "International": Style(
        108,
        "hand",
        _PHRYGIAN_DOMINANT,
        drums=0.7,
        bass=0.2,
        chords=0.1,
        lead=0.8,
        voice=0.35,
        rolloff=1.1,
        decay=0.25,
        density=2.5,
        reverb=0.4,
    ),
    "Folk": Style(
        98,
        "soft",
        _MAJOR,
        drums=0.05,
        bass=0.2,
        chords=0.3,
        lead=0.7,
        voice=0.4,
        rolloff=1.6,
        decay=0.45,
        density=2.0,
        reverb=0.3,
    ),
    "Experimental": Style(
        84,
        "hand",
        _WHOLE_TONE,
        drums=0.2,
        hats=0.1,
        chords=0.5,
        lead=0.3,
        noise=0.35,
        rolloff=0.8,
        even=0.4,
        attack=0.2,
        decay=1.2,
        density=0.7,
        drive=2.0,
        reverb=1.2,
    ),
    "Instrumental": Style(
        86,
        "soft",
        _PENTATONIC,
        drums=0.2,
        hats=0.1,
        bass=0.3,
        chords=0.7,
        lead=0.5,
        rolloff=1.9,
        attack=0.1,
        decay=0.9,
        density=0.8,
        reverb=0.9,
    ),
    "Pop": Style(
        112,
        "pop",
        _MAJOR,
        drums=0.7,
        hats=0.4,
        bass=0.45,
        chords=0.5,
        lead=0.3,
        voice=0.75,
        rolloff=1.2,
        decay=0.35,
        density=1.0,
        reverb=0.35,
    ),
    "Hip-Hop": Style(
        90,
        "boom-bap",
        _MINOR,
        drums=1.2,
        hats=0.35,
        bass=1.0,
        chords=0.3,
        lead=0.1,
        voice=0.6,
        rolloff=1.8,
        decay=0.5,
        density=0.5,
        reverb=0.15,
    ),
    "Electronic": Style(
        127,
        "house",
        _MINOR,
        drums=1.1,
        hats=0.6,
        bass=0.7,
        chords=0.35,
        lead=0.4,
        rolloff=1.0,
        decay=0.18,
        density=3.0,
        reverb=0.3,
    ),
    "Soul-RnB": Style(
        84,
        "soft",
        _MINOR,
        drums=0.5,
        hats=0.3,
        bass=0.7,
        chords=0.6,
        lead=0.15,
        voice=0.8,
        rolloff=2.2,
        decay=0.7,
        density=0.6,
        swing=0.3,
        reverb=0.4,
    ),
    "Blues": Style(
        92,
        "shuffle",
        _BLUES,
        drums=0.45,
        hats=0.35,
        bass=0.6,
        chords=0.3,
        lead=0.8,
        voice=0.35,
        rolloff=1.2,
        decay=0.4,
        density=1.8,
        swing=0.6,
        drive=2.2,
    ),
    "Old-Time / Historic": Style(
        116,
        "oom-pah",
        _MAJOR,
        drums=0.1,
        bass=0.3,
        chords=0.4,
        lead=0.8,
        voice=0.4,
        noise=0.06,
        rolloff=1.1,
        decay=0.25,
        density=2.2,
        low_cut=350,
        high_cut=3200,
        reverb=0.1,
    ),
    "Jazz": Style(
        158,
        "ride",
        _BLUES,
        drums=0.35,
        hats=0.6,
        bass=0.7,
        chords=0.35,
        lead=0.8,
        rolloff=1.1,
        even=0.35,
        attack=0.03,
        decay=0.3,
        density=2.4,
        swing=0.65,
        reverb=0.4,
    ),
    "Country": Style(
        122,
        "train",
        _PENTATONIC,
        drums=0.4,
        hats=0.35,
        bass=0.5,
        chords=0.45,
        lead=0.6,
        voice=0.55,
        rolloff=1.0,
        decay=0.3,
        density=2.0,
        reverb=0.2,
    ),
    "Classical": Style(
        76,
        "soft",
        _MAJOR,
        chords=0.6,
        lead=0.7,
        bass=0.15,
        rolloff=1.5,
        attack=0.15,
        decay=0.8,
        density=1.6,
        reverb=1.1,
        noise=0.003,
    ),
    "Spoken": Style(
        100,
        "soft",
        _MAJOR,
        voice=1.2,
        noise=0.01,
        reverb=0.08,
        low_cut=90,
        high_cut=7000,
    ),
    "Easy Listening": Style(
        94,
        "soft",
        _MAJOR,
        drums=0.15,
        hats=0.2,
        bass=0.35,
        chords=0.8,
        lead=0.45,
        rolloff=2.4,
        attack=0.08,
        decay=0.7,
        density=1.0,
        swing=0.2,
        reverb=0.7,
    ),
}


# Fields that artists, albums and clips shift, each by a factor drawn from a log-normal distribution.
SHIFTED = (
    "drums", "hats", "bass", "chords", "lead", "voice", "noise",
    "rolloff", "even", "attack", "decay", "density", "drive", "reverb", "high_cut",
)  # fmt: skip


LEVELS = SHIFTED[:7]


# What a clip or an album takes over when it borrows from another genre: one of these groups.
GROUPS = (
    ("pattern", "drums", "hats", "tempo", "swing"),
    ("rolloff", "even", "attack", "decay", "drive", "density"),
    ("bass", "chords", "lead", "voice"),
    ("noise", "reverb", "low_cut", "high_cut", "scale"),
)
