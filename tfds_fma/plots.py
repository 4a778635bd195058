"""Pictures of a prepared dataset, drawn with Matplotlib: how its genres are distributed, what its clips look like."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfds_fma import reading
from tfds_fma.errors import UserError
from tfds_fma.labels import SUBSETS
from tfds_fma.paths import local_path
from tfds_fma.representations.base import AudioRepresentation
from tfds_fma.representations.log_mel import LogStft
from tfds_fma.representations.registry import get_representation
from tfds_fma.storage import layout

if TYPE_CHECKING:
    import numpy as np

    from tfds_fma.description import Description

# Colours that people with any colour vision tell apart (Okabe and Ito, Color Universal Design, 2008).
_SPLIT_COLOURS = {"train": "#0072B2", "validation": "#E69F00", "test": "#009E73"}
_WAVE_COLOUR = "#0072B2"
# Rises in brightness all the way, hence readable in any colour vision and in grey.
_SPECTROGRAM_COLOURS = "magma"

_DPI = 120
_FONT_SIZES: Any = {"font.size": 10, "axes.titlesize": 10, "figure.titlesize": 13}

# A single clip still has a bar.
_AXIS_START = 0.7

# Records decoded at a time while looking for the first clip of each genre.
_BATCH = 16

_HZ_TICKS = (0, 250, 500, 1000, 2000, 4000, 8000, 16000)

# Columns of pixels of a waveform.
_WAVE_COLUMNS = 600


def require_matplotlib() -> None:
    """Raises UserError if Matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError("Pictures need Matplotlib. Install it with: pip install matplotlib") from error


def plot_genres(description: "Description", path: str | Path) -> None:
    """Draws the clips of each genre and split as bars, the most frequent genre on top (as MATT, Fig. 1).

    The axis is logarithmic: on a linear one, the rare genres of FMA-medium (13 of 19,922 clips) have no visible bar.

    Args:
      description: the dataset, from `tfds_fma.description.describe`.
      path: PNG file to write.

    Raises:
      UserError: if Matplotlib is not installed or the file cannot be written.
    """
    require_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from tfds_fma.description import NO_GENRE

    clips = description.clips
    # What is no genre comes last, however frequent it is.
    genres = sorted(clips["train"], key=lambda genre: (genre == NO_GENRE, -clips["train"][genre]))
    most = max(count for numbers in clips.values() for count in numbers.values())
    height = 0.8 / len(clips)
    with mpl.rc_context(_FONT_SIZES):
        figure = Figure(figsize=(9, 1.6 + 0.55 * len(genres)), layout="constrained")
        axes = figure.subplots()
        for row, (split, colour) in enumerate(_SPLIT_COLOURS.items()):
            counts = [clips[split][genre] for genre in genres]
            places = [position + (row - 1) * height for position in range(len(genres))]
            axes.barh(places, counts, 0.9 * height, color=colour, label=f"{split} ({sum(counts)})")
            for place, count in zip(places, counts, strict=True):
                # Also 0, which has no bar on a logarithmic axis.
                axes.annotate(
                    f"{count}",
                    (max(count, _AXIS_START), place),
                    (3, 0),
                    textcoords="offset points",
                    va="center_baseline",
                    fontsize=8.5,
                )
        axes.set_xscale("log")
        axes.set_xlim(_AXIS_START, 2 * max(most, 10))  # with room for the number of the longest bar
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.set_yticks(range(len(genres)), genres)
        axes.set_ylim(len(genres) - 0.45, -0.55)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("clips (logarithmic)")
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=len(clips), frameon=False)  # apart from the bars
        figure.suptitle(f"{_corpus(description.subset, description.demo)}: clips per genre")
        _save(figure, path)


