"""Predict what a training step takes on an H100 or H200: arithmetic on counted instructions and bytes, no measurement.

    python scripts/gpu/model.py
    python scripts/gpu/model.py --networks vgg --batch-sizes 512 --families

A kernel takes as long as its slowest resource is busy: bytes at the memory's rate, instructions at the rate at which
they are issued, products at that of cuBLAS or of the kernel's own inner loop. To this comes the latency of its node in
the graph. `scripts/gpu/check.py` writes these figures beside those that it measures, so that it shows which of the
assumptions below are wrong.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from bench.engine import image_shape
from gpu.job import PRECISIONS
from gpucnn import BatchNorm2D, Conv2D, Dense, GlobalAveragePool2D, MaxPool2D, ReLU, Residual, Sequential, Sigmoid, zoo
from gpucnn.backend.gpu.convolution import ALGORITHMS, COLUMN_BYTES
from gpucnn.backend.gpu.implicit import DEPTH, TILE, dw_parts
from gpucnn.layers.base import Layer

FLOAT = 4  # bytes of an element: all precisions keep arrays in float32

# ---- what is assumed ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Card:
    """A GPU by its data sheet; `bandwidth` is 0.9 of what is promised there, in bytes per second."""

    name: str
    bandwidth: float
    multiprocessors: int = 132
    clock: float = 1.83e9  # at which NVIDIA states the peak rates of the H100 SXM

    @property
    def slots(self) -> float:
        """Instructions of a warp that are issued per second: one per cycle by each of a multiprocessor's four parts."""
        return self.multiprocessors * 4 * self.clock


CARDS = {"H100": Card("H100", 0.9 * 3.35e12), "H200": Card("H200", 0.9 * 4.8e12)}
OTHER_CARDS = "PCIe", "NVL"  # the same name with fewer multiprocessors and other memory

NODE = 2.5e-6  # seconds from one node of a graph to the next that waits for it, for a kernel that does nothing: assumed
SHARE = 0.85  # of bandwidth and of slots that a simple kernel reaches: assumed
SECOND_STAGE = 3e-6  # seconds in which a block sums up to 1,024 partial sums: four dependent rounds, assumed

# Instructions of a thread for each element, by kernel: counted in the machine code that NVRTC 13 makes for sm_90, of
# loops as often as they run for 2 x 2 pooling, and where CuPy's indexer is needed (of two dimensions) with it. `im2col`
# is per element of the columns, `max_pool2d` per output, all others per pixel.
INSTRUCTIONS = {
    **{"relu": 47, "relu_dx": 58, "sigmoid": 100, "sigmoid_dx": 58, "add": 56, "add_bias": 77, "sgd_step": 78},
    **{"gather_images": 112, "im2col": 208, "max_pool2d": 250, "max_pool2d_dx": 470},
    **{"partial_moments": 30, "batch_norm": 95, "partial_gradients": 30, "batch_norm_dx": 130},
    **{"sum_rows": 12, "average_pool2d": 20, "average_pool2d_dx": 300},
}

# Slots of a warp for one step of the implicit kernels' inner loop (a tile of 64 x 64, 16 deep), counted likewise.
LOOP = {
    "bf16": {"conv2d": 305, "conv2d_dx": 406, "conv2d_dw": 297},
    "tf32": {"conv2d": 363, "conv2d_dx": 462, "conv2d_dw": 364},
    "float32": {"conv2d": 472, "conv2d_dx": 544, "conv2d_dw": 469},
}
WARPS = {"bf16": 4, "tf32": 4, "float32": 8}  # of a block
EFFICIENCY = {"bf16": 0.55, "tf32": 0.55, "float32": 0.6}  # of the slots, that the loop fills: assumed
STEP_LATENCY = 0.7e-6  # seconds of a step of that loop for a block that has a multiprocessor to itself: assumed

# Products by cuBLAS, in operations per second, on the narrow matrices that convolutions are: assumed. float32 is two
# thirds of the peak of 67e12; with the others the factors are float32 in memory, whatever they are rounded to.
CUBLAS = {"bf16": 180e12, "tf32": 180e12, "float32": 45e12}
CUBLAS_LEAST = 3e-6  # seconds of the smallest product, beside the node: assumed
CUBLAS_WIDTH = 32  # columns of its narrowest tile: assumed


