"""Prepares FMA, GTZAN, music or arrays of your own: gets the clips, computes a representation, writes a TFDS dataset.

python -m tfds_fma.prepare --source ~/fma --subset small --representation mel_1360x96 --data_dir ~/data
python -m tfds_fma.prepare --audio ~/music --name mine --representation mel_1360x96 --data_dir ~/data
python -m tfds_fma.prepare --gtzan genres.tar.gz --representation stft_128x513 --data_dir ~/data
python -m tfds_fma.prepare --from_arrays mels.npz --table tracks.csv --subset small --representation mel_100x250 \
    --data_dir ~/data

Without a source, a dataset that is there already gets the columns file that it lacks.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tfds_fma.command_line import DEFAULT_REPRESENTATION, exit_status
from tfds_fma.errors import UserError
from tfds_fma.labels import SUBSETS, own_subset
from tfds_fma.parallel import usable_cores
from tfds_fma.preparation import complete_prepared, prepare, prepare_arrays, prepare_clips, prepare_collection
from tfds_fma.representations.registry import REPRESENTATIONS

if TYPE_CHECKING:
    from tfds_fma.source.arrays import ArrayFiles

# Flags that belong to precomputed arrays, and those that belong to an FMA tree.
_ARRAY_FLAGS = ("from_arrays", "table", "axes", "clips_key", "ids", "ids_key", "features", "genres", "columns")


_TREE_FLAGS = ("source", "download", "unverified")

# Those of all clips that are computed from audio.
_WORK_FLAGS = ("workers", "beam")

# And those of a music collection, beside --table.
_COLLECTION_FLAGS = ("audio", "name", "clips", "genre_from", "split_seed")

_DEFAULT_NAME = "music"

_GTZAN = "gtzan"  # name of its collection


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    args = _parse(argv)
    return exit_status(lambda: _run(args))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m tfds_fma.prepare", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--source",
        metavar="DIR",
        help="folder with fma_metadata and fma_small, fma_medium, ..., extracted or zipped",
    )
    parser.add_argument("--subset", choices=SUBSETS, help="of FMA; for arrays, the first part of the dataset's name")
    parser.add_argument(
        "--representation",
        metavar="NAME",
        help=f"one of {', '.join(REPRESENTATIONS)}; or audio_RATE; or any name for precomputed arrays. Default, with "
        f"--source, --gtzan or --audio: {DEFAULT_REPRESENTATION}",
    )
    parser.add_argument(
        "--data_dir",
        required=True,
        metavar="DIR",
        help="where TFDS keeps datasets, e.g. ~/tensorflow_datasets",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help=f"processes that decode; default: one per usable core ({usable_cores()})",
    )
    parser.add_argument("--overwrite", action="store_true", help="prepare again what is there already")
    parser.add_argument(
        "--download", action="store_true", help="first get the official archives that are not in the source folder"
    )
    parser.add_argument(
        "--unverified", action="store_true", help="accept zip files whose checksums are not those of FMA"
    )
    parser.add_argument(
        "--beam",
        nargs="?",
        const="",
        metavar="OPTIONS",
        help="make the clips with Apache Beam; e.g. --beam='--runner=FlinkRunner --parallelism=64'. Every worker must "
        "see the folders under the same paths",
    )
    parser.add_argument(
        "--gtzan",
        metavar="PATH",
        default=argparse.SUPPRESS,
        help="instead of --source and --subset: GTZAN, as genres.tar.gz, the folder of genres in it, or Kaggle's "
        "Data/genres_original. To train on it: --config.data.corpus=own_gtzan",
    )
    _add_collection_flags(parser)
    _add_array_flags(parser)
    return parser.parse_args(argv)


def _add_collection_flags(parser: argparse.ArgumentParser) -> None:
    """Adds `_COLLECTION_FLAGS`, absent from the namespace if not given: `Collection` has the defaults."""
    flags = parser.add_argument_group(
        "your own music",
        "instead of --source and --subset: any audio files, whose genre, artist and album a --table tells (columns "
        "path, genre, artist, album, title, split), or their tags, or folders FOLDER/genre/artist/album/song",
        argument_default=argparse.SUPPRESS,
    )
    flags.add_argument("--audio", metavar="FOLDER", help="folder of audio files, at any depth")
    flags.add_argument(
        "--name",
        help=f"name of the collection; default: {_DEFAULT_NAME}. To train on it: --config.data.corpus=own_NAME",
    )
    flags.add_argument(
        "--clips",
        choices=("middle", "every"),
        help="30 s from the middle of each song, as FMA's (default), or consecutive windows of all of it",
    )
    flags.add_argument(
        "--genre_from",
        choices=("table", "tags", "folders"),
        help="default: the table if it has a column genre, else the tags if half of the songs have it, else folders",
    )
    flags.add_argument("--split_seed", type=int, metavar="N", help="of the draw of artists into splits; default: 0")


def _add_array_flags(parser: argparse.ArgumentParser) -> None:
    """Adds `_ARRAY_FLAGS`. Those that are not given are absent from the namespace: `ArrayFiles` has the defaults."""
    flags = parser.add_argument_group(
        "precomputed arrays",
        "instead of --source: arrays and a track table, or feature columns of the table",
        argument_default=argparse.SUPPRESS,
    )
    clips = flags.add_mutually_exclusive_group()
    clips.add_argument(
        "--from_arrays", metavar="FILE", help=".npz or .npy of per-clip arrays: uint8, float16 or float32"
    )
    flags.add_argument("--table", metavar="FILE", help="CSV file with a header row and a row per clip")
    flags.add_argument(
        "--axes",
        metavar="NAMES",
        help="order of the axes: 'clip time mel' (default), 'clip mel time' or 'clip feature'; stored with time first",
    )
    flags.add_argument(
        "--clips_key", metavar="NAME", help="the clips in the .npz; default: its only array beside the ids"
    )
    flags.add_argument("--ids", metavar="FILE", help=".npy of track ids; default: those in the .npz, else the table's")
    flags.add_argument("--ids_key", metavar="NAME", help="the track ids in the .npz; default: track_id; '': none")
    clips.add_argument(
        "--features", nargs="+", metavar="COLUMN", help="instead of --from_arrays: columns of the table"
    )
    flags.add_argument(
        "--genres",
        nargs="+",
        metavar="NAME",
        help="label list; default: FMA's of the subset, or the table's own genres",
    )
    flags.add_argument(
        "--columns",
        nargs="+",
        metavar="WHAT=NAME",
        help="columns of the table; default: track_id=track_id genre=genre_top split=split artist=artist_id "
        "album=album_id title= artist_name= subset= (the last five may be empty: unknown)",
    )


def _check_flags(args: argparse.Namespace) -> None:
    """Raises UserError unless the clips come from one place, and all flags are that place's."""

    def given(names: Sequence[str]) -> list[str]:
        return [f"--{name}" for name in names if getattr(args, name, None) not in (None, False)]

    if "gtzan" in args:
        if wrong := given((*_ARRAY_FLAGS, *_TREE_FLAGS, *_COLLECTION_FLAGS, "subset")):
            raise UserError(f"{wrong[0]} is not for --gtzan: leave out the one or the other.")
        return
    if "audio" in args:
        wrong = given([name for name in (*_ARRAY_FLAGS, *_TREE_FLAGS, "subset") if name != "table"])
        if wrong:
            raise UserError(f"{wrong[0]} is not for --audio, your own music: leave out the one or the other.")
        return
    if of_collection := given(_COLLECTION_FLAGS):
        raise UserError(f"{of_collection[0]} is for your own music: name its folder with --audio FOLDER.")
    of_arrays = [f"--{name}" for name in _ARRAY_FLAGS if name in args]
    of_tree = given((*_TREE_FLAGS, *_WORK_FLAGS))
    if of_arrays and of_tree:
        raise UserError(
            f"{of_tree[0]} is for an FMA tree, {of_arrays[0]} for precomputed arrays: leave out the one or the other."
        )
    if not of_arrays and args.source is None:
        raise UserError(
            "Say what to prepare: --source DIR for an FMA tree, --audio FOLDER for your own music, --gtzan PATH for "
            "GTZAN, or --from_arrays FILE --table FILE for precomputed arrays."
        )
    if args.subset is None:
        raise UserError(f"Say which subset: --subset {', '.join(SUBSETS[:-1])} or {SUBSETS[-1]}.")
    if of_arrays and args.representation is None:
        raise UserError("Give what the arrays hold a name of its own: --representation NAME, such as mel_100x250.")


