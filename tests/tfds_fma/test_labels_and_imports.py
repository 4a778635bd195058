import subprocess
import sys

import pytest

import tfds_fma
from mgc_jax import errors
from tfds_fma import GENRES, UserError, genres_of


def test_genres_are_in_the_order_of_matt():
    assert len(GENRES) == 16
    assert GENRES.index("Rock") == 0
    assert GENRES.index("Old-Time / Historic") == 10
    assert GENRES.index("Easy Listening") == 15
    assert genres_of("medium") == GENRES


def test_small_has_the_eight_genres_of_fma_small():
    small = genres_of("small")
    assert set(small[:4]) == {"Rock", "International", "Folk", "Experimental"}
    assert set(small[4:]) == {"Instrumental", "Pop", "Hip-Hop", "Electronic"}
    assert small == GENRES[:8]


def test_unknown_subset_is_an_error():
    with pytest.raises(UserError, match=r"'huge'.*small, medium, large, full"):
        genres_of("huge")


@pytest.mark.parametrize(
    "code",
    [
        "import tfds_fma, tfds_fma.prepare, tfds_fma.reading, tfds_fma.demo",
        "from tfds_fma import prepare\ntry: prepare.main(['--help'])\nexcept SystemExit: pass",
        "from tfds_fma import describe\ntry: describe.main(['--help'])\nexcept SystemExit: pass",
        "from tfds_fma import validate\ntry: validate.main(['--help'])\nexcept SystemExit: pass",
    ],
)
def test_imports_and_help_are_light(code):
    heavy = ("tensorflow", "torch", "librosa", "numba", "tensorflow_datasets", "numpy", "jax", "mgc_jax")
    check = f"{code}\nimport sys\nprint('loaded', [name for name in {heavy} if name in sys.modules])"
    output = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert "loaded []" in output


def test_there_is_one_user_error():
    assert errors.UserError is tfds_fma.UserError is tfds_fma.FmaError
