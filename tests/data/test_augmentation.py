import jax
import jax.numpy as jnp
import numpy as np

from mgc_jax.data import augmentation

CLIPS = jnp.arange(1, 1 + 40 * 20 * 6, dtype=jnp.float32).reshape(40, 20, 6)


def test_random_crops_are_windows_of_their_clips():
    cropped = np.asarray(augmentation.random_crop(CLIPS, 12, jax.random.key(0)))
    assert cropped.shape == (40, 12, 6)
    starts = []
    for clip, whole in zip(cropped, np.asarray(CLIPS), strict=True):
        (start,) = np.flatnonzero(whole[:, 0] == clip[0, 0])
        np.testing.assert_array_equal(clip, whole[start : start + 12])
        starts.append(start)
    assert set(starts) == set(range(9))  # every place, the last one too


def test_the_middle_crop_is_the_middle():
    np.testing.assert_array_equal(augmentation.middle_crop(CLIPS, 10), CLIPS[:, 5:15])
    np.testing.assert_array_equal(augmentation.middle_crop(CLIPS, 20), CLIPS)


def test_masked_bands_are_contiguous_and_of_every_width():
    clips = jnp.ones((400, 20, 6))
    for axis, size, width in ((1, 20, 7), (2, 6, 3)):
        masked = np.asarray(augmentation.mask_bands(clips, axis, 1, width, jax.random.key(axis)))
        other = 3 - axis
        assert (masked == masked.max(axis=other, keepdims=True)).all()  # whole bands
        hidden = masked.max(axis=other) == 0
        assert set(hidden.sum(axis=1)) == set(range(width + 1))
        for row in hidden:
            places = np.flatnonzero(row)
            assert len(places) == 0 or places[-1] - places[0] == len(places) - 1
        assert hidden[:, 0].any()
        assert hidden[:, size - 1].any()


def test_two_bands_hide_more_than_one():
    clips = jnp.ones((300, 40, 6))
    masked = [np.asarray(augmentation.mask_bands(clips, 1, masks, 8, jax.random.key(0))) for masks in (1, 2)]
    hidden = [np.mean(values == 0) for values in masked]
    np.testing.assert_allclose(hidden[0], 4 / 40, rtol=0.1)
    np.testing.assert_allclose(hidden[1], 1 - (1 - 4 / 40) ** 2, rtol=0.1)


def test_a_band_never_exceeds_the_clip():
    masked = augmentation.mask_bands(jnp.ones((50, 5, 4)), 1, 1, 100, jax.random.key(0))
    assert np.isfinite(np.asarray(masked)).all()


def test_noise_has_the_given_deviation():
    noisy = augmentation.add_noise(jnp.ones((100, 50)), 0.3, jax.random.key(0))
    np.testing.assert_allclose([noisy.mean(), noisy.std()], [1, 0.3], rtol=0.05)
