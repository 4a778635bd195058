"""Which corpus a configuration means."""

from mgc_jax.config.overrides import override
from mgc_jax.data.open import resolve_corpus
from mgc_jax.papers import matt


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
