"""What training and evaluating a clip costs as the work grows: longer bags, larger batches, more clips, more devices.

    python benchmarks/scaling.py                   # measures in runs/scaling, draws docs/scaling.svg
    python benchmarks/scaling.py --only bags --out /tmp/scaling --figure /tmp/scaling.svg

Every point is measured by `python -m mgc_jax.main --mode bench` in a process of its own, or, where a flag takes
several values, with the others in one process and in turn. What has been measured is not measured again: delete its
folder for that. On a CPU the devices are XLA's fake ones, which share the cores: they show what dealing the work
costs, not what more hardware gains. All their numbers are measured in one process, and a process that has one device
only is measured, too. The other studies run on one device.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

MODELS = {
    "MLP + MATT, 518 features": ["--config", "configs/matt_mlp.py:hidden=100"],
    "CRNN-TF + MATT, 2 narrow blocks, 64 x 96": [
        "--config", "configs/matt_crnn_tf.py", "--config.data.corpus=demo", "--config.bench.clip_shape=(64, 96)",
        "--config.model.encoder.filters=(8, 16)", "--config.model.encoder.pools=((4, 8), (6, 8))",
    ],
}  # fmt: skip
COMMON = ["--mode", "bench", "--config.bench.seconds=2", "--config.bench.steps=10", "--config.eval.batch_clips=256",
          "--config.bench.variants=('train', 'eval')"]  # fmt: skip


def batch(clips):
    return [f"--config.batch.clips={clips}"]


# name: (title, what the axis counts, processes as (value or None, flags), what a setting's value is otherwise)
STUDIES = {
    "bags": (
        "Bag length (batches of 128 clips)", "clips of a bag",
        [(length, [*batch(128), f"--config.bench.bag_length={length}", "--config.bench.clips=2048"])
         for length in (1, 4, 16, 64)],
        None,
    ),
    "batch": (
        "Batch (bags of 4 clips)", "clips of a batch",
        [(None, [*batch(8), "--config.bench.batch_clips=(8, 32, 128, 512)", "--config.bench.bag_length=4",
                 "--config.bench.clips=4096"])],
        lambda facts: facts["batch_clips"],
    ),
    "clips": (
        "Corpus (batches of 128 clips)", "clips of the corpus",
        [(clips, [*batch(128), f"--config.bench.clips={clips}"]) for clips in (1000, 5000, 25000)],
        None,
    ),
    "devices": (
        "Devices (the same batch of 128 clips)", "devices (fake ones that share the cores)",
        [(None, [*batch(128), "--config.bench.devices={devices}", "--config.bench.clips=2048"])],
        lambda facts: facts["devices"],
    ),
}  # fmt: skip


def measure(flags, folder, devices):
    """Runs the bench unless it has been; returns what it wrote."""
    file = folder / "bench.json"
    if not file.exists():
        environment = dict(os.environ)
        if devices:  # where there are accelerators, this does nothing
            flag = f"--xla_force_host_platform_device_count={max(devices)}"
            environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {flag}"
        flags = [flag.replace("{devices}", str(devices)) for flag in flags]
        command = [sys.executable, "-m", "mgc_jax.main", *flags, "--workdir", str(folder)]
        print(" ".join(command[1:]), flush=True)
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
    return json.loads(file.read_text())


def points_of(study, model, number, out, devices):
    """Returns (value, variant, clips per second: p50, p25, p75) of a study of a model, and what it was measured on."""
    _, _, processes, value_of = STUDIES[study]
    points, environments = [], []
    for value, flags in processes:
        name = f"{study}-{number}" + (f"-{value}" if value else "")
        result = measure([*MODELS[model], *COMMON, *flags], out / name, devices if study == "devices" else (1,))
        for row in result["rows"]:
            if row["status"] == "ok":
                rate = row["clips_per_second"]
                x = value or value_of(result["settings"][row["setting"]])
                points.append((x, row["variant"], rate["p50"], rate["p25"], rate["p75"]))
        environments.append(result["environment"] | {"load": result["load"]})
    return points, environments


def one_device_alone(number, model, out):
    """Returns a line: what a process with a single device does of the work of the study of devices."""
    ((_, flags),) = STUDIES["devices"][2]
    result = measure([*MODELS[model], *COMMON, *flags], out / f"devices-{number}-alone", (1,))
    rates = [
        f"{row['variant']} {row['clips_per_second']['p50']:,.0f}" for row in result["rows"] if row["status"] == "ok"
    ]
    return f"one device, in a process that has no other: {model}: {', '.join(rates)} clips/s"


def draw(measured, environments, path):
    """Draws a panel per study: time per clip on both logarithmic axes, with quartiles over the repeats."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from mgc_jax.report.charts import COLOURS

    style = {"svg.fonttype": "none", "svg.hashsalt": "mgc-jax", "font.size": 9, "axes.spines.top": False,
             "axes.spines.right": False, "axes.grid": True, "grid.color": "0.9", "axes.axisbelow": True}  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure(figsize=(9, 6.6), layout="constrained")
        for axes, (study, by_model) in zip(figure.subplots(2, 2).flat, measured.items(), strict=False):
            title, label, *_ = STUDIES[study]
            axes.set(title=title, xlabel=label, ylabel="milliseconds per clip", xscale="log", yscale="log")
            ticks = set()
            for number, (model, points) in enumerate(by_model.items()):
                for variant, dash in (("train", "-"), ("eval", (0, (4, 2)))):
                    x, rate, low, high = zip(*[(p[0], *p[2:]) for p in points if p[1] == variant], strict=True)
                    ticks.update(x)
                    name = f"{model}: {variant}"
                    axes.plot(x, [1e3 / r for r in rate], color=COLOURS[number], linestyle=dash, marker="o",
                              markersize=4, label=name)  # fmt: skip
                    axes.fill_between(x, [1e3 / r for r in high], [1e3 / r for r in low], color=COLOURS[number],
                                      alpha=0.15, linewidth=0)  # fmt: skip
            axes.set_xticks(sorted(ticks), [f"{tick:,}" for tick in sorted(ticks)])
            axes.minorticks_off()
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
        first, loads = environments[0], [load for each in environments for load in each["load"] if load]
        busy = f"; {min(loads):.0f} to {max(loads):.0f} processes wanted to run" if loads else ""
        figure.suptitle(f"{first.get('devices', '')}, {first['processors']}; JAX {first['jax']}{busy}", fontsize=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})


