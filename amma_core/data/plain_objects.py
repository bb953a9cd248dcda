"""What a pickle may ask for without being able to run code: containers and numpy arrays."""

import numpy as np


def plain_object(module: str, name: str) -> object | None:
    """What a pickle calls so, for an unpickler's ``find_class``; None where it may not have it."""
    # Pickles name numpy's inner modules as their writer's numpy had them.
    return _PLAIN.get((module.replace("numpy._core", "numpy.core"), name))


def _bytes_of_latin1(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


# The makers of arrays and of their scalars, whichever numpy module holds them.
_PLAIN = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    ("numpy.core.multiarray", "scalar"): np.float64(0).__reduce__()[0],
    ("collections", "OrderedDict"): dict,
    ("_codecs", "encode"): _bytes_of_latin1,
}
