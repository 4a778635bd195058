"""The table that `--mode bench` prints."""

from collections.abc import Sequence
from typing import Any

_HEAD = (
    "what", "batch", "dtype", "devices", "clips", "clips/s", "each device", "spread", "ms p5", "p50", "p95", "p99",
    "max", "GFLOP/s", "of roof",
)  # fmt: skip
_WHERE = {
    "device": "clips on the device(s)", "host": "clips in host memory", "stream": "clips on the disk",
    "auto": "clips placed by size",
}  # fmt: skip


def format_bench(result: dict[str, Any]) -> str:
    """Formats what `bench.json` holds."""
    corpus, rows = result["corpus"], []
    for row in result["rows"]:
        rows.append(_cells(row, result["settings"][row["setting"]]))
    shape = " x ".join(map(str, corpus["clip_shape"]))
    environment = result["environment"]
    parts = [
        f"\n{corpus['name']}: {corpus['clips']:,} clips of {shape} {corpus['dtype']}; "
        f"{environment.get('devices', '')}; {environment.get('processors', '')}"
        + (f"; load {result['load'][0]:.1f} before, {result['load'][1]:.1f} after" if result["load"][0] else ""),
        _aligned([_HEAD, *rows]),
        *(_facts(number, facts) for number, facts in enumerate(result["settings"])),
    ]
    if result["ratios"]:
        parts.append("\nratios: medians of pairs, each measured in the same repeat")
        parts += [f"  {_name(result, ratio)}: {ratio['text']}" for ratio in result["ratios"]]
    return "\n".join(parts)


def _name(result: dict[str, Any], ratio: dict[str, Any]) -> str:
    facts = result["settings"][ratio["setting"]]
    about = (ratio["variant"], _batch(facts), facts["dtype"], f"{facts['devices']} device(s)", _placed(facts))
    return f"{ratio['what']} ({', '.join(about)})"


def _batch(facts: dict[str, Any]) -> str:
    return str(facts["batch_clips"])


def _placed(facts: dict[str, Any]) -> str:
    return facts.get("placed", facts["placement"])


def _cells(row: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    start = [row["variant"], _batch(facts), facts["dtype"], str(facts["devices"]), _placed(facts)]
    if row["status"] != "ok":
        return [*start, row["status"], *[""] * (len(_HEAD) - len(start) - 1)]
    speed = row.get("megabytes_per_second") or row["clips_per_second"]
    spread = f"{(speed['p75'] - speed['p25']) / speed['p50']:.0%}"
    if "megabytes_per_second" in row:
        cells = [f"{_short(speed['p50'])} MB/s", "", spread]
    else:
        cells = [_short(speed["p50"]), _short(row["clips_per_second_per_device"]), spread]
    cells += [_short(1e3 * row["step_seconds"][name]) for name in ("p5", "p50", "p95", "p99", "max")]
    if "flops_per_second" in row:
        cells += [_short(row["flops_per_second"] / 1e9), f"{row['share_of_roof']:.0%}"]
    return [*start, *cells, *[""] * (len(_HEAD) - len(start) - len(cells))]


def _facts(number: int, facts: dict[str, Any]) -> str:
    """Says in two or three lines what bounds a setting."""
    name = f"\n{_batch(facts)} clips, {facts['dtype']}, {facts['devices']} device(s), {_WHERE[_placed(facts)]}: "
    ceilings = (
        f"ceilings measured here: {facts['matmul_flops_per_second'] / 1e9:,.0f} GFLOP/s (products of matrices), "
        f"{facts['copy_bytes_per_second'] / 1e9:,.1f} GB/s (copies)"
    )
    if "flops_per_step" not in facts:
        return f"{name}out of memory when it was built\n  {ceilings}"
    bound = "copies" if facts["roof_flops_per_second"] < facts["matmul_flops_per_second"] else "products of matrices"
    lines = [
        f"{name}{facts['model']}, {facts['parameters']:,} parameters, slots {facts['slots_filled']:.0%} full",
        f"  traced in {facts['trace_seconds']:.1f} s, compiled in {facts['compile_seconds']:.1f} s, "
        f"{facts['steps_per_dispatch']} step(s) per dispatch; "
        f"{facts['flops_per_step'] / 1e9:,.3g} GFLOP a step, {facts['intensity']:,.1f} FLOP/byte; {ceilings}; "
        f"the lower roof is {facts['roof_flops_per_second'] / 1e9:,.0f} GFLOP/s ({bound})",
        f"  memory: {_memory(facts)}",
    ]
    if "shares" in facts:
        shares = ", ".join(f"{share:.1%} {part}" for part, share in facts["shares"].items())
        every = facts["steps_between_checkpoints"]
        lines.append(f"  time in training, evaluation left out: {shares} (a checkpoint every {every} steps)")
    return "\n".join(lines)


def _memory(facts: dict[str, Any]) -> str:
    parts = []
    if facts.get("peak_device_bytes"):
        parts.append(f"{_mebi(facts['peak_device_bytes'])} on a device in training")
    elif facts.get("peak_device_bytes_at_most"):
        parts.append(f"no more on a device than settings before it, {_mebi(facts['peak_device_bytes_at_most'])}")
    estimate = facts["xla"]["estimated_bytes"]
    if estimate is not None:
        parts.append(f"{_mebi(estimate)} estimated when the step was compiled")
    if "peak_host_bytes" in facts:
        parts.append(f"{_mebi(facts['peak_host_bytes'])} of the process")
    return ", ".join(parts)


def _mebi(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _aligned(table: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for line in table:
        cells = [cell.ljust(width) if i < 3 else cell.rjust(width)
                 for i, (cell, width) in enumerate(zip(line, widths, strict=True))]  # fmt: skip
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
