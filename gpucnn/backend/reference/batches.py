"""Taking batches from a data set that lies on the device."""

from __future__ import annotations

from gpucnn.backend.reference.arrays import Array, Arrays

__all__ = ["Batches"]


class Batches(Arrays):
    """Part of `Backend`."""

    def gather_batch(
        self,
        images: Array,
        labels: Array,
        order: Array,
        cursor: Array,
        scale: Array,
        shift: Array,
        *,
        x: Array,
        y: Array,
    ) -> None:
        """Take the next batch of a data set on the device: `x = images[...] * scale + shift`, `y = labels[...]`.

        The samples are `order[cursor : cursor + N]`, N = len(x); `cursor`, int64 (1,), then moves on by N.
        images (S, H, W, C) uint8, labels (S,) int32, order (S,) int32, scale and shift (C,) -> x (N, H, W, C), y (N,).
        """
        N = x.shape[0]
        samples = self.xp.take(order, cursor + self.xp.arange(N, dtype=cursor.dtype))
        x[...] = self.cast(self.xp.take(images, samples, axis=0), x.dtype) * scale + shift
        y[...] = self.xp.take(labels, samples)
        cursor += N

    def one_hot(self, labels: Array, *, out: Array) -> Array:
        """Write 1 at each row's label and 0 elsewhere. labels (N,) -> out (N, K)."""
        is_label = labels[:, None] == self.xp.arange(out.shape[1], dtype=labels.dtype)[None, :]
        return self._store(self.cast(is_label, out.dtype), out)
