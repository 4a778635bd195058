import contextlib
import functools
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from test_recurrent import randomized

from mgc_jax.config.keys import KERNELS, default
from mgc_jax.errors import UserError
from mgc_jax.models.classifier import build_model
from mgc_jax.models.kernels import gru as gru_kernel
from mgc_jax.models.kernels.gru import KernelForm, choose
from mgc_jax.models.recurrent import ParallelGRU, gru_form, use_gru_kernels
from mgc_jax.runtime import processes
from mgc_jax.runtime.devices import data_mesh


def _gru(reset_after, units=5, num_grus=2):
    return randomized(ParallelGRU(num_grus, 3, units, reset_after=reset_after, rngs=nnx.Rngs(0)))


def _inputs(n, num_grus=2, steps=7):
    return jnp.asarray(np.random.default_rng(1).normal(size=(num_grus, n, steps, 3)), jnp.float32)


def _use(gru, form):
    """Has a GRU run as a scan, or by the kernel, which is interpreted here."""
    gru.kernel_form = KernelForm(gru.recurrent_bias is not None, interpret=True) if form == "kernel" else None


def _values_and_gradients(gru, x, all_steps, form):
    """Values, and gradients of a random weighting of them by the weights and by x."""
    _use(gru, form)
    graph, params = nnx.split(gru)

    def weighted(params, x):
        y = nnx.merge(graph, params)(x, all_steps)
        weights = np.random.default_rng(2).normal(size=y.shape)
        return jnp.sum(y.astype(jnp.float32) * weights), y

    (_, y), gradients = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True))(params, x)
    return [y, *jax.tree.leaves(gradients)]


_slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("reset_after", "all_steps", "units", "n"),
    [
        (False, False, 5, 3),  # rows and units are padded
        (True, True, 24, 17),
        pytest.param(False, True, 16, 33, marks=_slow),  # three blocks of rows
        pytest.param(True, False, 64, 16, marks=_slow),  # nothing is padded
    ],
)
def test_kernel_equals_the_scan(reset_after, all_steps, units, n):
    gru, x = _gru(reset_after, units), _inputs(n)
    scan, kernel = (_values_and_gradients(gru, x, all_steps, form) for form in ("scan", "kernel"))
    assert len(scan) == len(kernel) == 1 + (4 if reset_after else 3) + 1
    for expected, value in zip(scan, kernel, strict=True):
        assert value.dtype == expected.dtype
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5 * np.max(np.abs(expected)))


@_slow
@pytest.mark.parametrize("reset_after", [False, True])
def test_kernel_keeps_bfloat16_and_float32_gradients(reset_after):
    gru, x = _gru(reset_after), _inputs(3)
    exact = _values_and_gradients(gru, x, True, "scan")
    half = _values_and_gradients(gru, x.astype(jnp.bfloat16), True, "kernel")
    assert half[0].dtype == half[-1].dtype == jnp.bfloat16
    assert all(gradient.dtype == jnp.float32 for gradient in half[1:-1])
    for expected, value in zip(exact, half, strict=True):
        np.testing.assert_allclose(value.astype(jnp.float32), expected, atol=0.03 * np.max(np.abs(expected)))


@_slow
@pytest.mark.parametrize("mesh_is_known", [False, True])
def test_devices_run_the_kernel_on_their_own_rows(mesh_is_known):
    gru, x = _gru(True), _inputs(24)
    _use(gru, "kernel")
    graph, params = nnx.split(gru)

    def loss(params, x):
        return jnp.mean(nnx.merge(graph, params)(x) ** 2)

    mesh = data_mesh()
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec(None, "data")))
    everywhere = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    step = jax.jit(jax.value_and_grad(loss))
    with jax.set_mesh(mesh) if mesh_is_known else contextlib.nullcontext():
        compiled = step.lower(everywhere, sharded).compile()
        value, gradients = compiled(everywhere, sharded)
    assert "all-gather" not in compiled.as_text()
    assert "all-reduce" in compiled.as_text()  # of the weights' gradients
    expected, expected_gradients = step(params, x)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.max(np.abs(b)))


@pytest.mark.parametrize("reset_after", [False, True])
@pytest.mark.parametrize(("dtype", "resident"), [(jnp.float32, True), (jnp.bfloat16, False)])
def test_kernel_lowers_for_a_gpu_without_one(reset_after, dtype, resident):
    form = KernelForm(reset_after, resident)
    x, recurrent, bias = (jax.ShapeDtypeStruct(s, dtype) for s in ((1, 3, 4, 3, 32), (1, 3, 32, 32), (1, 3, 32)))

    def forward_and_backward(*arguments):
        values, pullback = jax.vjp(functools.partial(gru_kernel._states, form), *arguments)
        return pullback(values)

    gpu = jax.sharding.AbstractDevice("NVIDIA H200", None, "gpu")  # some versions of JAX ask which
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=gpu)):
        lowered = jax.jit(forward_and_backward).trace(x, recurrent, bias).lower(lowering_platforms=("cuda",))
    assert lowered.as_text().count("xla.gpu.triton") == 2


