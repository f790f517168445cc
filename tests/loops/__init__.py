"""Every operation as nested loops over single numbers in float64: what the fast versions are tested against.

Written from the formulas of the paper and nothing else: no array arithmetic, no import from the library.
Functions are named like the operations and take the same arguments; a window is anything with `kernel`,
`stride`, `padding`, `dilation` and `overhang`. Exponentials are taken in 50-digit decimal numbers, which don't
overflow: no formula needs rewriting.
"""

from loops.activations import *
from loops.adaptive import *
from loops.batches import *
from loops.convolution import *
from loops.dense import *
from loops.dropout import *
from loops.losses import *
from loops.normalization import *
from loops.pooling import *
from loops.updates import *
from loops.windows import *