def table(measured):
    """Returns a Markdown table of all points."""
    lines = ["| study | value | " + " | ".join(f"{m}: {v}" for m in MODELS for v in ("train", "eval")) + " |"]
    lines.append("|---|---|" + "---|" * (2 * len(MODELS)))
    for study, by_model in measured.items():
        for x in sorted({point[0] for points in by_model.values() for point in points}):
            cells = [
                next((f"{p[2]:,.0f} ({p[3]:,.0f} to {p[4]:,.0f})" for p in points if p[:2] == (x, variant)), "")
                for points in by_model.values()
                for variant in ("train", "eval")
            ]
            lines.append(f"| {STUDIES[study][1]} | {x:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "scaling", help="folder of the measurements")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "scaling.svg")
    parser.add_argument("--only", choices=list(STUDIES), action="append", help="this study alone")
    parser.add_argument("--devices", type=int, nargs="+", default=(1, 2, 4, 8), help="their numbers in that study")
    arguments = parser.parse_args()
    out, devices = arguments.out.absolute(), tuple(arguments.devices)
    measured, environments, notes = {}, [], []
    for study in arguments.only or STUDIES:
        measured[study] = {}
        for number, model in enumerate(MODELS):
            measured[study][model], found = points_of(study, model, number, out, devices)
            environments += found
            if study == "devices":
                notes.append(one_device_alone(number, model, out))
    draw(measured, environments, arguments.figure)
    lines = ["clips per second, median and quartiles of the repeats\n", table(measured), "", *notes, arguments.figure]
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
