"""The paper, executable: every operation of the library once, complete, on any array module.

Arrays are NHWC, kernels `(KH, KW, C, OC)`. Every operation `<op>` has its derivative `<op>_dx` (or `<op>_dw_db`) under
it, takes its result arrays as keywords, writes all of them and changes no other argument; where `out` is left out, a
new array is returned. Only functions of the Python array API standard are used, so `xp` may be NumPy, CuPy or any
other such module. The equations are those of P. Murugan, "Feed Forward and Backward Run in Deep Convolution Neural
Network", arXiv 1711.03278 (2017); docstrings name its sections.
"""

from __future__ import annotations

from gpucnn.backend.assembly import with_operations
from gpucnn.backend.reference import shapes
from gpucnn.backend.reference.activations import Activations
from gpucnn.backend.reference.adaptive import AdaptivePooling
from gpucnn.backend.reference.batches import Batches
from gpucnn.backend.reference.convolution import Convolution
from gpucnn.backend.reference.dense import Dense
from gpucnn.backend.reference.dropout import Dropout
from gpucnn.backend.reference.losses import Losses
from gpucnn.backend.reference.normalization import Normalization
from gpucnn.backend.reference.pooling import Pooling
from gpucnn.backend.reference.updates import Updates

__all__ = ["Backend"]


@with_operations(shapes)
class Backend(
    Convolution, Pooling, AdaptivePooling, Dense, Activations, Normalization, Dropout, Losses, Updates, Batches
):
    """Arrays of one device and the operations on them; this class is the reference that others are tested against.

    Parameters
    ----------
    float_dtype : "float32" or "float64", what layers compute in; or "tf32" or "bf16": in float32, with the factors of
        matrix products rounded to 11 or 8 significant bits, as tensor cores do
    xp : the array module, NumPy unless given

    Attributes
    ----------
    name : "reference", "cpu" or "gpu:N"
    precision, float_dtype : the dtype of its floats, as a name and as `xp` has it
    products : the precision of the factors of matrix products, the dtype's name or "tf32" or "bf16"
    host_reads : how often a result was read back to the host, each a wait for the device
    """
