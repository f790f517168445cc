"""The mutations of `scripts/mutations/run.py`: one mistake each, of the kind that people make."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MUTATIONS", "Mutation"]

REFERENCE = "gpucnn/backend/reference"


@dataclass(frozen=True)
class Mutation:
    """One way to break a file: `before`, which stands in it once, becomes `after`."""

    what: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]  # arguments of pytest that run what should notice


def of(topic: str, name: str, what: str, before: str, after: str) -> Mutation:
    """Return a mutation of an operation of the reference, which the tests of that operation should notice."""
    selected = ("tests/ops/test_reference.py", "-k", f"{name}- or {name}_dx- or {name}_dw_db-")
    return Mutation(f"{name}: {what}", f"{REFERENCE}/{topic}.py", before, after, selected)


WINDOW_TESTS = ("tests/ops/test_geometry.py", "tests/ops/test_reference.py")

WINDOWS = [
    Mutation(
        "windows: H and W swapped in the size of the output",
        "gpucnn/geometry.py",
        "        return OH, OW\n",
        "        return OW, OH\n",
        WINDOW_TESTS,
    ),
    Mutation(
        "windows: stride forgotten along the width",
        "gpucnn/geometry.py",
        "yield rows, slice(v * DW, v * DW + SW * (OW - 1) + 1, SW)",
        "yield rows, slice(v * DW, v * DW + OW, 1)",
        WINDOW_TESTS,
    ),
    Mutation(
        "windows: dilation forgotten along the height",
        "gpucnn/geometry.py",
        "rows = slice(u * DH, u * DH + SH * (OH - 1) + 1, SH)",
        "rows = slice(u, u + SH * (OH - 1) + 1, SH)",
        WINDOW_TESTS,
    ),
    Mutation(
        "windows: padding counted once instead of on both sides",
        "gpucnn/geometry.py",
        "return H + sum(self.border[0]), W + sum(self.border[1])",
        "return H + self.border[0][0], W + self.border[1][0]",
        WINDOW_TESTS,
    ),
    Mutation(
        "windows: image placed by the padding below it",
        "gpucnn/geometry.py",
        "return slice(top, top + H), slice(left, left + W)",
        "return slice(left, left + H), slice(top, top + W)",
        WINDOW_TESTS,
    ),
]

CONVOLUTION = [
    of(
        "convolution",
        "conv2d",
        "kernel flipped",
        "kernels = _split(self, self.xp.reshape(w, (-1, OC)), groups)",
        "kernels = _split(self, self.xp.reshape(self.xp.flip(w, axis=(0, 1)), (-1, OC)), groups)",
    ),
    of("convolution", "conv2d", "bias forgotten", "self.finish(y, b, relu)", "self.finish(y, None, relu)"),
    of("convolution", "conv2d", "ReLU forgotten", "self.finish(y, b, relu)", "self.finish(y, b, False)"),
    of(
        "convolution",
        "conv2d",
        "height and width of the kernel swapped",
        "kernels = _split(self, self.xp.reshape(w, (-1, OC)), groups)",
        "kernels = _split(self, self.xp.reshape(self.xp.permute_dims(w, (1, 0, 2, 3)), (-1, OC)), groups)",
    ),
    of(
        "convolution",
        "conv2d_dw_db",
        "bias gradient averaged instead of summed",
        "self.sum_rows(rows, out=db)",
        "db[...] = self.xp.mean(rows, axis=0)",
    ),
    of(
        "convolution",
        "conv2d_dw_db",
        "bias gradient of the first image alone",
        "self.sum_rows(rows, out=db)",
        "self.sum_rows(rows[: rows.shape[0] // x.shape[0], :], out=db)",
    ),
    of("convolution", "im2col", "taps behind the channels", "0.0), axis=3)  #", "0.0), axis=4)  #"),
    of(
        "convolution",
        "im2col",
        "padding of ones",
        "self.taps(x, window, 0.0), axis=3)",
        "self.taps(x, window, 1.0), axis=3)",
    ),
    of(
        "convolution",
        "col2im",
        "overlapping windows overwrite instead of adding",
        "padded[:, rows, columns, :] += tap",
        "padded[:, rows, columns, :] = tap",
    ),
    of(
        "convolution",
        "col2im",
        "stride forgotten in the backward pass",
        "for (rows, columns), tap in zip(window.tap_slices(H, W), taps, strict=True):\n",
        "for (rows, columns), tap in zip(window.tap_slices(H, W), taps, strict=True):\n"
        "        rows, columns = (slice(s.start, s.start + n) for s, n in zip((rows, columns), tap.shape[1:3]))\n",
    ),
    of(
        "convolution",
        "col2im",
        "taps in reverse order",
        "taps = [columns[:, :, :, tap, :] for tap in range(window.taps)]",
        "taps = [columns[:, :, :, tap, :] for tap in reversed(range(window.taps))]",
    ),
    of(
        "convolution",
        "conv2d",
        "groups interleaved instead of cut",
        "(M, taps, groups, C/groups)\n    return self.xp.reshape(self.xp.permute_dims(rows, (2, 0, 1, 3))",
        "(M, taps, groups, C/groups)\n    rows = self.xp.reshape(rows, (rows.shape[0], taps, -1, groups))\n"
        "    return self.xp.reshape(self.xp.permute_dims(rows, (3, 0, 1, 2))",
    ),
    of(
        "convolution",
        "conv2d",
        "outputs of the groups in the wrong order",
        "self.xp.permute_dims(parts, (1, 2, 0, 3)), (M, -1))",
        "self.xp.permute_dims(parts, (1, 2, 3, 0)), (M, -1))",
    ),
]

POOLING = [
    of(
        "pooling",
        "max_pool2d",
        "padding of 0 instead of -inf",
        'first, *others = self.taps(x, window, -float("inf"))',
        "first, *others = self.taps(x, window, 0.0)",
    ),
    of(
        "pooling",
        "max_pool2d",
        "the last winner of a tie",
        "better = (tap > best) | (tap != tap)",
        "better = (tap >= best) | (tap != tap)",
    ),
    of("pooling", "max_pool2d", "NaN lost", "better = (tap > best) | (tap != tap)", "better = tap > best"),
    of(
        "pooling",
        "max_pool2d",
        "the error to the neighbour of the winning unit",
        "taps = [self.xp.where(argmax == tap, dy, zero) for tap in range(window.taps)]",
        "taps = [self.xp.where(argmax == (tap + 1) % window.taps, dy, zero) for tap in range(window.taps)]",
    ),
    of(
        "pooling",
        "average_pool2d",
        "padding counted",
        "if count_include_pad:  # then",
        "if True:  # then",
    ),
    of("pooling", "average_pool2d", "padding never counted", "if count_include_pad:  # then", "if False:  # then"),
    of(
        "pooling",
        "average_pool2d_dx",
        "the whole error to each pixel",
        "self.sum_taps([share] * window.taps, x_shape, window), out)",
        "self.sum_taps([dy] * window.taps, x_shape, window), out)",
    ),
    of("pooling", "lp_pool2d", "signs kept", "total = sum(self.xp.abs(tap) ** p for", "total = sum(tap**p for"),
    of("pooling", "lp_pool2d", "root forgotten", "self.store(total ** (1.0 / p), out)", "self.store(total, out)"),
    of(
        "pooling",
        "lp_pool2d_dx",
        "sign of the pixel forgotten",
        "dy * xp.sign(tap) * (xp.abs(tap) / norm)",
        "dy * (xp.abs(tap) / norm)",
    ),
]

DENSE = [
    of("dense", "dense", "bias forgotten", "w), b, relu)", "w), None, relu)"),
    of("dense", "dense", "ReLU forgotten", "w), b, relu)", "w), b, False)"),
    of("dense", "dense_dw_db", "bias gradient missing", "self.sum_rows(dy, out=db)", "db[...] = 0.0"),
    of(
        "dense",
        "dense_dw_db",
        "gradient averaged over the batch",
        "self.matmul(x.T, dy, out=dw)",
        "self.matmul(x.T / x.shape[0], dy, out=dw)",
    ),
]

NORMALIZATION_TESTS = (
    "tests/ops/test_reference.py",
    "tests/layers/test_layers.py",
    "tests/ops/test_normalization.py",
    "-k",
    "norm",
)
NORMALIZATION = [
    Mutation(
        "batch_norm: mean forgotten",
        f"{REFERENCE}/normalization.py",
        "y = self.store((x - mean) * (gamma * inverse) + beta, out)",
        "y = self.store(x * (gamma * inverse) + beta, out)",
        NORMALIZATION_TESTS,
    ),
    Mutation(
        "batch_norm: running variance biased",
        f"{REFERENCE}/normalization.py",
        "variance * (M / max(M - 1, 1))",
        "variance",
        NORMALIZATION_TESTS,
    ),
    Mutation(
        "batch_norm: momentum the wrong way round",
        f"{REFERENCE}/normalization.py",
        "(1.0 - momentum) * running + momentum * xp.stack",
        "momentum * running + (1.0 - momentum) * xp.stack",
        NORMALIZATION_TESTS,
    ),
    Mutation(
        "batch_norm: eps outside of the root",
        f"{REFERENCE}/normalization.py",
        "inverse = 1.0 / xp.sqrt(variance + eps)\n    y =",
        "inverse = 1.0 / (xp.sqrt(variance) + eps)\n    y =",
        NORMALIZATION_TESTS,
    ),
    Mutation(
        "batch_norm_dx: mean and variance taken for constants",
        f"{REFERENCE}/normalization.py",
        "gamma * mean_rstd[1, :] * (dy - (dbeta + z * dgamma) / M)",
        "gamma * mean_rstd[1, :] * dy",
        NORMALIZATION_TESTS,
    ),
    Mutation(
        "batch_norm_inference: running deviation instead of variance",
        f"{REFERENCE}/normalization.py",
        "scale = gamma / self.xp.sqrt(running[1, :] + eps)",
        "scale = gamma / (running[1, :] + eps)",
        NORMALIZATION_TESTS,
    ),
    Mutation(
        "fold_batch_norm: bias of the convolution forgotten",
        f"{REFERENCE}/normalization.py",
        "(-mean if b is None else b - mean) * scale + beta",
        "-mean * scale + beta",
        NORMALIZATION_TESTS,
    ),
    Mutation(
        "group_norm: statistics of each channel alone",
        f"{REFERENCE}/normalization.py",
        "mean = xp.mean(grouped, axis=(1, 3), keepdims=True)",
        "mean = xp.mean(grouped, axis=1, keepdims=True)",
        NORMALIZATION_TESTS,
    ),
    Mutation(
        "group_norm_dx: gamma forgotten",
        f"{REFERENCE}/normalization.py",
        "g = _grouped(self, gamma * dy, groups)",
        "g = _grouped(self, dy, groups)",
        NORMALIZATION_TESTS,
    ),
]

ACTIVATIONS = [
    of(
        "activations",
        "relu_dx",
        "gradient at 0",
        "self.xp.where(y > 0, dy, self",
        "self.xp.where(y >= 0, dy, self",
    ),
    of(
        "activations",
        "sigmoid_dx",
        "of the input instead of the output",
        "dy * y * (1.0 - y)",
        "dy * self.sigmoid(y) * (1.0 - self.sigmoid(y))",
    ),
    of("activations", "tanh_dx", "square forgotten", "dy * (1.0 - y * y)", "dy * (1.0 - y)"),
    of(
        "activations",
        "softmax",
        "no shift: overflow",
        "e = self.xp.exp(x - self.xp.max(x, axis=-1, keepdims=True))",
        "e = self.xp.exp(x)",
    ),
    of(
        "activations",
        "softmax_dx",
        "diagonal alone",
        "y * (dy - self.xp.sum(dy * y, axis=-1, keepdims=True))",
        "y * (1.0 - y) * dy",
    ),
    of(
        "activations",
        "elu_dx",
        "alpha forgotten",
        "self.xp.where(y > 0, dy, dy * (y + alpha))",
        "self.xp.where(y > 0, dy, dy * (y + 1.0))",
    ),
    of(
        "activations",
        "prelu_dslope",
        "positive inputs too",
        "terms = dy * xp.where(x > 0, xp.zeros((), dtype=x.dtype), x)",
        "terms = dy * x",
    ),
    of("activations", "swish_dx", "second term forgotten", "dy * s * (1.0 + x * (1.0 - s))", "dy * s"),
]

LOSSES = [
    of(
        "losses",
        "softmax_cross_entropy",
        "gradient not divided by the batch",
        "xp.where(is_label, zero + 1.0, nothing)) / N",
        "xp.where(is_label, zero + 1.0, nothing))",
    ),
    of(
        "losses",
        "softmax_cross_entropy",
        "no shift: overflow",
        "N, K = logits.shape\n    shifted = logits - xp.max(logits, axis=1, keepdims=True)\n    e",
        "N, K = logits.shape\n    shifted = logits\n    e",
    ),
    of(
        "losses",
        "soft_cross_entropy",
        "smoothing of samples without a target",
        "xp.where(has_target, zero + smoothing / logits.shape[1], zero)[:, None]",
        "smoothing / logits.shape[1]",
    ),
    of(
        "losses",
        "soft_cross_entropy",
        "smoothing takes nothing from the target",
        "wanted = (1.0 - smoothing) * targets",
        "wanted = targets",
    ),
    of(
        "losses",
        "label_targets",
        "norm of ignored labels too",
        "total = xp.sum(out if weights is None else out * weights)",
        "total = xp.asarray(float(out.shape[0]), dtype=out.dtype)",
    ),
    of(
        "losses",
        "sigmoid_cross_entropy",
        "overflow of large logits",
        "terms + xp.log1p(xp.exp(-xp.abs(logits)))",
        "terms + xp.log1p(xp.exp(-logits)) + xp.where(logits < 0, logits, xp.zeros((), dtype=logits.dtype))",
    ),
    of(
        "losses",
        "mean_squared_error",
        "2 forgotten in the gradient",
        "return _sum_terms(self, difference**2, 2.0 * difference, share",
        "return _sum_terms(self, difference**2, difference, share",
    ),
]

UPDATES = [
    of(
        "updates",
        "sgd_step",
        "sign of the momentum",
        "v[...] = momentum * v + gradient\n    w[...]",
        "v[...] = gradient - momentum * v\n    w[...]",
    ),
    of(
        "updates",
        "sgd_step",
        "uphill",
        "w[...] = w - rate * (gradient + momentum * v if nesterov else v)",
        "w[...] = w + rate * (gradient + momentum * v if nesterov else v)",
    ),
    of(
        "updates",
        "sgd_step",
        "decay forgotten",
        "rate, momentum, decay = (hyperparameters[i] for i in range(3))\n    gradient = g + decay * w",
        "rate, momentum, decay = (hyperparameters[i] for i in range(3))\n    gradient = g",
    ),
    of("updates", "adam_step", "bias correction of the mean forgotten", "(m / (1.0 - powers[0]))", "m"),
    of(
        "updates",
        "adam_step",
        "powers never advance",
        "powers[...] = powers * hyperparameters[1:3]",
        "powers[...] = hyperparameters[1:3]",
    ),
    of(
        "updates",
        "adam_step",
        "decay in the gradient and beside it",
        "gradient = g if decoupled else g + decay * w",
        "gradient = g + decay * w",
    ),
    of(
        "updates",
        "rmsprop_step",
        "eps inside of the root",
        "gradient / (self.xp.sqrt(v) + eps)\n    w[...] = w - rate * b",
        "gradient / self.xp.sqrt(v + eps)\n    w[...] = w - rate * b",
    ),
    of(
        "updates", "clip_norm", "small gradients scaled up", "self.xp.minimum(share, self.xp.ones_like(share))", "share"
    ),
    of("updates", "apply_scheduled_rate", "clock stands still", "    clock += 1\n", ""),
]

OTHERS = [
    of(
        "dropout",
        "dropout",
        "kept elements not scaled up",
        "self.xp.where(kept, x * (1.0 / (1.0 - rate)), self",
        "self.xp.where(kept, x, self",
    ),
    of("dropout", "dropout", "the same mask in every step", "    counter += 1\n", ""),
    of(
        "dropout",
        "dropout_dx",
        "gradient not scaled up",
        "self.xp.where(mask != 0, dy * (1.0 / (1.0 - rate)), zero)",
        "self.xp.where(mask != 0, dy, zero)",
    ),
    of("batches", "gather_batch", "cursor stands still", "    cursor += N\n", ""),
    of(
        "batches",
        "gather_batch",
        "order ignored",
        "samples = self.xp.take(order, positions)",
        "samples = positions",
    ),
    of(
        "batches",
        "gather_batch",
        "never shifted down or right as far as may be",
        "self.cast(word * (2 * shift + 1) >> 32, xp.int64)",
        "self.cast(word * (2 * shift) >> 32, xp.int64)",
    ),
    of("batches", "gather_batch", "mirror images one column off", "W - 1 - columns, columns)", "W - columns, columns)"),
    of(
        "batches",
        "gather_batch",
        "the same augmentation in every epoch",
        "zero + self.cast(epoch, self.xp.uint64), zero)",
        "zero, zero)",
    ),
]

LAYERS = [
    Mutation(
        "Conv2DTranspose: output padding of rows and columns swapped",
        "gpucnn/layers/transposed_convolution.py",
        "OH, OW = OH + self.output_padding[0], OW + self.output_padding[1]",
        "OH, OW = OH + self.output_padding[1], OW + self.output_padding[0]",
        ("tests/layers/test_layers.py", "tests/ops/test_convolution.py"),
    ),
    Mutation(
        "fit_window: a window of ceil mode that starts in the padding",
        "gpucnn/layers/window.py",
        "return stride - left_over if left_over and starts_inside else 0",
        "return stride - left_over if left_over else 0",
        ("tests/ops/test_geometry.py", "tests/ops/test_pooling.py"),
    ),
    Mutation(
        "Add: the third input forgotten",
        "gpucnn/layers/joins.py",
        "        for x in others:\n",
        "        for x in others[1:]:\n",
        ("tests/layers/test_joins.py", "tests/layers/test_layers.py"),
    ),
    Mutation(
        "Concat: each branch has the gradient of the first",
        "gpucnn/layers/joins.py",
        "self.backend.slice_channels(dy, start, out=dx)",
        "self.backend.slice_channels(dy, 0, out=dx)",
        ("tests/layers/test_joins.py", "tests/layers/test_layers.py"),
    ),
    Mutation(
        "Container: what a call returned is overwritten by the next",
        "gpucnn/layers/containers.py",
        "return None if result is None else self._copy(result)",
        "return result",
        ("tests/layers/test_layers.py", "-k", "stays_what_it_is"),
    ),
    Mutation(
        "Layer: a setting that is fixed is changed in silence",
        "gpucnn/layers/base.py",
        "elif name in kind.arguments:",
        "elif False:",
        ("tests/layers/test_calling.py",),
    ),
    Mutation(
        "Layer: a setting that was changed takes effect on no other thread",
        "gpucnn/layers/base.py",
        "            self.context.version += 1\n",
        "",
        ("tests/execution/test_replicas.py",),
    ),
]

SHARING_TESTS = ("tests/execution/test_memory_sharing.py", "-k", "not zoo and not threads")

EXECUTION = [
    Mutation(
        "trace: what the backward pass reads is not kept for it",
        "gpucnn/execution/trace.py",
        "keeps = buffer.is_of_forward and not self.is_forward",
        "keeps = False",
        SHARING_TESTS,
    ),
    Mutation(
        "trace: a result lies over an argument that is read later",
        "gpucnn/execution/trace.py",
        "first.last_use > second.first_use or",
        "first.last_use > second.first_use + 1 or",
        SHARING_TESTS,
    ),
    Mutation(
        "trace: any result may lie over any argument",
        "gpucnn/execution/trace.py",
        "over += [buffer] if name in in_place else []",
        "over += [buffer]",
        SHARING_TESTS,
    ),
    Mutation(
        "trace: what an opaque layer was given is overwritten",
        "gpucnn/execution/trace.py",
        "            self.keep(self.of(*arrays))\n",
        "            pass\n",
        SHARING_TESTS,
    ),
    Mutation(
        "program: a fusion hides a value that something else reads",
        "gpucnn/execution/program.py",
        "return is_pair and readers[first.output] == 1 and",
        "return is_pair and",
        SHARING_TESTS,
    ),
    Mutation(
        "program: the dry pass moves the counters of dropout",
        "gpucnn/execution/program.py",
        'with self.network.undone(), np.errstate(all="ignore"):',
        'with np.errstate(all="ignore"):',
        ("tests/execution/test_model.py", "-k", "dry_pass"),
    ),
    Mutation(
        "segment: a branch goes backward before all gradients of its output are there",
        "gpucnn/execution/segment.py",
        "waiting = Counter(value for step in steps for value in step.inputs)",
        "waiting = Counter({value for step in steps for value in step.inputs})",
        ("tests/layers/test_joins.py", "tests/layers/test_layers.py"),
    ),
    Mutation(
        "segment: of two gradients of a value the last counts alone",
        "gpucnn/execution/segment.py",
        "gradients[value] = _sum(gradients.get(value), dx, step, value)",
        "gradients[value] = dx",
        ("tests/layers/test_joins.py", "tests/layers/test_layers.py"),
    ),
    Mutation(
        "fusion: a layer that computes something else is taken for the library's",
        "gpucnn/layers/fusion.py",
        "return isinstance(layer, kinds) and not layer.is_opaque",
        "return isinstance(layer, kinds)",
        ("tests/execution/test_model.py", "-k", "subclass"),
    ),
    Mutation(
        "replicas: the gradients of the last thread lost",
        "gpucnn/execution/replicas.py",
        "self._gradients[: len(self._parts) - 1]",
        "self._gradients[: len(self._parts) - 2]",
        ("tests/execution/test_replicas.py",),
    ),
    Mutation(
        "replicas: a layer that needs the whole batch is given parts",
        "gpucnn/execution/program.py",
        "lambda call: call.layers[0].is_per_sample",
        "lambda call: call.layers[0].from_operations",
        ("tests/execution/test_replicas.py",),
    ),
    Mutation(
        "plan: what explains a diverged run not counted",
        "gpucnn/execution/memory_plan.py",
        "copies=copies * (state + optimizer)",
        "copies=0",
        ("tests/execution/test_memory_plan.py",),
    ),
]

CHECKPOINT_TESTS = ("tests/training/test_checkpoints.py", "tests/training/test_resume.py", "-k", "not gpu")


def checkpoints(what: str, file: str, before: str, after: str) -> Mutation:
    """Return a mutation of what lets a run stop and go on."""
    return Mutation(f"checkpoints: {what}", f"gpucnn/{file}", before, after, CHECKPOINT_TESTS)


CHECKPOINTS = [
    checkpoints(
        "the content may come to the disk after the name",
        "training/checkpoints/file.py",
        "            os.fsync(file.fileno())\n",
        "",
    ),
    checkpoints(
        "the name may never come to the disk", "training/checkpoints/file.py", "    sync_folder(path.parent)\n", ""
    ),
    checkpoints(
        "written in place",
        "training/checkpoints/file.py",
        'temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")',
        "temporary = path",
    ),
    checkpoints(
        "a second signal leaves half a file", "training/checkpoints/file.py", "except BaseException:", "except OSError:"
    ),
    checkpoints(
        "damage not noticed",
        "training/checkpoints/file.py",
        "if checksum(arrays, metadata[ABOUT]) != metadata[CHECKSUM]:",
        "if False:",
    ),
    checkpoints(
        "a damaged one ends the search",
        "training/checkpoints/folder.py",
        'say(f"{error}; trying the one before")',
        "return None",
    ),
    checkpoints(
        "damaged ones take the place of new ones", "training/checkpoints/folder.py", "[*paths[:at], *paths", "[*paths"
    ),
    checkpoints(
        "those of another run taken",
        "training/checkpoints/run.py",
        'if found := list(differences(about["settings"], self.settings)):',
        "if False:",
    ),
    checkpoints(
        "the average does not know that it has begun",
        "training/checkpoints/run.py",
        "        self.trainer.on_state_loaded()\n",
        "",
    ),
    checkpoints(
        "the best one told of though it is not there",
        "training/checkpoints/saver.py",
        "            self.run.results = before\n",
        "            pass\n",
    ),
    checkpoints(
        "a second signal not heard",
        "training/checkpoints/saver.py",
        "            raise Stopped(number)\n",
        "            return\n",
    ),
    checkpoints("an epoch begins again", "cli/train.py", ", done=run.batch)", ")"),
    checkpoints("place in the epoch left out", "data/device_dataset.py", '"cursor": self._cursor, ', ""),
]

MUTATIONS = [
    *WINDOWS,
    *CONVOLUTION,
    *POOLING,
    *DENSE,
    *NORMALIZATION,
    *ACTIVATIONS,
    *LOSSES,
    *UPDATES,
    *OTHERS,
    *LAYERS,
    *EXECUTION,
    *CHECKPOINTS,
]
