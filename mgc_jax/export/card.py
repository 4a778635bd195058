"""The model card of an export (Mitchell et al. 2019): what the model is, how good it is, what for, how to load it."""

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from mgc_jax.config import keys
from mgc_jax.evaluation.levels import LEVELS
from mgc_jax.evaluation.tasks import metrics_of
from mgc_jax.export.preprocessing import describe
from mgc_jax.inference import ExportedModel
from mgc_jax.models.classifier import count_parameters, describe_model

_CORPORA = {
    "demo": "a demo corpus of SYNTHETIC music: the model is for trying the programs out, and knows no real music",
    "arrays": "arrays of somebody's own",
}
_KINDS = {
    "log_mel": "a log-mel spectrogram",
    "audio": "audio, which the model turns into a log-mel spectrogram",
    "features": "a vector of features",
    "unknown": "an array of unknown making",
}
_LICENCES = """\
* Code: Apache-2.0 (mgc-jax).
* Metadata of FMA, from which labels, artists and splits come: CC BY 4.0 (Defferrard et al., ISMIR 2017).
* Audio of FMA: each track has a Creative Commons licence of its own, which its artist chose; some exclude commercial
  use or derivatives. Whether they reach the weights of a model is for a lawyer to say.
"""
_ARRAYS_LICENCE = """\
* Code: Apache-2.0 (mgc-jax).
* Training data: whoever gave the arrays knows their licence.
"""
_SEVERAL = """\
A clip may have several of them: `log_scores` are log odds, and the sigmoid of each is the probability of that genre by
itself. No genre has a lower one than a genre below it in FMA's tree (`genre_parents` in `config.json`: for each genre
the index of the one above it, -1 where there is none).
"""
_USES = """\
It names the likely genres of a clip of music, and ranks them: for research, and for sorting and exploring a collection
whose owner can correct it.

It must not be used

* to decide about people: what they are paid, whether their music is published, removed or recommended, who they are;
* as a statement about an artist or a culture: genres are the labels that artists of one archive gave to their own
  tracks, with many more of some genres than of others;
* on speech, noise or silence, which get a genre as well, or on clips that were made in another way than
  `preprocessing.json` says: the scores then mean nothing, and nothing can tell;
* with its scores taken for probabilities of being right: look at the calibration error (ECE) first.
"""
_LOADING = """\
`clips` are float32 [bag, slot{axes}], as `preprocessing.json` says, and `present` is bool [bag, slot]: which slots
hold a clip of the bag. Clips alone: [clip, 1{axes}] and all true. `probe.npz` holds such clips, and what must come out
for them.

`weights.safetensors`, with mgc-jax:

```python
import mgc_jax

scores, aux = mgc_jax.load_model("{folder}")(clips)  # [clip{axes}]: each alone
```

`model.stablehlo`, if it is there, with JAX and flatbuffers alone, on CPUs, NVIDIA GPUs and TPUs:

```python
import json, jax, numpy as np
from jax import export

model = jax.jit(export.deserialize(bytearray(open("{folder}/model.stablehlo", "rb").read())).call)
probe = np.load("{folder}/probe.npz")
scores = model(probe["clips"], probe["present"])["log_scores"]  # [bag, genre]; also attention, embedding
genre = json.load(open("{folder}/labels.json"))[int(scores[0].argmax())]
```

`model.onnx`, if it is there, with ONNX Runtime alone{onnx}:

```python
import numpy as np, onnxruntime

model = onnxruntime.InferenceSession("{folder}/model.onnx")
probe = np.load("{folder}/probe.npz")
scores, attention, embedding = model.run(None, {{"clips": {onnx_clips}, "present": probe["present"]}})
```
"""


