"""Making shards with Apache Beam, on one machine or on a cluster."""

import shlex
from typing import Any

from tfds_fma.errors import UserError, in_words
from tfds_fma.storage.shards import ShardJob, make_shard

_DASK = "apache_beam.runners.dask.dask_runner.DaskRunner"  # has no short name


def pipeline_options(flags: list[str]) -> Any:
    """Parses Beam's command-line options.

    Returns:
      Beam's `PipelineOptions`.

    Raises:
      UserError: Beam is not installed, has no such runner, or the runner lacks an option.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
    except ImportError as error:
        raise UserError("Apache Beam is not installed. Install it with: pip install 'mgc-jax[beam]'") from error
    options = PipelineOptions(flags)
    try:
        beam.Pipeline(options=options)
    except Exception as error:  # of any runner
        reason = " ".join(in_words(error).split()).rstrip(".")
        of_dask = "dask" in (options.view_as(StandardOptions).runner or "").lower()
        remedy = f" Dask's is --runner={_DASK}, after: pip install 'mgc-jax[dask]'." if of_dask else ""
        raise UserError(f"--beam={shlex.join(flags)!r}: {reason}.{remedy}") from error
    return options


def make_shards(jobs: list[ShardJob], options: Any, runner: Any) -> None:
    """Makes shards.

    Args:
      jobs: the shards; every worker must see the source and the staging folder under the same paths.
      options: of `pipeline_options`, or None for Beam's defaults.
      runner: a Beam runner or its name, or None for the one that `options` name.

    Raises:
      UserError: Beam, its runner or a worker failed.
    """
    import apache_beam as beam

    try:
        with beam.Pipeline(runner=runner, options=options) as pipeline:
            _ = pipeline | beam.Create(jobs) | beam.Reshuffle() | beam.Map(make_shard)
    except Exception as error:  # of any worker or runner; Beam wraps them in types of its own
        reason = in_words(error).splitlines()[0]
        raise UserError(
            f"Apache Beam failed ({type(error).__name__}: {reason}). Shards that are finished are kept: run the same "
            "command again."
        ) from error
