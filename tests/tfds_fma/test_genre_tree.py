import csv

import pytest

from tfds_fma import UserError
from tfds_fma.genre_tree import genre_tree, with_ancestors
from tfds_fma.labels import GENRE_IDS, GENRES
from tfds_fma.synthesis.catalogue import SUB_GENRES


def test_the_tree_is_fmas():
    tree = genre_tree()
    top = [genre for genre in tree.values() if not genre.parent]
    assert (len(tree), len(top), len({genre.title for genre in tree.values()})) == (163, 16, 163)
    assert tuple(genre.title for genre in top) == GENRES
    assert {genre.title: genre.genre_id for genre in top} == GENRE_IDS
    assert not any("|" in genre.title for genre in tree.values())
    places = list(tree)
    assert all(places.index(genre.parent) < places.index(genre.genre_id) for genre in tree.values() if genre.parent)
    assert max(len(with_ancestors([genre_id])) for genre_id in tree) == 5


def test_ancestors():
    assert with_ancestors([]) == set()
    assert with_ancestors([12]) == {12}
    assert with_ancestors([109, 10]) == {109, 25, 12, 10}  # Hardcore, Punk, Rock; Pop
    with pytest.raises(UserError, match="genre id 9999 is none of the 163"):
        with_ancestors([12, 9999])


def test_sub_genres_of_the_demo_are_in_the_tree():
    tree = genre_tree()
    for genre, below in SUB_GENRES.items():
        for title, genre_id in below.items():
            assert tree[genre_id] == (genre_id, GENRE_IDS[genre], title)


def test_the_table_is_the_one_that_fma_publishes(real_data):
    with (real_data / "fma_sample" / "fma_metadata" / "genres.csv").open(encoding="utf-8") as file:
        published = list(csv.DictReader(file))
    assert {(int(row["genre_id"]), int(row["parent"]), row["title"]) for row in published} == set(
        genre_tree().values()
    )
    assert sum(row["#tracks"] != "0" for row in published) == 161
    for row in published:
        assert int(row["top_level"]) in with_ancestors([int(row["genre_id"])])
