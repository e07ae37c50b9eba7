"""An upright RGB picture in; the picture at the size and crop of a view out. The only resize in the service.

Both decoders deliver at native size and this module resizes: resizing inside a decoder differs from decoder to
decoder, and features would then depend on who decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidOptions, VideoTooSmall

Pixels = NDArray[np.uint8]
SizePx = tuple[int, int]  # (width, height)


@dataclass(frozen=True)
class FrameView:
    """How frames are shown to a consumer: `size_px` is the short side, or (width, height) for 'exact'."""

    resize: Literal["none", "short_side", "exact"] = "none"
    size_px: int | SizePx | None = None
    interpolation: Literal["linear", "area", "cubic"] = "linear"
    crop_px: SizePx | None = None

    def __post_init__(self) -> None:
        wanted = {"none": type(None), "short_side": int, "exact": tuple}.get(self.resize)
        if wanted is None:
            raise InvalidOptions(f"resize is {self.resize!r}; accepted are 'none', 'short_side' and 'exact'")
        if not isinstance(self.size_px, wanted):
            raise InvalidOptions(f"resize {self.resize!r} takes a size_px of {wanted.__name__}, not {self.size_px!r}")
        if self.interpolation not in {"linear", "area", "cubic"}:
            raise InvalidOptions(f"interpolation is {self.interpolation!r}; accepted are 'linear', 'area' and 'cubic'")
        for size in (self.size_px, self.crop_px):
            _refuse_empty(size)

    def scaled_size(self, display_px: SizePx) -> SizePx:
        """The size before cropping; `display_px` counts square pixels, so any pixel aspect ratio comes out right."""
        if isinstance(self.size_px, tuple):
            return self.size_px
        if self.size_px is None:
            return display_px
        scale = self.size_px / min(display_px)
        width_px, height_px = (max(1, round(side * scale)) for side in display_px)
        return width_px, height_px

    def output_size(self, display_px: SizePx) -> SizePx:
        scaled = self.scaled_size(display_px)
        if self.crop_px is None:
            return scaled
        if self.crop_px[0] > scaled[0] or self.crop_px[1] > scaled[1]:
            raise VideoTooSmall(
                f"the view crops to {_by(self.crop_px)} px, but the picture is {_by(scaled)} px after resizing; "
                f"accepted is a crop that fits"
            )
        return self.crop_px


@dataclass(frozen=True)
class Orientation:
    """How stored rows and columns become the upright picture: transpose first, then mirror."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def size(self, stored_px: SizePx) -> SizePx:
        return (stored_px[1], stored_px[0]) if self.transpose else stored_px

    def apply(self, pixels: Pixels) -> Pixels:
        if self == Orientation():
            return pixels
        turned = pixels.swapaxes(0, 1) if self.transpose else pixels
        turned = turned[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]
        return np.ascontiguousarray(turned)


def resize(pixels: Pixels, size_px: SizePx, interpolation: str) -> Pixels:
    """Left untouched, bit for bit, where the size is already right."""
    if (pixels.shape[1], pixels.shape[0]) == size_px:
        return pixels
    import cv2  # noqa: PLC0415  # 0.15 s of import that a native-size decode, and the parent process, do without

    cv2.setNumThreads(1)
    method = {"linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "cubic": cv2.INTER_CUBIC}[interpolation]
    return np.asarray(cv2.resize(pixels, size_px, interpolation=method), dtype=np.uint8)


def show(pixels: Pixels, view: FrameView, display_px: SizePx) -> Pixels:
    """One upright picture as `view` wants it; a crop takes the centre, rounded towards the top left."""
    scaled_px = view.scaled_size(display_px)
    width_px, height_px = view.output_size(display_px)
    scaled = resize(pixels, scaled_px, view.interpolation)
    left, top = (scaled_px[0] - width_px) // 2, (scaled_px[1] - height_px) // 2
    return scaled[top : top + height_px, left : left + width_px]


def _refuse_empty(size: int | SizePx | None) -> None:
    sides = size if isinstance(size, tuple) else (size,)
    if any(side is not None and side < 1 for side in sides):
        raise InvalidOptions(f"a frame view's size is {size}; accepted are whole numbers from 1 px")


def _by(size_px: SizePx) -> str:
    return f"{size_px[0]}x{size_px[1]}"