def col2im_instructions(rows: int, taps: int) -> int:
    """Return the instructions of `col2im` for a pixel; 690 for 3 x 3, counted."""
    return 110 + 60 * rows + 44 * taps


def card_named(name: str) -> Card | None:
    """Return the card of a name that CUDA gives, such as "NVIDIA H100 80GB HBM3"; None for one not described here."""
    if any(other in name for other in OTHER_CARDS):
        return None
    return next((card for key, card in CARDS.items() if key in name), None)


# ---- kernels ------------------------------------------------------------------------------------------------------


def kernel_seconds(card: Card, kernel: str, elements: int, moved: int, instructions: int | None = None) -> float:
    """Return the seconds of a simple kernel: its bytes, or its instructions for each element, without its node."""
    count = INSTRUCTIONS[kernel] if instructions is None else instructions
    return max(moved / card.bandwidth, elements * count / 32 / card.slots) / SHARE


def product_seconds(card: Card, precision: str, M: int, K: int, N: int) -> float:
    """Return the seconds of cuBLAS for (M, K) @ (K, N), each matrix read or written once, without its node."""
    least, most = sorted((M, N))
    operations = 2 * most * K * max(least, CUBLAS_WIDTH)
    return max(operations / CUBLAS[precision], (M * K + K * N + M * N) * FLOAT / card.bandwidth, CUBLAS_LEAST)


def tiles_seconds(
    card: Card, precision: str, kernel: str, rows: int, depth: int, columns: int, moved: int, *, parts: int = 1
) -> float:
    """Return the seconds of an implicit kernel for a result (rows, columns), each summed over so many steps in parts.

    The blocks of a multiprocessor share its slots; one that has few of them waits for memory in each of its steps.
    """
    steps = math.ceil(depth / parts / DEPTH)
    blocks = math.ceil(rows / TILE) * math.ceil(columns / TILE) * parts
    slots = steps * LOOP[precision][kernel] * WARPS[precision]  # of a block
    own_slots = EFFICIENCY[precision] * card.slots / card.multiprocessors
    return max(
        math.ceil(blocks / card.multiprocessors) * slots / own_slots, steps * STEP_LATENCY, moved / card.bandwidth
    )


# ---- a training step ----------------------------------------------------------------------------------------------