def _named(args: argparse.Namespace) -> str:
    """The subset to complete, or what a collection is called in its place; "" if a source or too little is named."""
    of_source = args.source is not None or any(name in args for name in (*_ARRAY_FLAGS, "audio", "gtzan"))
    if of_source or args.overwrite or args.representation is None:
        return ""
    return own_subset(args.name) if "name" in args else args.subset or ""


def _array_files(args: argparse.Namespace) -> "ArrayFiles":
    """Turns the flags of precomputed arrays into what they name."""
    from tfds_fma.source.arrays import ArrayFiles
    from tfds_fma.source.track_table import parse_columns

    given = {name: value for name, value in vars(args).items() if name in _ARRAY_FLAGS}
    return ArrayFiles(
        table=given.pop("table", ""),
        clips=given.pop("from_arrays", ""),
        columns=parse_columns(given.pop("columns", ())),
        **given,
    )


def _run(args: argparse.Namespace) -> None:
    """Prepares what the flags name; downloads it first if asked to."""
    if (subset := _named(args)) and complete_prepared(subset, args.representation, args.data_dir, print):
        return
    _check_flags(args)
    representation = args.representation or DEFAULT_REPRESENTATION
    if args.source is None and "audio" not in args and "gtzan" not in args:
        prepare_arrays(_array_files(args), args.subset, args.representation, args.data_dir, overwrite=args.overwrite)
        return
    try:
        beam_options = None if args.beam is None else shlex.split(args.beam)
    except ValueError as error:
        raise UserError(f"--beam={args.beam!r} cannot be split into options: {error}.") from error
    work: dict[str, Any] = {"workers": args.workers, "overwrite": args.overwrite, "beam_options": beam_options}
    if "gtzan" in args:
        from tfds_fma.collection.source import gtzan_source

        prepare_clips(
            lambda: gtzan_source(args.gtzan, representation, args.data_dir, print),
            own_subset(_GTZAN),
            representation,
            args.data_dir,
            **work,
        )
        _tell_how_to_train(own_subset(_GTZAN), representation)
        return
    if "audio" in args:
        from tfds_fma.collection.source import Collection

        flags = {name: getattr(args, name) for name in (*_COLLECTION_FLAGS, "table") if name in args}
        name = flags.pop("name", _DEFAULT_NAME)
        prepare_collection(
            Collection(**flags),
            name,
            representation,
            args.data_dir,
            **work,
        )
        _tell_how_to_train(own_subset(name), representation)
        return
    prepare(
        args.source,
        args.subset,
        representation,
        args.data_dir,
        download=args.download,
        unverified=args.unverified,
        **work,
    )


def _tell_how_to_train(subset: str, representation: str) -> None:
    print(f"to train on it: --config.data.corpus={subset} --config.data.representation={representation}")


if __name__ == "__main__":
    sys.exit(main())
