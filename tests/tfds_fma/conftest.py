"""A small demo tree for all tests."""

from pathlib import Path

import pytest

from tfds_fma.demo import make_demo_tree


@pytest.fixture(scope="session")
def demo_tree(tmp_path_factory) -> Path:
    """The smallest demo corpus: six clips of each genre."""
    return make_demo_tree(tmp_path_factory.mktemp("demo") / "tree", clips=0, workers=2, progress=False)


@pytest.fixture(scope="session")
def mp3(demo_tree) -> bytes:
    """One good MP3 file."""
    return sorted(demo_tree.glob("fma_medium/*/*.mp3"))[0].read_bytes()
