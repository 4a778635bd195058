"""The files that a corpus was made of get the scores that evaluation gives its clips."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

import tfds_fma
from mgc_jax.config.checks import validate
from mgc_jax.config.keys import default
from mgc_jax.experiment import Experiment
from mgc_jax.inference import ExportedModel, model_of, with_weights
from tfds_fma.preparation import prepare

DUMMY = Path(tfds_fma.__file__).parent / "dummy_data"


def short_clips(folder):
    """FMA's table with clips of 5.8 s, as the demo has them: one window each."""
    source = folder / "source"
    shutil.copytree(DUMMY / "fma_metadata", source / "fma_metadata")
    (source / "fma_medium" / "000").mkdir(parents=True)
    for path in (DUMMY / "fma_medium" / "000").glob("*.mp3"):
        with soundfile.SoundFile(path) as audio:
            samples = audio.read(round(5.8 * audio.samplerate))
            soundfile.write(source / "fma_medium" / "000" / path.name, samples, audio.samplerate)
    return source


def config_of(data_dir, representation, encoder, **changes):
    config = default()
    config.data.update(corpus="fma_medium", data_dir=str(data_dir), representation=representation)
    config.model.encoder.update(**encoder)
    config.eval.batch_clips = 4
    config.update_from_flattened_dict(changes)
    validate(config)
    return config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("representation", "changes"),
    [
        ("mel_256x96", {"eval.logit_adjustment": 0.5}),
        ("mel_256x96_librosa08", {}),
        ("audio_12000_short", {"model.frontend": "mel_256x96"}),
    ],
)
def test_songs_get_the_scores_of_their_clips(tmp_path, representation, changes):
    source = short_clips(tmp_path)
    prepare(source, "medium", representation, tmp_path / "data", progress=False, log=lambda line: None)
    encoder = {"name": "crnn_tf", "filters": (4, 4), "pools": ((4, 4), (4, 4)), "gru_units": 4, "features": 8}
    config = config_of(tmp_path / "data", representation, encoder, **changes)
    run = Experiment(config, tmp_path / "run")
    meta = run.meta({})
    model = ExportedModel(with_weights(model_of(meta), run.params, run.batch_stats), run.inputs, meta)
    for split in run.bags:
        expected = run.predict(split, run.params, run.batch_stats)
        folders = []
        for track_id, bag in zip(expected.track_id, expected.bag, strict=True):
            folders.append(tmp_path / split / str(bag))
            folders[-1].mkdir(parents=True, exist_ok=True)
            name = f"{track_id:06d}.mp3"
            (folders[-1] / name).symlink_to(source / "fma_medium" / "000" / name)
        found = model.predict(list(dict.fromkeys(folders)), bags="folder", workers=1)
        assert [int(song.path.stem) for song in found.songs] == expected.track_id.tolist()
        alone = [song.window_scores[0] for song in found.songs]
        np.testing.assert_allclose(alone, expected.clip_scores, atol=1e-6)
        bags = [found.albums[song.album].scores for song in found.songs]
        np.testing.assert_allclose(bags, expected.bag_scores, atol=1e-6)
        np.testing.assert_allclose([song.attention for song in found.songs], expected.attention, atol=1e-6)