def model_card(exported: ExportedModel, results: Mapping[str, Any] | None) -> str:
    """Writes the card, Markdown.

    Args:
        exported: the model.
        results: what `results.json` holds of these weights; None: they were not evaluated.
    """
    meta = exported.meta
    config = ConfigDict(meta.config)
    given = describe(meta)
    made = given.get("spectrogram", {}).get("name")
    if made is None and meta.corpus != "arrays":  # of arrays from elsewhere the key means nothing
        made = given["corpus"]["representation"]
    shape = " x ".join(map(str, meta.stored_shape))
    select = config.train.select
    chosen = "last" if select == keys.LAST else f"best by {select} on validation"
    lines = [
        f"# {describe_model(config.model)}",
        "",
        "A model that names the genre of a clip of music, and of a bag of clips, such as an album.",
        "",
        "| | |",
        "|---|---|",
        f"| trained on | {_CORPORA.get(meta.corpus, meta.corpus)} (fingerprint {meta.fingerprint}) |",
        f"| split | {_split(config)} |",
        f"| weights | step {meta.step}, the {chosen}{'; averaged (EMA)' if config.optimizer.ema else ''} |",
        f"| parameters | {count_parameters(exported.model):,} |",
        f"| takes | {_KINDS[given['kind']]}, {shape}{f' ({made})' if made and given['kind'] != 'unknown' else ''} |",
        f"| gives | {'log odds of each genre by itself' if meta.genre_parents else 'log scores of the genres'} |",
        f"| post-hoc logit adjustment | {'yes, inside all formats' if any(meta.adjustment) else 'none'} |",
        f"| code | {meta.code or 'not recorded'} |",
        "",
        "## Labels",
        "",
        f"{len(meta.genres)}, in the order of the scores: {', '.join(meta.genres)}.",
        "",
        *([_SEVERAL, ""] if meta.genre_parents else []),
        "## Figures",
        "",
        *_figures(results),
        "",
        "## What it is for, and what not",
        "",
        _USES,
        "## Licences",
        "",
        _ARRAYS_LICENCE if meta.corpus == "arrays" else _LICENCES,
        "## Load it",
        "",
        _loading(exported),
    ]
    return "\n".join(lines)


def _split(config: ConfigDict) -> str:
    if config.data.folds:
        return f"fold {config.data.fold} of {config.data.folds}, no artist in two (seed {config.data.split_seed})"
    return {"fma": "the corpus's own", "8-1-1": f"8-1-1, drawn at random (seed {config.data.split_seed})"}.get(
        config.data.split, config.data.split
    )


def _figures(results: Mapping[str, Any] | None) -> Sequence[str]:
    splits = {} if results is None else {name: part for name, part in results["splits"].items() if name != "train"}
    if results is None or not splits:
        return ["None: these weights were not evaluated, or their results.json was not there."]
    metrics = metrics_of(results.get("task"))
    titles = [metric.title for metric in metrics.values()]
    rows = [f"| split | scores of | clips | bags | {' | '.join(titles)} |", "|---" * (4 + len(titles)) + "|"]
    for split, part in splits.items():
        for level in (level for level in LEVELS if level in part):
            intervals = part.get("intervals", {}).get(level, {})
            cells = [_figure(part[level].get(name), intervals.get(name)) for name in metrics]
            rows.append(
                f"| {split} | {LEVELS[level].title} | {part['clips']} | {part['bags']} | {' | '.join(cells)} |"
            )
    meanings = "; ".join(f"{level.title}: {level.meaning}" for level in LEVELS.values())
    notes = [f"In brackets 95 % intervals (bootstrap over artists). {meanings}."]
    if "test" in splits:
        notes.append(f"The test split was evaluated {results.get('test_evaluations', 1)} time(s).")
    else:
        notes.append("The weights were chosen by the validation split, which therefore flatters them.")
    for split, part in splits.items():
        if warnings := part.get("warnings"):
            more = f" ({len(warnings) - 1} more such genres: results.json)" if len(warnings) > 1 else ""
            notes.append(f"Mind, {split}: {warnings[0]}{more}.")
    return [*rows, "", " ".join(notes)]


def _figure(value: float | None, interval: Sequence[float | None] | None) -> str:
    if value is None:
        return ""
    low, high = interval or (None, None)
    return f"{value:.3f}" if low is None else f"{value:.3f} ({low:.3f}-{high:.3f})"


def _loading(exported: ExportedModel) -> str:
    frontend = exported.inputs.frontend
    axes = "".join(f", {length}" for length in exported.meta.stored_shape)
    if frontend is None:
        return _LOADING.format(folder="export", axes=axes, onnx="", onnx_clips='probe["clips"]')
    frames, mels = frontend.clip_shape
    onnx = f", of spectrograms [bag, slot, {frames}, {mels}], which `spectrogram.onnx` computes from audio"
    return _LOADING.format(folder="export", axes=axes, onnx=onnx, onnx_clips="spectrograms")
