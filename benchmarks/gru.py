"""Times the two forms of the GRU, scan and kernel, on the device there is; prints a Markdown table.

    python -m benchmarks.gru                  # a GPU: the sizes of PRCNN and CRNN, about a minute
    python -m benchmarks.gru --units 64 --rows 64 --steps 320 --dtype bfloat16

The kernel's column stays empty where it cannot run; on a CPU it would be interpreted, which says nothing about its
speed. Runs are interleaved, so that whatever else the machine does slows both alike, and medians are shown.
"""

import argparse
import functools
import logging
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mgc_jax.models.kernels import gru
from mgc_jax.models.kernels.gru_scan import scanned_states
from mgc_jax.models.operations import gru_projections
from mgc_jax.models.recurrent import ParallelGRU

FORMS = ("scan", "kernel")


def by_scan(x, kernel, recurrent_kernel, bias, recurrent_bias):
    """The states after every step, [gru, n, step, units], as `gru.kernel_states` gives them."""
    return jnp.moveaxis(scanned_states(recurrent_kernel, recurrent_bias, gru_projections(x, kernel, bias)), 0, 2)


def functions(states, weights, x):
    """Compiles the forward pass, and forward and backward, in one form; each is called without arguments."""

    def forward(weights, x):
        return states(x, *weights)

    def loss(weights, x):
        return jnp.mean(forward(weights, x).astype(jnp.float32) ** 2)

    compiled = [jax.jit(f).lower(weights, x).compile() for f in (forward, jax.grad(loss, argnums=(0, 1)))]
    return [lambda f=f: jax.block_until_ready(f(weights, x)) for f in compiled]


def medians(calls, seconds):
    """Interleaves calls, {name: function}, for some seconds; returns the median time of each in milliseconds."""
    for call in calls.values():
        call()
    times = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 3:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(of_name) for name, of_name in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_gpu = jax.default_backend() == "gpu"
    parser.add_argument("--units", type=int, nargs="+", default=[32, 64, 128] if on_gpu else [32])
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 64, 256] if on_gpu else [16])
    parser.add_argument("--steps", type=int, nargs="+", default=[320, 640] if on_gpu else [320])
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--reset", choices=("before", "after"), default="after")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"] if on_gpu else ["float32"])
    parser.add_argument("--seconds", type=float, default=0.5, help="for each line of the table")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}; two GRUs side by side, milliseconds\n")
    print("| dtype | units | rows | steps | forward: scan | kernel | times | and backward: scan | kernel | times |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    sizes = [
        (dtype, units, rows, steps)
        for dtype in arguments.dtype
        for units in arguments.units
        for rows in arguments.rows
        for steps in arguments.steps
    ]
    reset_after = arguments.reset == "after"
    for dtype, units, rows, steps in sizes:
        module = ParallelGRU(2, arguments.features, units, reset_after=reset_after, rngs=nnx.Rngs(0))
        parts = (module.kernel, module.recurrent_kernel, module.bias, module.recurrent_bias)
        weights = tuple(part if part is None else part[...] for part in parts)
        x = np.random.default_rng(0).normal(size=(2, rows, steps, arguments.features))
        form, calls = gru.choose(units, dtype, reset_after), {}  # logs it if the kernel does not work
        forms = {"scan": by_scan} | ({"kernel": functools.partial(gru.kernel_states, form)} if form else {})
        for name, states in forms.items():
            forward, both = functions(states, weights, jnp.asarray(x, dtype))
            calls |= {("forward", name): forward, ("both", name): both}
        median = medians(calls, arguments.seconds)
        cells = []
        for what in ("forward", "both"):
            scan, kernel = (median.get((what, form)) for form in FORMS)
            cells += [f"{scan:.3f}", *((f"{kernel:.3f}", f"{scan / kernel:.1f}") if kernel else ("", ""))]
        print(f"| {dtype} | {units} | {rows} | {steps} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
