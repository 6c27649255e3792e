"""What the tests share: the reference arrays and small data."""

import gc
import os
import pathlib

from xla_flags import quick_to_compile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Most of the time of these small steps would be XLA optimising them.
os.environ.setdefault("XLA_FLAGS", quick_to_compile())

import keras
import numpy as np
import pytest

# What the imports made stays: collections of garbage need not look at it again.
gc.freeze()

TESTS = pathlib.Path(__file__).resolve().parent
ROOT = TESTS.parent
SHARED = pathlib.Path(os.environ.get("ROBUSTLT_SHARED", ROOT.parent / "shared"))


# What another backend can make different. The other tests run on TensorFlow, and on
# JAX with the slow ones.
DEPEND_ON_BACKEND = {
    "test_apgd",
    "test_array_pipeline",
    "test_attack_steps",
    "test_attacks",
    "test_augmentation_layers",
    "test_auto",
    "test_autoattack",
    "test_averaging",
    "test_collapse_guard",
    "test_data_on_device",
    "test_distribution",
    "test_evaluation",
    "test_fab",
    "test_golden",
    "test_golden_methods",
    "test_layers",
    "test_losses",
    "test_methods",
    "test_model",
    "test_optimizers",
    "test_saving",
    "test_single_step",
    "test_skew_and_drift",
    "test_square",
    "test_udr",
}


# Those that take longest begin first (see PARALLEL in the Makefile): one that is left
# for the end would keep all other processes waiting.
LONGEST = (
    "test_distribution",
    "test_model",
    "test_checkpoint",
    "test_guide",
    "test_recipes",
    "test_methods",
    "test_docstrings",
    "test_evaluation_checks",
    "test_networks",
    "test_apgd",
    "test_autoattack",
    "test_own_images",
    "test_golden",
    "test_golden_methods",
    "test_repository",
    "test_fab",
    "test_evaluation",
)


def position(item):
    stem = item.path.stem
    return LONGEST.index(stem) if stem in LONGEST else len(LONGEST)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    items.sort(key=position)
    if keras.backend.backend() != "jax":
        return
    for item in items:
        depends = item.path.stem in DEPEND_ON_BACKEND
        if not depends or item.get_closest_marker("slow_on_jax"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def clean_state():
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")


@pytest.fixture(autouse=True, scope="module")
def clean_session():
    yield
    keras.backend.clear_session()
    gc.freeze()  # as above: each collection goes through all there is


@pytest.fixture(autouse=True, scope="session")
def graphs_as_they_are():
    """TensorFlow would optimise graphs that run a few times for longer than they run.

    The processes that tests start optimise theirs, as users' do.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        options = {"disable_meta_optimizer": True}
        tf.config.optimizer.set_experimental_options(options)


@pytest.fixture(autouse=True, scope="session")
def compile_equal_steps_once(tmp_path_factory):
    """Most of JAX's time is compiling steps that several tests have in common.

    So have the processes that run them, and those that tests start.
    """
    if keras.backend.backend() == "jax":
        import jax

        folder = tmp_path_factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:
            folder = folder.parent
        options = {
            "jax_compilation_cache_dir": str(folder / "jax_compilation_cache"),
            "jax_persistent_cache_min_compile_time_secs": 0,
        }
        for name, value in options.items():
            os.environ[name.upper()] = str(value)
            jax.config.update(name, value)


class Reference(dict):
    """Reference arrays by name; a test that asks for others is skipped."""

    def __missing__(self, key):
        pytest.skip(f"the reference array {key} is not here (ROBUSTLT_SHARED)")


@pytest.fixture(scope="session")
def golden():
    """Loads the reference arrays called `name`: all of them, or the choice here."""

    def load(name):
        path = SHARED / "golden" / f"{name}.npz"
        if not path.exists():
            path = TESTS / "golden" / f"{name}.npz"
        if not path.exists():
            pytest.skip(f"reference arrays {name}.npz are not here (ROBUSTLT_SHARED)")
        with np.load(path) as arrays:
            return Reference(arrays)

    return load


@pytest.fixture
def eagerly():
    """On TensorFlow, steps run at once: tracing the few of a test would take longer.

    JAX traces them all the same, so a test that asks for this still sees a graph.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def images():
    """Twelve random images of three classes, with their labels."""
    rng = np.random.default_rng(0)
    return rng.random((12, 6, 6, 3), "float32"), np.arange(12) % 3


@pytest.fixture
def same_network():
    """Makes networks of one dense layer, all with the same weights."""
    from tiny_models import dense_network

    weights = dense_network().get_weights()

    def make():
        network = dense_network()
        network.set_weights(weights)
        return network

    return make
