"""Random rotation, shifts, zoom and horizontal flip as one transform an image, the way the legacy ImageDataGenerator did it.

Source: Shavlokhova et al., section 2.4; keras.src.legacy.preprocessing.image for how the parts are composed. One
interpolation in place of the three of Keras' separate layers is kinder to small images, and a training step takes half
as long.
"""

from __future__ import annotations

import math

from dermstudy.tensorflow_setup import import_keras


def random_affine(rotation: float, shift: float, zoom: float, **options):
    """A Keras layer, float [n, side, side, 3] to the same, that acts in training only.

    rotation: largest angle in degrees; shift: largest share of the side, along each axis; zoom: largest share by which
    each axis is stretched or squeezed. Half of the images are mirrored. Beyond the border the nearest pixel is repeated.
    """
    keras = import_keras()

    class RandomAffine(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="random_affine", **options)
            self.seeds = keras.random.SeedGenerator()

        def call(self, images, training=False):
            if not training:
                return images
            count, side = keras.ops.shape(images)[0], images.shape[1]

            def draw(most: float, middle: float = 0.0):
                return keras.random.uniform((count,), middle - most, middle + most, seed=self.seeds)

            mirror = keras.ops.where(draw(1.0) < 0, -1.0, 1.0)
            moved = draw(shift * side), draw(shift * side)
            drawn = matrix(draw(math.radians(rotation)), moved, (mirror * draw(zoom, 1.0), draw(zoom, 1.0)), side)
            return keras.ops.image.affine_transform(
                images, drawn, interpolation="bilinear", fill_mode="nearest", data_format="channels_last"
            )

    return RandomAffine()


def matrix(angle, moved: tuple, stretched: tuple, side: int):
    """Rows [n, 8] that say for each pixel (x, y) of the result where in the image it comes from, about the middle.

    angle: radians, [n]; moved: pixels along x and y; stretched: factors along x and y, negative for a mirror image.
    """
    ops, middle = import_keras().ops, (side - 1) / 2
    across, along = ops.cos(angle) * stretched[0], -ops.sin(angle) * stretched[1]
    down, upright = ops.sin(angle) * stretched[0], ops.cos(angle) * stretched[1]
    start_x = middle + moved[0] - (across + along) * middle
    start_y = middle + moved[1] - (down + upright) * middle
    nothing = ops.zeros_like(angle)
    return ops.stack([across, along, start_x, down, upright, start_y, nothing, nothing], axis=1)