def plot_examples(dataset_path: str | Path, path: str | Path) -> bool:
    """Draws the first training clip of each genre: its spectrogram (as the UBC report, Fig. 1) or its waveform.

    All spectrograms share one colour scale, all waveforms one axis.

    Args:
      dataset_path: folder of the prepared dataset.
      path: PNG file to write.

    Returns:
      Whether there is something to draw; False for feature vectors and precomputed arrays, and without any labelled
      training clip.

    Raises:
      UserError: if Matplotlib is not installed, the dataset cannot be read, or the file cannot be written.
    """
    require_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    dataset_path = Path(dataset_path)
    names = reading.class_names(dataset_path)
    sources = reading.load(dataset_path)
    config_name = next(iter(sources.values())).dataset_info.config_name
    subset, _, representation_name = config_name.rpartition("-")
    try:
        representation = get_representation(representation_name)
    except UserError:  # a name given to precomputed arrays, of which neither axis is known
        return False
    if not isinstance(representation, AudioRepresentation):
        return False
    examples = _first_of_each_genre(sources.get("train", ()), len(names))
    if not examples:
        return False
    columns = 4 if len(examples) > 4 else len(examples)
    rows = -(-len(examples) // columns)
    with mpl.rc_context(_FONT_SIZES):
        figure = Figure(figsize=(max(7, 1.2 + 3.2 * columns), 1.5 + 2.3 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        panels = list(grid.flat)
        for axes, (genre, (track_id, _)) in zip(panels, examples.items(), strict=False):
            axes.set_title(f"{names[genre]} (track {track_id})")
        clips = [clip for _, clip in examples.values()]
        if len(representation.shape) == 2:
            _draw_spectrograms(figure, panels, clips, representation)
        else:
            _draw_waveforms(figure, panels, clips, representation)
        for axes in panels[len(examples) :]:
            axes.set_visible(False)
        for axes in panels[max(0, len(examples) - columns) : len(examples)]:
            axes.tick_params(labelbottom=True)  # also above an empty panel
        figure.supxlabel("time in s", fontsize=10)
        corpus = _corpus(subset, layout.is_demo(dataset_path))
        figure.suptitle(f"{corpus}\n{representation.name}: first training clip of each genre")
        _save(figure, path)
    return True


def _first_of_each_genre(source: Any, genres: int) -> dict[int, tuple[int, "np.ndarray"]]:
    """Finds the first clip of each genre that has one: class id -> (track id, clip), by class id."""
    found: dict[int, tuple[int, np.ndarray]] = {}
    for start in range(0, len(source), _BATCH):
        for example in source.__getitems__(list(range(start, min(start + _BATCH, len(source))))):
            genre = int(example["genre"])
            if 0 <= genre < genres and genre not in found:
                # A copy: what TFDS returns keeps the whole record in memory.
                found[genre] = (int(example["track_id"]), example["clip"].copy())
        if len(found) == genres:
            break
    return dict(sorted(found.items()))


def _draw_spectrograms(figure: Any, panels: list[Any], clips: list["np.ndarray"], representation: Any) -> None:
    """Draws clips [frame, band] with time to the right and frequency upwards."""
    import numpy as np

    images = [clip.T.astype(np.float32) for clip in clips]
    low, high = min(float(image.min()) for image in images), max(float(image.max()) for image in images)
    bands, frames = images[0].shape
    # The frame f is centred on the sample f * hop.
    seconds = representation.hop / representation.sample_rate
    extent = (-0.5 * seconds, (frames - 0.5) * seconds, -0.5, bands - 0.5)
    drawn = None
    for axes, image in zip(panels, images, strict=False):
        drawn = axes.imshow(
            image,
            vmin=low,
            vmax=high,
            extent=extent,
            origin="lower",
            aspect="auto",
            cmap=_SPECTROGRAM_COLOURS,
            interpolation="nearest",
        )
    if linear := isinstance(representation, LogStft):
        hertz_per_bin = representation.sample_rate / representation.n_fft
        ticks = {hertz: hertz / hertz_per_bin for hertz in range(0, representation.sample_rate // 2 + 1, 2000)}
    else:
        ticks = mel_ticks(representation.sample_rate, representation.n_fft, representation.n_mels)
    panels[0].set_yticks(list(ticks.values()), [str(hertz) for hertz in ticks])
    unit = {"dB": "power in dB", "ln": "natural logarithm of the power"}[representation.scale]
    figure.colorbar(drawn, ax=panels, label=unit, fraction=0.03, pad=0.01, aspect=40)
    figure.supylabel("frequency in Hz" if linear else "frequency in Hz, mel scale", fontsize=10)


def mel_ticks(sample_rate: int, n_fft: int, n_mels: int) -> dict[int, float]:
    """Returns round frequencies in Hz -> their place on the axis of mel bands (0 is the centre of the lowest band)."""
    import numpy as np

    from tfds_fma.representations.spectrogram import mel_filters

    filters = mel_filters(sample_rate, n_fft, n_mels)
    bins = np.fft.rfftfreq(n_fft, 1.0 / sample_rate)
    # A band's weight is zero where it lies between two bins of a short window; such a band marks no frequency.
    weight = filters.sum(axis=1)
    bands = np.flatnonzero(weight)
    centres = (filters[bands] @ bins) / weight[bands]
    inside = [hertz for hertz in _HZ_TICKS if centres[0] <= hertz <= centres[-1]]
    return {hertz: float(np.interp(hertz, centres, bands)) for hertz in inside}


def _draw_waveforms(figure: Any, panels: list[Any], clips: list["np.ndarray"], representation: Any) -> None:
    """Draws int16 clips [sample] as the range of the amplitude in each column of pixels, full scale being 1."""
    import numpy as np

    size = max(1, len(clips[0]) // _WAVE_COLUMNS)
    starts = np.arange(0, len(clips[0]), size)
    seconds = (starts + size / 2) / representation.sample_rate
    for axes, clip in zip(panels, clips, strict=False):
        low, high = (part.reduceat(clip, starts) / 32767 for part in (np.minimum, np.maximum))
        axes.fill_between(seconds, low, high, color=_WAVE_COLOUR, linewidth=0.3)
    panels[0].set_ylim(-1.05, 1.05)
    panels[0].set_xlim(0, len(clips[0]) / representation.sample_rate)
    figure.supylabel("amplitude (full scale: 1)", fontsize=10)


def _corpus(subset: str, demo: bool) -> str:
    """Names the corpus in a title."""
    name = f"FMA-{subset}" if subset in SUBSETS else subset
    return f"SYNTHETIC demo corpus laid out as {name}" if demo else name


def _save(figure: Any, path: str | Path) -> None:
    """Writes a figure as PNG; a figure that is not pyplot's needs no display."""
    try:
        figure.savefig(local_path(path), format="png", dpi=_DPI)
    except OSError as error:
        raise UserError(f"Cannot write {path} ({error.strerror}). Choose another file.") from error
