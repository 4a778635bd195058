"""What this code takes from other packages that those do not promise to keep.

`docs/decisions/0015-names-without-a-promise.md` lists it. These tests say what to look at when a new version of a
package changes it; without them dozens of others would fail, each in its own way.
"""

import ast
import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorflow_datasets as tfds

ROOT = Path(__file__).parents[1]
RECORD = "docs/decisions/0015-names-without-a-promise.md"
# Modules of which JAX and TFDS say, or do not say otherwise, that they may change at any time.
WITHOUT_PROMISE = ("jax._src", "jax.interpreters", "jax.extend", "jax.experimental", "jax.lib", "jaxlib",
                   "tensorflow_datasets.core", "tensorflow_datasets.proto")  # fmt: skip


def _imported():
    """The names that the packages import from such modules."""
    for path in sorted([*(ROOT / "mgc_jax").rglob("*.py"), *(ROOT / "tfds_fma").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [(alias.name, "") for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [(node.module or "", f".{alias.name}") for alias in node.names]
            for module, name in modules:
                private = any(part.startswith("_") for part in f"{module}{name}".split(".") if part != "__future__")
                if private or f"{module}.".startswith(tuple(f"{prefix}." for prefix in WITHOUT_PROMISE)):
                    yield module + name


def test_the_record_lists_every_name():
    names = set(_imported())
    assert "jax._src.distributed" in names
    record = (ROOT / RECORD).read_text()
    missing = sorted(name for name in names if f"`{name}`" not in record)
    assert not missing, f"{RECORD} does not list {missing}; take a public name, or add a line and a test here"


def test_jax_has_the_key_value_store_of_its_coordination_service():
    from jax._src import distributed
    from jaxlib import _jax

    where = f"mgc_jax/runtime/processes.py uses it, and JAX {jax.__version__} has no"
    assert hasattr(distributed.global_state, "client"), f"{where} jax._src.distributed.global_state.client"
    client = _jax.DistributedRuntimeClient
    for method in ("key_value_set", "key_value_dir_get", "blocking_key_value_get", "wait_at_barrier"):
        assert hasattr(client, method), f"{where} {method} of that client"
    assert "allow_overwrite" in (client.key_value_set.__doc__ or ""), f"{where} allow_overwrite in key_value_set"


def test_jax_removes_what_no_result_depends_on():
    from jax.interpreters import partial_eval

    jaxpr = jax.make_jaxpr(lambda x: (jnp.sin(x), jnp.cos(x)))(1.0).jaxpr
    used, inputs = partial_eval.dce_jaxpr(jaxpr, [True, False])
    names = [equation.primitive.name for equation in used.eqns]
    assert (names, inputs) == (["sin"], [True]), "mgc_jax/bench/flops.py counts with dce_jaxpr, which has changed"


def test_jax_shows_the_jaxprs_inside_an_equation():
    from jax.extend.core import jaxprs_in_params

    [equation] = jax.make_jaxpr(jax.jit(jnp.sin))(1.0).jaxpr.eqns
    [inner] = jaxprs_in_params(equation.params)
    names = [e.primitive.name for e in getattr(inner, "jaxpr", inner).eqns]
    assert names == ["sin"], "mgc_jax/bench/flops.py counts with jaxprs_in_params, which has changed"


def test_pallas_has_its_triton_backend():
    try:
        from jax.experimental.pallas import triton
    except ImportError:
        pytest.fail("Triton's backend is gone from Pallas, so GRUs are scans: remove mgc_jax/models/kernels/gru.py")
    assert "num_warps" in inspect.signature(triton.CompilerParams).parameters, "models/kernels/gru.py sets num_warps"


def test_jax_partitions_custom_functions_by_a_rule():
    from jax.experimental.custom_partitioning import custom_partitioning

    parameters = inspect.signature(custom_partitioning.def_partition).parameters
    for name in ("partition", "sharding_rule", "need_replication_factors"):
        assert name in parameters, f"models/kernels/gru.py and data/frontend.py give def_partition {name}"


def test_tfds_lets_a_builder_write_its_own_shards():
    from tensorflow_datasets.core import dataset_builder

    source = inspect.getsource(dataset_builder.GeneratorBasedBuilder._download_and_prepare)
    called = "self._generate_splits(dl_manager, download_config)" in source
    assert called, (
        f"TFDS {tfds.__version__} calls the hook _generate_splits of tfds_fma/fma_dataset_builder.py otherwise"
    )


def test_tfds_makes_examples_that_can_be_serialized_in_one_order():
    from tensorflow_datasets.core import example_serializer
    from tensorflow_datasets.proto import tf_example_pb2

    features = tfds.features.FeaturesDict({"clip": tfds.features.Tensor(shape=(2,), dtype=np.float32), "a": np.int64})
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    clip = np.array([1.5, 2.5], np.float32)
    example = serializer.get_tf_example(features.encode_example({"clip": clip, "a": 3}))
    record = example.SerializeToString(deterministic=True)
    np.testing.assert_array_equal(features.deserialize_example_np(record)["clip"], clip)
    found = tf_example_pb2.Example.FromString(record).features.feature
    assert set(found) == {"clip", "a"}, "tfds_fma/storage reads and writes records in this form"


def test_orbax_keeps_metrics_where_damage_is_looked_for(tmp_path):
    with ocp.CheckpointManager(
        tmp_path / "c", options=ocp.CheckpointManagerOptions(best_fn=lambda m: m["a"])
    ) as manager:
        manager.save(3, args=ocp.args.StandardSave({"x": jnp.ones(2)}), metrics={"a": 1.0})
        manager.wait_until_finished()
    file = tmp_path / "c" / "3" / "metrics" / "metrics"
    assert file.is_file(), "mgc_jax/training/checkpoint.py reads the metrics in <step>/metrics/metrics"
    assert file.read_text() == '{"a": 1.0}'


def test_jax2onnx_stamps_the_shape_of_a_value():
    shapes = pytest.importorskip("jax2onnx.plugins._ir_shapes")
    parameters = list(inspect.signature(shapes._stamp_type_and_shape).parameters)
    assert len(parameters) >= 2, "mgc_jax/export/onnx.py gives it a value and a shape"
