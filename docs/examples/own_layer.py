"""A layer of your own: what it computes, its gradient, and finite differences that say whether the two agree."""

import numpy as np

from gpucnn import Conv2D, Dense, Flatten, Layer, Sequential, gradcheck
from gpucnn.backend.memory import Parameter


class ScaledTanh(Layer):
    """`y = s tanh(x)` with a trained scale s for each channel, 1 at first; (N, ..., C) -> (N, ..., C)."""

    def infer_shape(self, input_shape):
        """Make the parameters, as attributes, and return the shape of one output, for a sample of this shape."""
        self.scale = Parameter("scale", (input_shape[-1],), lambda rng, shape: np.ones(shape))
        return input_shape

    def forward(self, x, *, train):
        """Compute the outputs of a batch with functions of NumPy or CuPy: `xp` is the module that x is an array of."""
        xp = self.backend.xp
        self.tanh = xp.tanh(x)
        return self.scale.value * self.tanh

    def backward(self, dy, *, need_dx):
        """Write the gradients of the parameters, and return that of the input if it is needed."""
        xp = self.backend.xp
        self.scale.gradient[...] = xp.sum(xp.reshape(dy * self.tanh, (-1, dy.shape[-1])), axis=0)
        return dy * self.scale.value * (1 - self.tanh**2) if need_dx else None


if __name__ == "__main__":
    x = np.random.default_rng(0).standard_normal((4, 5, 5, 3))
    errors = gradcheck.check_layer(ScaledTanh(), x)
    print({name: f"{error:.1e}" for name, error in errors.items()})  # far below 1e-6: the gradients are right

    layer = ScaledTanh()
    y = layer(x, train=True)  # `layer(x)` alone would keep nothing for a backward pass
    dx = layer.backpropagate(np.ones_like(y))
    print(dx.shape, layer.scale.gradient)

    model = Sequential([Conv2D(8, 3), ScaledTanh(), Flatten(), Dense(10)])  # like any other layer
    model.build((5, 5, 3), "cpu", seed=0)
    print(model.summary())
