"""Taking a batch from a data set on the device."""

from __future__ import annotations

from gpucnn.backend.kernels.records import Elementwise

__all__ = ["GATHER_IMAGES", "GATHER_LABELS", "ONE_HOT"]

GATHER_IMAGES = Elementwise(
    "gather_images",
    "raw uint8 images, raw int32 order, raw int64 cursor, raw T scale, raw T shift, int32 pixels, int32 C",
    "T x",
    """
    const int e = i;
    const long long sample = order[cursor[0] + e / pixels];
    x = T(images[sample * pixels + e % pixels]) * scale[e % C] + shift[e % C];
    """,
)
GATHER_LABELS = Elementwise(
    "gather_labels",
    "raw int32 labels, raw int32 order, raw int64 cursor",
    "int32 y",
    "y = labels[order[cursor[0] + i]]",
)
ONE_HOT = Elementwise("one_hot", "raw int32 labels, int32 K", "T y", "const int e = i; y = labels[e / K] == e % K")
