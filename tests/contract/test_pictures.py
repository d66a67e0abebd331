"""Pictures of inks, read by Pillow, against TensorFlow's own decoder."""

import numpy as np
import pytest
from PIL import Image

from whet.data.raw import read_raw

INKS = [(0, 0, 0, 0), (0, 0, 0, 200), (200, 40, 40, 0), (30, 220, 60, 50), (255, 0, 0, 0), (10, 90, 250, 120)]


@pytest.mark.parametrize("inks", INKS)
def test_a_jpeg_of_inks_has_the_colours_that_tensorflow_sees(tmp_path, inks):
    tensorflow = pytest.importorskip("tensorflow")
    path = tmp_path / "inks.jpg"
    Image.new("CMYK", (16, 16), inks).save(path, quality=95)
    assert b"Adobe" in path.read_bytes()  # whose inks are turned over
    expected = tensorflow.io.decode_jpeg(path.read_bytes(), channels=3).numpy()
    np.testing.assert_allclose(read_raw(path).astype(int), expected.astype(int), atol=1)
