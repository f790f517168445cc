"""Every operation as nested loops over single numbers in float64: what the fast versions are tested against.

Written from the formulas of the paper and nothing else: no array arithmetic, no import from the library.
Functions are named like the operations and take the same arguments; a window is anything with `kernel`,
`stride`, `padding`, `dilation` and `overhang`. Exponentials are taken in 50-digit decimal numbers, which don't
overflow: no formula needs rewriting.
"""

from oracles.activations import *
from oracles.adaptive import *
from oracles.batches import *
from oracles.convolution import *
from oracles.dense import *
from oracles.dropout import *
from oracles.losses import *
from oracles.normalization import *
from oracles.pooling import *
from oracles.shapes import *
from oracles.updates import *
from oracles.windows import *
