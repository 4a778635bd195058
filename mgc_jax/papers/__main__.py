"""Lists the systems of the papers, their layers and their datasets: `python -m mgc_jax.papers`."""

import argparse
import sys
from collections.abc import Sequence

from flax import nnx

from mgc_jax.errors import UserError
from mgc_jax.models.classifier import build_model, count_parameters
from mgc_jax.models.summary import layers_of
from mgc_jax.papers import SYSTEMS, ubc_tables
from mgc_jax.papers.system import System
from tfds_fma.source.counts import clips_per_split


def parameters(system: System) -> int | None:
    """Returns the parameters of a system as built here; None for a baseline of scikit-learn."""
    config = system.config()
    if config.baseline.name:
        return None
    # Shapes alone: FCN-4 has 17 million weights.
    return count_parameters(
        nnx.eval_shape(lambda: build_model(config.model, system.clip_shape, system.num_genres, seed=0))
    )


def table() -> str:
    """Returns the list of the systems with their parameter counts, for the terminal."""
    lines = [f"{'system':<29}{'paper':<7}{'input':<13}{'parameters':>11}{'published':>13}  config"]
    lines.append("-" * 99)
    for system in SYSTEMS:
        ours, published = parameters(system), ""
        if system.published is not None:
            published = f"{system.published:,}{' ' if system.printed else '*'}"
        lines.append(
            f"{system.name:<29}{system.paper.name:<7}{_size(system.clip_shape):<13}"
            f"{'' if ours is None else f'{ours:,}':>11}{published:>13}  {system.file}"
        )
    lines.append("* follows from the layers that the paper describes; it does not print the number.")
    lines.append("To train one: python -m mgc_jax.main --config matt_crnn_tf")
    return "\n".join(lines)


def layers(file: str) -> str:
    """Returns the layers of a system with output shapes and parameters, as the PRCNN report's figure 4 has them.

    Convolution, normalization, activation and pooling are one layer here.

    Args:
        file: the system's experiment, without `.py`.

    Raises:
        UserError: there is no such system, or it is a baseline of scikit-learn.
    """
    systems = {system.file: system for system in SYSTEMS}
    if file not in systems:
        raise UserError(f"there is no system {file!r}: choose one of {', '.join(systems)}")
    system, config = systems[file], systems[file].config()
    if config.baseline.name:
        raise UserError(f"{file} is a baseline of scikit-learn and has no layers")
    found = layers_of(config.model, system.clip_shape, system.num_genres)
    lines = [f"{'layer':<32}{'kind':<24}{'output':<18}{'parameters':>11}", "-" * 85]
    lines.append(f"{'clip':<32}{'':<24}{_size(system.clip_shape):<18}{'':>11}".rstrip())
    for layer in found:
        own = f"{layer.parameters:,}" if layer.parameters else ""
        lines.append(f"{layer.name:<32}{layer.kind:<24}{_size(layer.shape):<18}{own:>11}".rstrip())
    lines.append(f"{'total':<74}{sum(layer.parameters for layer in found):>11,}")
    return "\n".join(lines)


def datasets() -> str:
    """Returns Table 1 of the PRCNN report, with the number of tracks that FMA itself gives."""
    lines = [f"{'dataset':<12}{'tracks':>9}{'of FMA':>9}{'genres':>8}{'artists':>9}{'published':>11}", "-" * 58]
    for row in ubc_tables.TABLE1:
        tracks = clips_per_split(row.subset)
        own = f"{sum(tracks.values()):,}" if tracks else ""
        artists = "" if row.artists is None else f"{row.artists:,}"
        lines.append(f"{row.name:<12}{row.tracks:>9,}{own:>9}{row.genres:>8}{artists:>9}{row.year:>11}")
    return "\n".join(lines)


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m mgc_jax.papers",
        description="Lists the systems of the papers with their parameter counts; or the layers of one; or the "
        "datasets that the PRCNN report compares (its Table 1).",
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--layers", metavar="SYSTEM", help="a system by its configuration, such as prcnn")
    choice.add_argument("--datasets", action="store_true", help="the datasets that the PRCNN report compares")
    given = parser.parse_args(arguments)
    try:
        print(layers(given.layers) if given.layers else datasets() if given.datasets else table())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
