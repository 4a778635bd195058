import io
import json
import os
import resource
import sys

import pytest
from tensorboardX.proto.event_pb2 import Event

from mgc_jax.errors import UserError
from mgc_jax.runtime.terminal import say
from mgc_jax.training.metrics_writer import MetricsWriter
from mgc_jax.training.progress import Progress


def events(workdir):
    """Reads TensorBoard's files: records of a length (8 bytes), its checksum (4), the content and its checksum (4)."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            size = int.from_bytes(content[at : at + 8], "little")
            found.append(Event.FromString(content[at + 12 : at + 12 + size]))
            at += 16 + size
    return found


def test_scalars_are_in_both_files_at_once_and_later_ones_are_dropped_on_resumption(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    writer.write(1, {"train/loss": 0.5, "epoch": 0.25})
    writer.write(2, {"train/loss": 0.25, "epoch": 0.5})
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    scalars = {
        (event.step, value.tag): value.simple_value for event in events(tmp_path) for value in event.summary.value
    }
    assert scalars == {
        (1, "train/loss"): 0.5, (1, "epoch"): 0.25, (2, "train/loss"): 0.25, (2, "epoch"): 0.5
    }  # fmt: skip
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "tr')  # cut off by a crash
    MetricsWriter(tmp_path, 1).close()
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1]
    starts = [event.step for event in events(tmp_path) if event.HasField("session_log")]
    assert sorted(starts) == [1, 2]  # TensorBoard drops what is at these steps and later, of files before


def test_a_full_disk_is_one_clear_error_and_never_a_wait(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        for step in range(30):
            with pytest.raises(UserError, match=r"metrics.jsonl cannot be written: .*MiB free.*same command resumes"):
                writer.write(step, {"train/loss": 1.0})
    finally:
        writer.close()
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_terminal_that_went_away_stops_nothing(monkeypatch):
    say("nobody is there", None)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:
        say("x", gone)
        say("y", gone)
    monkeypatch.setattr(sys, "stderr", None)
    progress = Progress(10, 0, {})
    progress.clear()
    shown = io.StringIO()
    say("hello\n", shown)
    assert shown.getvalue() == "hello\n"
