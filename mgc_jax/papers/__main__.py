"""Lists the systems of the papers with their parameter counts: `python -m mgc_jax.papers`."""

from flax import nnx

from mgc_jax.models.classifier import build_model, count_parameters
from mgc_jax.papers import SYSTEMS
from mgc_jax.papers.system import System


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
        shape = " x ".join(map(str, system.clip_shape))
        lines.append(
            f"{system.name:<29}{system.paper.name:<7}{shape:<13}{'' if ours is None else f'{ours:,}':>11}"
            f"{published:>13}  {system.file}"
        )
    lines.append("* follows from the layers that the paper describes; it does not print the number.")
    lines.append("To train one: python -m mgc_jax.main --config matt_crnn_tf")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
