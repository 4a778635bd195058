"""The model card names its figures, and what they are of."""

from helpers import untrained

from mgc_jax.export.card import model_card

RESULTS = {
    "test_evaluations": 2,
    "splits": {
        "train": {"clips": 9, "bags": 3, "clip": {"accuracy": 0.987}},
        "validation": {
            "clips": 102, "bags": 42,
            "bag": {"accuracy": 0.6961, "macro_f1": 0.3192, "micro_ap": 0.7641},
            "clip": {"accuracy": 0.6470},
            "intervals": {"bag": {"accuracy": [0.4938, 0.8369], "micro_ap": [None, None]}},
            "warnings": ["Rock: 14 of 28 clips are by one artist", "Jazz: 2 clips by 1 artist"],
        },
    },
}  # fmt: skip


def card(results, **changes):
    return model_card(untrained({"name": "mlp", "hidden": (4,)}, "matt", (6,), step=7, **changes), results)


def test_it_names_its_figures():
    text = card(RESULTS)
    assert "| validation | bag | 102 | 42 | 0.696 (0.494-0.837) |  | 0.319 |  | 0.764 |  |" in text
    assert "| validation | clip | 102 | 42 | 0.647 |" in text
    assert "0.987" not in text
    assert "Rock: 14 of 28 clips are by one artist (1 more such genres: results.json)" in text
    assert "chosen by the validation split" in text
    assert "step 7, the best by bag/micro_ap" in text
    assert "| parameters | 55 |" in text  # 6 x 4 + 4, 3 queries of 4, 4 x 3 + 3
    assert "Rock, Folk, Jazz" in text


def test_figures_of_the_test_split_are_counted():
    splits = RESULTS["splits"] | {"test": {"clips": 5, "bags": 5, "bag": {"accuracy": 0.5}}}
    text = card(RESULTS | {"splits": splits})
    assert "| test | bag | 5 | 5 | 0.500 |" in text
    assert "evaluated 2 time(s)" in text


def test_without_results_it_says_so():
    for results in (None, {"splits": {}}):
        assert "None: these weights were not evaluated" in card(results)


def test_licences_are_those_of_the_corpus():
    assert "CC BY 4.0" in card(None, corpus="fma_small")
    assert "CC BY 4.0" not in card(None, corpus="arrays")
    assert "SYNTHETIC" in card(None, corpus="demo")
