"""Lists the systems of both papers with their parameter counts: `python -m mgc_jax.papers`."""

from mgc_jax.papers.system import SYSTEMS


def table() -> str:
    """Returns the list of the systems with their parameter counts, for the terminal."""
    lines = [f"{'system':<29}{'paper':<7}{'input':<13}{'parameters':>11}{'published':>13}  config"]
    lines.append("-" * 102)
    for system in SYSTEMS:
        ours, published = system.parameters(), ""
        if system.published is not None:
            published = f"{system.published:,}{' ' if system.printed else '*'}"
        shape = " x ".join(map(str, system.clip_shape))
        lines.append(
            f"{system.name:<29}{system.paper:<7}{shape:<13}{'' if ours is None else f'{ours:,}':>11}{published:>13}"
            f"  configs/{system.file}"
        )
    lines.append("* follows from the layers that the paper describes; it does not print the number.")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
