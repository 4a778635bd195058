"""Loads an exported model and scores arrays with it: genres, embeddings, and a bag with its attention.

    python examples/02_load_and_score.py runs/own/export runs/own/arrays/mels.npz

The first example writes both. Neither the corpus nor the optimizer is needed.
"""

import sys

import numpy as np

import mgc_jax


def main(folder: str, file: str) -> None:
    """Scores the first clips of a file."""
    model = mgc_jax.load_model(folder)
    arrays = np.load(file)
    clips = arrays[next(name for name in arrays.files if name != "track_id")][:6]

    scores, aux = model(clips)  # log probabilities [clip, genre]
    for clip, probability in enumerate(np.exp(scores)):
        best = probability.argsort()[::-1][:3]
        print(f"clip {clip}:", ", ".join(f"{model.genres[genre]} {probability[genre]:.2f}" for genre in best))
    print("embeddings", aux["embedding"].shape)

    bag = np.zeros(len(clips), int)  # all clips form bag 0
    scores, aux = model(clips, bag)
    print("the bag:", model.genres[int(scores[0].argmax())], "with attention", aux["attention"].shape)


if __name__ == "__main__":
    main(*sys.argv[1:])
