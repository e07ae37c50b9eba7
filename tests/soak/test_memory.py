"""Two hours of 1080p at a few frames per second: as much memory as ten minutes. The full rate runs in `make soak`."""

import pytest

from tests.soak import memory


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_memory_does_not_grow_with_the_video() -> None:
    short, long = memory.compare(fps=3, long_s=7200, short_s=600)
    assert long.frames == 12 * short.frames
    assert long.peak_rss_bytes <= memory.TOLERANCE * short.peak_rss_bytes, memory.table(3, (short, long))