class Step:
    """The predicted step of a network: seconds by family of kernels, and the nodes of its graph.

    Sums over rows have two stages at the memory's rate; batch normalization sums up at most 1,024 partial results.
    """

    def __init__(self, card: Card, precision: str, way: str):
        self.card, self.precision, self.way = card, precision, way
        self.nodes = 0
        self.families: Counter[str] = Counter()

    @property
    def seconds(self) -> float:
        """Seconds of the whole step."""
        return sum(self.families.values())

    def add(self, family: str, seconds: float, nodes: int = 1) -> None:
        """Add the work of some nodes; their latency is a family of its own."""
        self.nodes += nodes
        self.families[family] += seconds
        self.families["latency of nodes"] += nodes * NODE

    def simple(self, family: str, kernel: str, elements: int, moved: int, instructions: int | None = None) -> None:
        """Add a simple kernel."""
        self.add(family, kernel_seconds(self.card, kernel, elements, moved, instructions))

    def product(self, family: str, M: int, K: int, N: int) -> None:
        """Add a product of cuBLAS; a long sum for a small result is split, which takes a second kernel."""
        is_split = K > 4096 and math.ceil(M / TILE) * math.ceil(N / TILE) < self.card.multiprocessors
        self.add(family, product_seconds(self.card, self.precision, M, K, N), 1 + is_split)

    def sums(self, family: str, rows: int, columns: int) -> None:
        """Add a sum over rows, in two stages."""
        seconds = kernel_seconds(self.card, "sum_rows", rows * columns, rows * columns * FLOAT)
        self.add(family, seconds + min(SECOND_STAGE, seconds), 2)

    def layer(self, layer: Layer, N: int, *, relu: bool, need_dx: bool) -> None:
        """Add both passes of a layer."""
        n, o = N * math.prod(layer.input_shape), N * math.prod(layer.output_shape)
        if isinstance(layer, Conv2D):
            (self._columns if self.way == "columns" else self._implicit)(layer, N, need_dx)
            if layer.bias:
                self.sums("bias gradients", o // layer.output_shape[-1], layer.output_shape[-1])
        elif isinstance(layer, Dense):
            self._dense(layer, N, need_dx)
        elif isinstance(layer, BatchNorm2D):
            for first, second, reads in (
                ("partial_moments", "batch_norm", 1),
                ("partial_gradients", "batch_norm_dx", 2),
            ):
                self.simple("normalization", first, n, reads * n * FLOAT)
                self.add("normalization", SECOND_STAGE)
                self.simple("normalization", second, n, (reads + 1) * n * FLOAT)
        elif isinstance(layer, MaxPool2D):
            for kernel, elements in (("max_pool2d", o), ("max_pool2d_dx", n)):
                self.simple("pooling", kernel, elements, (n + o) * FLOAT + o)
        elif isinstance(layer, GlobalAveragePool2D):
            for kernel in ("average_pool2d", "average_pool2d_dx"):
                self.simple("pooling", kernel, n, (n + o) * FLOAT)
        elif isinstance(layer, ReLU):
            if not relu:
                self.simple("activations", "relu", n, 2 * n * FLOAT)
            self.simple("activations", "relu_dx", n, 3 * n * FLOAT)
        elif isinstance(layer, Sigmoid):
            self.simple("activations", "sigmoid", n, 2 * n * FLOAT)
            self.simple("activations", "sigmoid_dx", n, 3 * n * FLOAT)

    def _dense(self, layer: Dense, N: int, need_dx: bool) -> None:
        (C,), (K,) = layer.input_shape, layer.output_shape
        self.product("dense", N, C, K)
        self.simple("dense", "add_bias", N * K, 2 * N * K * FLOAT)
        self.sums("bias gradients", N, K)
        self.product("dense", C, N, K)
        if need_dx:
            self.product("dense", N, K, C)

    def _columns(self, layer: Conv2D, N: int, need_dx: bool) -> None:
        """Add a convolution whose columns are written, as many images at a time as `COLUMN_BYTES` holds."""
        (H, W, C), (OH, OW, OC), taps = layer.input_shape, layer.output_shape, layer.window.taps
        images = min(N, max(1, COLUMN_BYTES // (OH * OW * taps * C * FLOAT)))
        for start in range(0, N, images):
            count = min(images, N - start)
            rows, width, pixels = count * OH * OW, taps * C, count * H * W * C
            moved = (rows * width + pixels) * FLOAT
            self.simple("im2col and col2im", "im2col", rows * width, moved)
            self.product("convolution", rows, width, OC)
            if layer.bias:
                self.simple("convolution", "add_bias", rows * OC, 2 * rows * OC * FLOAT)
            self.simple("im2col and col2im", "im2col", rows * width, moved)
            self.product("convolution", width, rows, OC)
            if start:
                self.simple("convolution", "add", width * OC, 3 * width * OC * FLOAT)
            if need_dx:
                self.product("convolution", rows, OC, width)
                instructions = col2im_instructions(layer.window.kernel[0], taps)
                self.simple("im2col and col2im", "col2im", pixels, moved, instructions)

    def _implicit(self, layer: Conv2D, N: int, need_dx: bool) -> None:
        """Add a convolution without columns."""
        (H, W, C), (OH, OW, OC), taps = layer.input_shape, layer.output_shape, layer.window.taps
        windows, pixels = N * OH * OW, N * H * W
        moved = (windows * OC + pixels * C) * FLOAT
        shape = self.card, self.precision
        self.add("convolution", tiles_seconds(*shape, "conv2d", windows, taps * C, OC, moved))
        parts, _ = dw_parts(layer.w.shape, windows)
        self.add("convolution", tiles_seconds(*shape, "conv2d_dw", taps * C, windows, OC, moved, parts=parts))
        if parts > 1:
            self.sums("convolution", parts, taps * C * OC)
        if need_dx:
            self.add("convolution", tiles_seconds(*shape, "conv2d_dx", pixels, taps * OC, C, moved))


@cache
def built(network: str) -> Sequential:
    """Return a network of the zoo, whose layers know their shapes."""
    model = zoo.get_recipe(network).model()
    model.build(image_shape(network), "cpu", seed=0)
    return model


def predict(network: str, N: int, precision: str, way: str, card: Card) -> Step:
    """Return the predicted training step of a network of the zoo: batch, both passes, and SGD with momentum."""
    model = built(network)
    step, pixels = Step(card, precision, way), N * math.prod(model.input_shape)
    step.simple("batch", "gather_images", pixels, 5 * pixels)
    step.add("batch", 0.0)  # labels
    for number, (layer, relu) in enumerate(layers_of(model)):
        step.layer(layer, N, relu=relu, need_dx=number > 0)
    for residual in residuals_of(model):
        n = N * math.prod(residual.output_shape)
        for _ in range(2):  # of outputs, and of gradients
            step.simple("additions", "add", n, 3 * n * FLOAT)
    step.add("loss", SECOND_STAGE)
    size = sum(parameter.size for parameter in model.parameters())
    step.simple("optimizer", "sgd_step", size, 5 * size * FLOAT)
    return step


def layers_of(layer: Layer) -> Iterator[tuple[Layer, bool]]:
    """Yield the layers that compute, and whether the one before a ReLU computes it too; pooling takes in its ReLU."""
    if not isinstance(layer, Sequential):
        parts = layer.branches if isinstance(layer, Residual) else ()
        for part in parts:
            yield from layers_of(part)
        if not parts:
            yield layer, False
        return
    before: Layer | None = None
    for this, following in pairwise([*layer.layers, None]):
        if isinstance(this, ReLU) and not isinstance(following, MaxPool2D):
            yield this, isinstance(before, (Conv2D, Dense))
        elif not isinstance(this, ReLU):
            yield from layers_of(this)
        before = this


def residuals_of(layer: Layer) -> list[Residual]:
    """Return the residual blocks of a network."""
    return [part for part in layer.parts() if isinstance(part, Residual)]


# ---- the command --------------------------------------------------------------------------------------------------


def lines(options: argparse.Namespace) -> Iterator[str]:
    """Yield the tables: a row for each network, batch size, precision and card, or one for each family of kernels."""
    yield "Predicted, not measured: milliseconds of a training step.\n"
    heading = ["network", "batch", "precision", "card"]
    heading += ["columns, ms", "implicit, ms", "columns / implicit", "nodes", "nodes, implicit"]
    yield from (f"| {' | '.join(heading)} |", f"|{'---|' * len(heading)}")
    for network in options.networks:
        for N in options.batch_sizes:
            for precision in options.precisions:
                for card in CARDS.values():
                    columns, implicit = (predict(network, N, precision, way, card) for way in ALGORITHMS)
                    ratio = columns.seconds / implicit.seconds
                    cells = f"`{network}`", f"{N:,}", precision, card.name, f"{1e3 * columns.seconds:.3g}"
                    cells = *cells, f"{1e3 * implicit.seconds:.3g}", f"{ratio:.2f}", columns.nodes, implicit.nodes
                    yield f"| {' | '.join(map(str, cells))} |"
                    if options.families:
                        for family in dict.fromkeys((*columns.families, *implicit.families)):
                            times = (f"{1e3 * step.families[family]:.3f}" for step in (columns, implicit))
                            yield f"| {family} | | | | {' | '.join(times)} | | | |"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--networks", nargs="+", choices=[*zoo.MODELS], default=[*zoo.MODELS], metavar="NAME")
    found.add_argument("--batch-sizes", nargs="+", type=int, default=[64, 512], metavar="N")
    found.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, metavar="P")
    found.add_argument("--families", action="store_true", help="show what each family of kernels takes")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    for line in lines(parser().parse_args(arguments)):
        print(line)
    return 0


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # so that `| head` ends it in silence
    sys.exit(main())
