#!/usr/bin/env bash
# apache-beam 2.77.0 with dask 2026.8.0: WriteToText on the DaskRunner ends with DONE and leaves an empty file. The lines
# "a" and "b" lie beside it in two temporary files, both of which hold both lines, in folders beam-temp-* that stay. The
# DirectRunner writes the two lines of the same pipeline into its file and leaves nothing over. Seen with Python 3.12 and
# the workers that Dask starts by itself; also with 300 lines in one or three partitions. Exits 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "apache-beam[dask]==2.77.0" dask==2026.8.0 distributed==2026.8.0
cat >"$folder/write.py" <<'PYTHON'
import pathlib
import sys

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

if __name__ == "__main__":
    folder, found = pathlib.Path(sys.argv[1]), {}
    for runner in ("DirectRunner", "apache_beam.runners.dask.dask_runner.DaskRunner"):
        name = runner.rpartition(".")[2]
        with beam.Pipeline(options=PipelineOptions([f"--runner={runner}"])) as pipeline:
            _ = pipeline | beam.Create(["a", "b"]) | beam.io.WriteToText(str(folder / name))
        lines = [path.read_text().split() for path in folder.glob(f"{name}-*")]
        left = [path.read_text().split() for path in folder.glob(f"beam-temp-{name}-*/*")]
        found[name] = (pipeline.result.state, lines, len(left) > 0 and all(part == ["a", "b"] for part in left))
        print(f"{name}: {pipeline.result.state}, files of the lines {lines}, {len(left)} temporary files left over")
    sys.exit(found != {"DirectRunner": ("DONE", [["a", "b"]], False), "DaskRunner": ("DONE", [[]], True)})
PYTHON
"$folder/venv/bin/python" "$folder/write.py" "$folder" 2>"$folder/log" || { tail -5 "$folder/log" >&2; exit 1; }