def test_the_scan_is_for_cpus_and_large_grus(monkeypatch):
    assert choose(32, jnp.float32, True) is None
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(gru_kernel, "_tried", lambda *_: KernelForm(True))
    assert choose(128, jnp.float32, True) == KernelForm(True)
    assert choose(129, jnp.float32, True) is None


def test_large_recurrent_kernels_do_not_stay_in_shared_memory(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(gru_kernel, "_deviation", lambda *_: 0.0)
    gru_kernel._tried.cache_clear()
    assert choose(64, jnp.float32, True) == KernelForm(True)
    assert choose(65, jnp.float32, True) == KernelForm(True, resident=False)  # in 128, too many to stay
    gru_kernel._tried.cache_clear()


def test_plain_uses_no_kernel(monkeypatch):
    gru, x = _gru(True), _inputs(3)
    expected = gru(x)
    assert gru_form(gru) == "scan"
    _use(gru, "kernel")
    assert gru_form(gru) == "kernel"
    monkeypatch.setattr(gru_kernel, "gru_states", lambda *_, **__: pytest.fail("used"))
    gru.platform_kernels = False
    assert gru_form(gru) == "plain scan"
    np.testing.assert_allclose(gru(x), expected, rtol=1e-5, atol=1e-6)


@pytest.fixture
def fake_gpu(monkeypatch):
    """A "GPU" that interprets kernels."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(gru_kernel, "KernelForm", functools.partial(KernelForm, interpret=True))
    gru_kernel._tried.cache_clear()
    yield
    gru_kernel._tried.cache_clear()


def _apply(gru, x):
    """Runs a GRU as training does: the form is chosen, the computation traced, implicit transfers forbidden."""
    use_gru_kernels(gru, x.dtype)
    with jax.transfer_guard("disallow"):
        return nnx.jit(lambda gru, x: gru(x))(gru, x)


def test_a_kernel_that_does_not_compile_leaves_the_scan(monkeypatch, fake_gpu, caplog):
    def broken(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: shared memory\nand much more")

    gru, x = _gru(True), _inputs(3)
    expected = gru(x)
    monkeypatch.setattr(gru_kernel, "_on_blocks", broken)
    for _ in range(2):
        np.testing.assert_array_equal(_apply(gru, x), expected)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "slower scan is used: JaxRuntimeError: RESOURCE_EXHAUSTED: shared memory" in record.getMessage()
    assert "much more" not in record.getMessage()


@_slow
def test_a_kernel_that_computes_the_same_is_used(fake_gpu, caplog):
    gru, x = _gru(True), _inputs(3)
    _apply(gru, x)
    assert choose(5, jnp.float32, True) == KernelForm(True, interpret=True)
    assert gru_form(gru) == "kernel"
    assert not caplog.records


@_slow
@pytest.mark.parametrize(("reset_after", "factor"), [(False, 2), (True, 3)])
def test_a_kernel_with_wrong_gradients_leaves_the_scan(monkeypatch, fake_gpu, caplog, reset_after, factor):
    right = gru_kernel._factors
    monkeypatch.setattr(
        gru_kernel, "_factors", lambda *a: tuple(f * (1.1 if i == factor else 1) for i, f in enumerate(right(*a)))
    )
    assert choose(5, jnp.float32, reset_after) is None
    [record] = caplog.records
    assert "its results are off by" in record.getMessage()


def _model(kernels):
    config = default()
    config.model.encoder.name = "crnn"
    config.model.kernels = kernels
    return build_model(config.model, (96, 64), 3, seed=0)


def test_models_use_the_kernel_only_if_asked(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(gru_kernel, "_tried", lambda units, dtype, reset_after: KernelForm(reset_after))
    assert {kernels: gru_form(_model(kernels)) for kernels in KERNELS} == {
        "auto": "scan", "plain": "plain scan", "gru_kernel": "kernel",
    }  # fmt: skip


def test_without_a_gpu_the_scan_is_used():
    assert gru_form(_model("gru_kernel")) == "scan"


def test_processes_in_which_the_kernel_works_and_does_not_are_refused(monkeypatch):
    others = [json.dumps({"GRU 1": "resident kernel", "GRU 2": "scan"})]
    monkeypatch.setattr(processes, "_exchange", lambda mine: [*others, mine])
    message = (
        "form of the GRUs .*kernels=auto takes the scan.*: GRU 1 is 'resident kernel' in process 0 and 'scan' in "
    )
    with pytest.raises(UserError, match=message):
        _model("gru_kernel")
