"""Kernels beyond the cases of all backends: how sums are shared, arrays of nothing, and those too large for 32 bits."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from cases import CASES, Case, run
from device.emulator import BlockProgram
from device.fake_cupy import make_fake_cupy
from device.fixtures import installed_cupy, requires_compiler
from tolerances import assert_close

from gpucnn import InputError, Window, get_backend
from gpucnn.backend import Backend
from gpucnn.backend.gpu import sums
from gpucnn.backend.gpu.grouped import group_arguments
from gpucnn.backend.gpu.implicit import implicit_sizes
from gpucnn.backend.gpu.losses import REPORT
from gpucnn.backend.gpu.records import Elementwise, all_records
from gpucnn.backend.gpu.sums import MAX_PARTIALS
from gpucnn.backend.gpu.windows import window_arguments
from gpucnn.data.augmentation import Augmentation

LOSSES = ("softmax_cross_entropy", "soft_cross_entropy", "sigmoid_cross_entropy", "mean_squared_error", "label_targets")
ORDERS = ("forward", "reverse", 5)


def case_of(operation: str, label: str) -> Case:
    [case] = [case for case in CASES if (case.operation, case.label, case.dtype) == (operation, label, "float32")]
    return case


SHARED = [case_of("sum_rows", "(512, 17)"), case_of("sum_rows", "(600, 257)"), case_of("label_targets", "33 classes")]
SHARED += [case_of(operation, "70x33") for operation in LOSSES[:-1]]
BATCH_NORMS = [case_of(operation, "(300, 1)") for operation in ("batch_norm", "batch_norm_dx")]


def gpu(order: str | int = "forward", **options: Any) -> Backend:
    """Return a GPU backend on a fake device of its own."""
    with installed_cupy(make_fake_cupy(order=order, **options)):
        return get_backend("gpu")


# ---- the order of sums --------------------------------------------------------------------------------------------


@requires_compiler
@pytest.mark.parametrize("case", SHARED, ids=str)
def test_sums_do_not_depend_on_the_order_of_the_threads(case: Case) -> None:
    results = [run(gpu(order), case) for order in ORDERS]
    for name, first in results[0].items():
        assert {result[name].tobytes() for result in results} == {first.tobytes()}, name


@requires_compiler
@pytest.mark.parametrize("case", SHARED[1:], ids=str)
def test_few_blocks_share_all_rows(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with arrays that are too large to be emulated: each block takes more rows, each warp one after another."""
    for module in ("sums", "losses"):
        monkeypatch.setattr(f"gpucnn.backend.gpu.{module}.MAX_PARTIALS", 3)
    results, backend = run(Backend("float32"), case), gpu()
    for name, result in run(backend, case).items():
        assert_close(result, results[name], case.dtype, case.terms, case.scale, name)
    assert backend.workspace.nbytes == (257 * 3 * 4 if case.operation == "sum_rows" else 3 * 3 * 8)


