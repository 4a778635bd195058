#!/usr/bin/env bash
# tensorflow-datasets 4.9.10 without TensorFlow: a dataset written with file_format="parquet" and read back with
# as_data_source() has fewer rows than were written, without an error, and a slice of a split is the whole split.
# 2,000 rows of 1,000 float32 are written; the dataset's own info says 2,000; the data source has 500, and
# "train[:10]" has 500 too. The same builder with file_format="array_record" gives 2,000 and 10.
# Seen with Python 3.11, tensorflow-datasets 4.9.10, pyarrow 26.0.1. Exits 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q tensorflow-datasets==4.9.10 importlib_resources==7.1.0 array-record==0.8.6 \
  pyarrow==26.0.1 numpy==2.4.6
cat >"$folder/rows.py" <<'PYTHON'
import sys
import numpy as np
import tensorflow_datasets as tfds

ROWS = 2000


class Numbers(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"row": np.int64, "values": tfds.features.Tensor(shape=(1000,), dtype=np.float32)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for row in range(ROWS):
            yield row, {"row": row, "values": np.full(1000, row, np.float32)}


found = {}
for file_format in ("array_record", "parquet"):
    builder = Numbers(data_dir=f"{sys.argv[1]}/{file_format}", file_format=file_format)
    builder.download_and_prepare()
    source = builder.as_data_source(split="train")
    rows = {int(source[i]["row"]) for i in range(len(source))}
    part = builder.as_data_source(split="train[:10]")
    found[file_format] = (builder.info.splits["train"].num_examples, len(rows), len(part))
    print(file_format, "info, rows read, rows of train[:10]:", *found[file_format])
sys.exit(found != {"array_record": (ROWS, ROWS, 10), "parquet": (ROWS, 500, 500)})
PYTHON
"$folder/venv/bin/python" "$folder/rows.py" "$folder/data" 2>"$folder/log" || { cat "$folder/log" >&2; exit 1; }
