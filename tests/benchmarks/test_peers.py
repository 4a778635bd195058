"""benchmarks/peers.py: when a ratio is told, the last line, mistakes, and a whole run with workers that do nothing."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def peers():
    spec = importlib.util.spec_from_file_location("peers", ROOT / "benchmarks" / "peers.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["peers"] = module  # dataclasses look there
    path = list(sys.path)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["peers"]
    sys.path[:] = path


def row(peers, ratios, **changes):
    given = {"model": "CRNN", "mode": "train", "clips": 8, "peer": "PyTorch", "counts": True} | changes
    return peers.Row(**given, ours=[10 * ratio for ratio in ratios], theirs=[10.0] * len(ratios))


@pytest.mark.parametrize(
    ("ratios", "told"),
    [
        ([1.0, 1.01, 0.99, 1.0, 1.02], True),  # the rounds agree
        ([0.9, 0.96, 1.0, 1.04, 1.1], True),  # quartiles 0.96 and 1.04: 8 %
        ([0.8, 0.9, 1.0, 1.1, 1.2], False),  # 20 %, and which one is faster is open
        ([1.4, 1.8, 2.0, 2.2, 9.0], True),  # 20 %, but ours is faster; an outlier does not matter
        ([0.2, 0.45, 0.5, 0.55, 0.6], True),  # and here slower
        ([1.1, 1.6, 2.0, 2.4, 3.0], False),  # 40 %
    ],
)
def test_a_ratio_is_told_where_the_rounds_agree(peers, ratios, told):
    ratio = peers.ratio_of([3 * r for r in ratios], [3.0] * 5)
    assert ratio.told == told
    assert ratio.median == pytest.approx(sorted(ratios)[2])
    assert ("too noisy" in str(ratio)) == (not told)


def test_rounds_are_paired(peers):
    """A machine that is slow for both in some rounds does not make a ratio noisy."""
    ratio = peers.ratio_of([10, 2, 30, 4], [5, 1, 15, 2])
    assert (ratio.low, ratio.median, ratio.high, ratio.told) == (2, 2, 2, True)


def test_the_last_line_is_the_worst_of_those_that_count(peers):
    rows = [row(peers, [1.5] * 5), row(peers, [1.25] * 5, mode="eval"), row(peers, [0.5] * 5, counts=False)]
    assert peers.conclusion(rows) == ("worst=1.25", 0)


def test_what_is_too_noisy_is_missing(peers):
    noisy = row(peers, [0.5, 0.8, 1.0, 1.3, 2.0], mode="eval")
    text, status = peers.conclusion([row(peers, [1.5] * 5), noisy])
    assert text.splitlines() == ["missing: CRNN eval vs PyTorch (too noisy)", "worst=1.50"]
    assert status == 1
    assert "too noisy" in peers.table([noisy])
    assert peers.conclusion([noisy])[0].endswith("worst=nan")


def test_who_computes_something_else_gets_no_ratio(peers):
    mine = {"scores": [[[-1.0, -2.0], [0.0, 0.0]]], "losses": [1.0, 0.9, 0.8]}
    limits, weights = (1e-3, 1e-3, 1e-2, 1e-2), [1.0, 0.0]
    same = {"scores": [[[-1.0, -2.0005], [5.0, 5.0]]], "losses": [1.0005, 0.905, 0.805]}  # the second bag is not there
    assert peers.difference(mine, same, weights, limits) == ""
    assert "scores differ by 0.1" in peers.difference(mine, same | {"scores": [[[-1.1, -2], [0, 0]]]}, weights, limits)
    assert "step 1" in peers.difference(mine, same | {"losses": [1.1, 0.9, 0.8]}, weights, limits)
    assert "step 3" in peers.difference(mine, same | {"losses": [1.0, 0.9, 0.7]}, weights, limits)
    assert peers.difference(mine, same | {"losses": [float("nan")] * 3}, weights, limits)
    text, status = peers.conclusion([row(peers, [1.5] * 5, problem="the loss of step 3 is 0.7 instead of 0.8")])
    assert (text.splitlines()[-1], status) == ("worst=nan", 1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--device tpu", "invalid choice: 'tpu'"),
        ("--device cpu --models prcn", "invalid choice: 'prcn'"),
        ("--device cpu --repeats 2", "three rounds"),
        ("--device cpu --batch 0", "above 0"),
        ("--device cpu --torch_python nowhere/python", "no such program"),
        ("--device cpu --nonsense", "unrecognized arguments: --nonsense"),
    ],
)
def test_mistakes_are_one_line(peers, capsys, arguments, says):
    assert peers.main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert says in error
    assert error.count("\n") == 1


WORKER = """
import sys, time
sys.path.insert(0, {protocol!r})
from protocol import Peer, serve

class Waiting(Peer):
    def __init__(self, seconds): self.seconds = seconds
    def hello(self): return {{"backend": "cpu"}}
    def make(self, options, path): pass
    def open(self, path): pass
    def forms(self, mode): return ["plain", "broken"]
    def check(self): return [[0.0, -1.0]], [1.0, 1.0, 1.0]
    def size(self): return {{"clips": 4, "weights": [1.0]}}
    def run(self, mode, form, steps):
        if form == "broken": raise RuntimeError("no compiler")
        print("noise that is no answer")
        clock[0] += steps * self.seconds

clock = [0.0]
time.perf_counter = lambda: clock[0]
serve(Waiting(float(sys.argv[1]) if len(sys.argv) > 1 else 0.02))
"""


def test_a_whole_run(peers, tmp_path, monkeypatch, capsys):
    """One peer takes three times as long as ours, another one dies: the one is measured, the other one is missing."""
    source = WORKER.format(protocol=str(peers.WORKERS))
    for name in ("ours.py", "peer.py"):
        (tmp_path / name).write_text(source)
    (tmp_path / "dead.py").write_text("import sys; sys.exit('out of memory')")
    slow, dead = peers.Peer("Slow", ("peer.py", "0.06"), counts=True), peers.Peer("Dead", ("dead.py",), counts=True)
    monkeypatch.setattr(peers, "WORKERS", tmp_path)
    monkeypatch.setattr(peers, "PEERS", {"slow": slow, "dead": dead})
    monkeypatch.setattr(peers, "TURN", 0.05)
    command = f"--device cpu --models crnn --modes train --peers slow dead --repeats 3 --json {tmp_path}/all.json"
    assert peers.main(command.split()) == 1
    output = capsys.readouterr().out.splitlines()
    assert output[-1] == "worst=3.00"
    assert "CRNN train vs Dead (dead.py ended with status 1: out of memory)" in output[-2]
    assert any("Slow, broken: left out" in line and "no compiler" in line for line in output)
    found = json.loads((tmp_path / "all.json").read_text())
    assert found["rows"][0]["form"] == "plain, huge pages"
    assert found["rows"][0]["clips"] == 4
    assert found["rows"][0]["theirs"] == pytest.approx([4 / 0.06] * 3)