@requires_compiler
@pytest.mark.parametrize("case", [case_of("sum_rows", "(600, 257)"), *BATCH_NORMS], ids=str)
def test_a_block_adds_up_more_results_than_it_has_threads(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to four times as many: here each row is that of a block."""
    monkeypatch.setattr("gpucnn.backend.gpu.sums.ELEMENTS", 1)
    results = run(Backend("float32"), case)
    for name, result in run(gpu(), case).items():
        assert_close(result, results[name], case.dtype, case.terms, case.scale, name)


@requires_compiler
def test_the_losses_of_many_blocks_are_added_up() -> None:
    partials = np.random.default_rng(0).integers(0, 99, (MAX_PARTIALS - 1, 3)).astype("float64")
    loss, totals = np.zeros((), "float32"), np.array([0.0, 1, 2, 3])
    arguments = partials, None, loss, totals, np.int32(5), np.int32(len(partials))
    BlockProgram(REPORT).run(1, REPORT.threads, arguments)
    np.testing.assert_array_equal(totals, [*(partials.sum(0) + np.arange(3)), 8])
    assert loss == np.float32(partials[:, 0].sum() / 5)


# Of the bias of LeNet-5, of vgg with batches of 512, of one column, and of many.
MANY_ROWS = [(50_176, 6), (524_288, 128), (1 << 23, 1), (1 << 20, 1000), (513, 70_000)]


@pytest.mark.parametrize("shape", MANY_ROWS, ids=str)
def test_sums_of_rows_keep_a_gpu_busy(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is much to read, by many blocks of threads; and no column has more parts than one block adds up."""
    grids = []
    backend = gpu(executes=False)
    monkeypatch.setattr(backend, "launch", lambda record, grid, *arguments, **options: grids.append(grid))
    monkeypatch.setattr(backend, "contiguous", lambda x: x)
    rows = np.broadcast_to(np.float32(0), shape)
    backend.sum_rows(rows, out=np.zeros(shape[1:], "float32"))
    (columns, blocks), second = grids
    assert second == (shape[1],)
    assert blocks <= MAX_PARTIALS
    elements = shape[0] * shape[1]
    assert columns * blocks >= min(132, elements // (2 * sums.ELEMENTS))
    assert columns <= -(-shape[1] // sums.CHANNELS)


# The parts of gradients of the kernels of resnet18; the last has few columns.
FEW_ROWS = {(3, 589_824): 2304, (7, 294_912): 1152, (14, 147_456): 1152, (56, 36_864): 1152, (512, 64): 4}


@pytest.mark.parametrize("shape", FEW_ROWS, ids=str)
def test_few_rows_of_many_columns_are_not_summed_by_too_many_blocks(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of which would have little to do but wait; what there are of them fill a GPU, and read whole sectors."""
    calls = []
    backend = gpu(executes=False)
    monkeypatch.setattr(backend, "launch", lambda record, *arguments: calls.append(arguments))
    backend.sum_rows(np.broadcast_to(np.float32(0), shape), out=np.zeros(shape[1:], "float32"))
    [((blocks, layers), _, _, *sizes, columns)] = calls
    assert (blocks, layers, sizes) == (FEW_ROWS[shape], 1, [*shape, shape[0]])
    assert blocks * columns >= shape[1] > (blocks - 1) * columns
    assert 256 % columns == 0


@requires_compiler
@pytest.mark.parametrize("columns", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("case", [case_of("sum_rows", f"({rows}, 1000)") for rows in (2, 19)], ids=str)
def test_blocks_of_any_width_sum_few_rows(case: Case, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of the columns that are left over, whose block has more rows of threads."""
    monkeypatch.setattr("gpucnn.backend.gpu.sums.ENOUGH_BLOCKS", 1000 // columns)
    results = run(Backend("float32"), case)
    for name, result in run(gpu(), case).items():
        assert_close(result, results[name], case.dtype, case.terms, case.scale, name)


# ---- empty arrays -------------------------------------------------------------------------------------------------

WINDOW = Window((3, 3), padding=((1, 1), (1, 1)))


@requires_compiler
def test_nothing_is_done_with_nothing() -> None:
    backend = gpu()
    new = backend.zeros
    for shape in ((0, 5), (2, 0, 5), (3, 0)):
        assert backend.softmax(new(shape)).shape == shape
        assert backend.softmax_dx(new(shape), new(shape)).shape == shape
    x, dy = new((0, 4, 5, 2)), new((0, 4, 5, 4))
    for convolution, C in (("columns", 2), ("implicit", 2), ("columns", 1)):
        backend.convolution = convolution
        w = new((3, 3, C, 4))
        assert backend.conv2d(x, w, None, WINDOW).shape == dy.shape
        assert backend.conv2d_dx(dy, w, x.shape, WINDOW).shape == x.shape
        dw, db = new(w.shape) + 7, new((4,)) + 7
        backend.conv2d_dw_db(x, dy, WINDOW, dw=dw, db=db)
        assert not dw.get().any()
        assert not db.get().any()
    assert backend.max_pool2d(x, WINDOW)[0].shape == x.shape
    assert backend.sum_rows(new((3, 0))).shape == backend.sum_rows(new((600, 0))).shape == (0,)
    backend.clip_norm(new((0,)), new((1,)) + 1)


@requires_compiler
@pytest.mark.parametrize("loss", LOSSES[:-1])
def test_the_mean_loss_of_no_samples_is_not_a_number(loss: str) -> None:
    """As in the reference; the sum, which the softmax loss of targets has, is 0. Nothing is added to the totals."""
    backend = gpu()
    totals, outputs = backend.from_host(np.array([1.0, 2, 3, 4])), backend.zeros((0, 5))
    labels = backend.zeros((0,), "int32")
    targets = (labels,) if loss == "softmax_cross_entropy" else (outputs,)
    targets += (None, 0.0, backend.zeros(()) + 1) if loss == "soft_cross_entropy" else ()
    result = getattr(backend, loss)(outputs, *targets, dx=backend.zeros((0, 5)), totals=totals)
    np.testing.assert_array_equal(result.get(), 0 if loss == "soft_cross_entropy" else np.nan)
    np.testing.assert_array_equal(totals.get(), [1, 2, 3, 4])
    assert backend.label_targets(labels, None, -1, out=outputs, norm=result)[1].get() == 1
    with pytest.raises(InputError, match=r"a loss needs outputs \(N, K\) with K of at least 1, received \(2, 0\)"):
        getattr(backend, loss)(backend.zeros((2, 0)), *targets)


@requires_compiler
def test_no_samples_have_no_moments() -> None:
    backend = gpu()
    for shape in ((0, 3), (2, 0, 5, 3)):
        scale, mean_rstd, dgamma, dbeta = (backend.zeros(each) + 7 for each in ((3,), (2, 3), (3,), (3,)))
        x = backend.zeros(shape)
        with pytest.raises(InputError, match=r"batch_norm: no samples have no mean, received \(.*0, .*3\); leave out"):
            backend.batch_norm(x, scale, scale, mean_rstd, 0.1, 1e-3)
        np.testing.assert_array_equal(mean_rstd.get(), 7)
        assert backend.batch_norm_dx(x, x, scale, mean_rstd, dgamma=dgamma, dbeta=dbeta).shape == shape
        assert not dgamma.get().any()
        assert not dbeta.get().any()


# ---- 32-bit indices -----------------------------------------------------------------------------------------------


def test_columns_of_one_image_that_32_bits_do_not_count_are_refused() -> None:
    """Of an image of 4 MB, as its kernels have 63 x 63 taps; nothing is allocated for them."""
    backend, window = gpu(executes=False), Window((63, 63), padding=((31, 31), (31, 31)))
    x, w = backend.empty((1, 1024, 1024, 1)), backend.empty((63, 63, 1, 1))
    message = "^an image of 1024x1024x1 with its columns of 3969 is too large for one kernel: 4,161,798,144 elements"
    calls = {
        "im2col": lambda: backend.im2col(x, window),
        "col2im": lambda: backend.col2im(backend.empty((1, 3969)), x.shape, window),
        "conv2d": lambda: backend.conv2d(x, w, None, window),
        "conv2d_dx": lambda: backend.conv2d_dx(x, w, x.shape, window),
        "conv2d_dw_db": lambda: backend.conv2d_dw_db(x, x, window, dw=w, db=None),
    }
    for call in calls.values():
        with pytest.raises(InputError, match=f"{message}, .*; use convolution implicit, or smaller images$"):
            call()
    assert backend.workspace.nbytes == 0
    backend.convolution = "implicit"
    for name in ("conv2d", "conv2d_dx", "conv2d_dw_db"):
        calls[name]()


def test_one_image_that_32_bits_do_not_count_is_refused() -> None:
    message = "^an image of 65536x65536x3 is too large for one kernel: .*; use smaller images$"
    for window in (WINDOW, Window((2, 2), (2, 2))):
        with pytest.raises(InputError, match=message):
            window_arguments((1, 1 << 16, 1 << 16, 3), window)
    with pytest.raises(InputError, match=r"^a kernel of \(9, 9, 40000, 40000\) is too large .*; use fewer channels$"):
        group_arguments((1, 9, 9, 80000), (9, 9, 40000, 40000), WINDOW)
    vast = Window((1 << 16, 1 << 16), padding=((1 << 15, (1 << 15) - 1),) * 2)
    with pytest.raises(InputError, match=r"^a kernel of \(65536, 65536\) is too large .*; use a smaller one$"):
        implicit_sizes((1, 1, 1, 1), 1, vast)


NARROW = {
    *("add_bias", "augment_images", "average_pool2d", "average_pool2d_dx", "col2im", "dropout", "gather_images"),
    *("grouped_conv2d", "grouped_conv2d_dw", "grouped_conv2d_dx", "im2col", "lp_pool2d", "lp_pool2d_dx", "max_pool2d"),
    *("max_pool2d_dx", "one_hot"),
}


def test_kernels_that_count_in_32_bits_are_known() -> None:
    """They read `i` into an int."""
    narrow = {name for name, record in all_records().items() if isinstance(record, Elementwise) and record.is_narrow}
    assert narrow == NARROW


@requires_compiler
def test_results_that_a_kernel_does_not_count_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the operation; those that only go from element to element have no such limit."""
    monkeypatch.setattr("gpucnn.backend.gpu.arrays.INDEX_LIMIT", 11)
    backend = gpu()
    new, x = backend.zeros, backend.zeros((3, 4))
    byte, numbers, cursor, image = new((9, 2, 2, 1), "uint8"), new((9,), "int32"), new((1,), "int64"), new((3, 2, 2, 1))
    pool, shift, labels = Window((1, 1)), Augmentation(flip=True), new((3,), "int32")
    take = partial(backend.gather_batch, byte, numbers, numbers, cursor, new((1,)), new((1,)), x=image, y=labels)
    calls = [
        partial(backend.dense, new((3, 2)), new((2, 4)), new((4,))),
        partial(backend.one_hot, labels, out=x),
        partial(backend.dropout, x, 0.5, (1, 2), cursor),
        *(take, partial(take, augmentation=shift, epoch=cursor)),
        *(partial(backend.max_pool2d, image, pool), partial(backend.average_pool2d, image, pool)),
        partial(backend.sum_rows, new((600, 1))),
    ]
    for call in calls:
        with pytest.raises(InputError, match="too large for one kernel: (12|600) elements, of which it counts 11; "):
            call()
    assert backend.relu(backend.add(x, x)).shape == x.shape
