"""The command `mgc-jax`, also `python -m mgc_jax`: its first word chooses the work; without one it trains.

  mgc-jax predict MODEL SONG...     genres of audio files and albums
  mgc-jax embed MODEL SONG...       their embeddings, as arrays to train on
  mgc-jax export MODEL              a model as files: safetensors, StableHLO, ONNX; --check compares them again
  mgc-jax analyse RUN               embeddings, attention, a map and neighbours of a run's clips
  mgc-jax page MODEL                a local web page that takes songs and albums
  mgc-jax report RUN...             a run's page again, or runs compared
  mgc-jax protocols CONFIG          a configuration under several splits: what training and test share
  mgc-jax --config FILE             train, evaluate or measure a configuration: see mgc_jax.main

Each has --help.
"""

import importlib
import sys

COMMANDS = {  # first word: the module whose `main` does the work
    "predict": "mgc_jax.predict",
    "embed": "mgc_jax.embed",
    "page": "mgc_jax.page.__main__",
    "analyse": "mgc_jax.analysis.__main__",
    "export": "mgc_jax.export.__main__",
    "report": "mgc_jax.report.__main__",
    "protocols": "mgc_jax.tables.protocols",
}


def main() -> None:
    """Runs what the first word of the command line asks for, and exits with its status."""
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if word in COMMANDS:
        sys.argv[:2] = [f"mgc-jax {word}"]
        sys.exit(importlib.import_module(COMMANDS[word]).main())
    if not word.startswith("-"):
        sys.exit(f"error: unknown command {word!r}; choose one of {', '.join(COMMANDS)}, or give --config FILE")
    from mgc_jax.main import command

    command(f"{__doc__}\n")


if __name__ == "__main__":
    main()
