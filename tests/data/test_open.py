"""Which corpus a configuration means."""

import pytest

from mgc_jax.config.overrides import override
from mgc_jax.data.open import resolve_auto, resolve_corpus
from mgc_jax.papers import PAPERS, SYSTEMS, matt
from tfds_fma import reading


@pytest.mark.parametrize("prepared", [("medium", "small"), ("medium",), ("small",)])
def test_auto_is_the_corpus_of_the_paper_where_it_is_prepared(monkeypatch, prepared):
    monkeypatch.setattr(reading, "find_prepared", lambda folder, subset, name: subset if subset in prepared else None)
    for system in (system for system in SYSTEMS if system.paper.corpus.startswith("fma_")):
        corpus = system.paper.corpus
        expected = corpus if corpus.removeprefix("fma_") in prepared else f"fma_{prepared[0]}"
        assert resolve_auto(system.config().data)[0] == expected
    assert {paper.corpus for paper in PAPERS.values()} == {"fma_medium", "fma_small"}


def test_without_prepared_fma_it_is_the_demo_with_its_settings_once_and_for_all(tmp_path):
    config = matt.system("CRNN-TF+MATT").config()
    config.data.data_dir = str(tmp_path)
    resolved, why = resolve_corpus(override(config, {"train.epochs": "2"}))
    assert "SYNTHETIC" in why
    assert (resolved.data.corpus, resolved.data.representation) == ("demo", "mel_256x96")
    assert (resolved.train.epochs, resolved.optimizer.name) == (2, config.demo.optimizer.name)
    assert config.data.corpus == "auto"
    resolved.optimizer.name = "sgd"
    again, why = resolve_corpus(resolved)
    assert again == resolved
    assert why == "corpus demo, as asked"
