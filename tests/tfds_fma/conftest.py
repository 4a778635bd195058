"""A small demo tree for all tests."""

import shutil
from pathlib import Path

import pytest

from tfds_fma.demo import make_demo_tree
from tfds_fma.preparation import prepare
from tfds_fma.storage import layout


@pytest.fixture(scope="session")
def demo_tree(tmp_path_factory) -> Path:
    """The smallest demo corpus: six clips of each genre."""
    return make_demo_tree(tmp_path_factory.mktemp("demo") / "tree", clips=0, workers=2, progress=False)


@pytest.fixture(scope="session")
def mp3(demo_tree) -> bytes:
    """One good MP3 file."""
    return sorted(demo_tree.glob("fma_medium/*/*.mp3"))[0].read_bytes()


@pytest.fixture(scope="session")
def dataset(demo_tree, tmp_path_factory) -> Path:
    """The small part of the demo tree, prepared: 32, 8 and 8 clips. It passes for FMA, its folder is not `demo`."""
    data_dir = tmp_path_factory.mktemp("data")
    return prepare(demo_tree, "small", "mel_256x96", data_dir, workers=2, progress=False, log=lambda line: None)


@pytest.fixture
def own(dataset, tmp_path) -> Path:
    """A copy of the dataset, to spoil."""
    return shutil.copytree(dataset, layout.version_dir(tmp_path, "small", "mel_256x96"))
