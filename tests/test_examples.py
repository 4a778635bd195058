"""The scripts of `examples/` and the code cells of its notebook run as they are."""

import json
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def main(name):
    return runpy.run_path(str(EXAMPLES / name))["main"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run of the first example."""
    workdir = tmp_path_factory.mktemp("examples") / "own"
    main("01_own_arrays.py")(str(workdir))
    return workdir


def test_load_and_score(run, capsys):
    main("02_load_and_score.py")(str(run / "export"), str(run / "arrays" / "mels.npz"))
    printed = capsys.readouterr().out
    assert printed.count("clip ") == 6
    assert "the bag: Rock" in printed or "the bag: Folk" in printed or "the bag: Jazz" in printed


def test_read_predictions(run, capsys):
    main("03_read_predictions.py")(str(run / "predictions.parquet"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "60 clips of 20 artists"
    assert [line.split()[:2] for line in lines[1:]] == [
        [level, metric] for level in ("clip", "clip_mean", "bag") for metric in ("accuracy", "micro_ap")
    ]


def test_notebook(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((EXAMPLES / "04_notebook.ipynb").read_text())
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    names = {}
    exec("\n\n".join(code), names)
    assert names["table"].sum() == 60
