"""Deterministic weights for the reference cases: every tensor follows from its name.

A reference case stores the names and shapes of a model's published state dict,
never the tensors. `make_state_dict` rebuilds them, so a case is a few kilobytes.
"""

import zlib

import numpy as np


def make_array(name, shape, seed=0, gain=1.0):
    """The array for one state-dict entry.

    Args:
        name: the entry's key in the published state dict.
        shape: its shape, a sequence of ints.
        seed: the case's seed.
        gain: multiplies the standard deviation of weights with two or more dimensions.

    Returns:
        float64 array of `shape` (int64 zero for `num_batches_tracked`).
    """
    shape = tuple(shape)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, dtype=np.int64)
    rng = np.random.Generator(np.random.PCG64([zlib.crc32(name.encode()), seed]))
    if leaf == "running_var":
        return 0.5 + rng.random(shape)
    if leaf == "running_mean":
        return 0.1 * rng.standard_normal(shape)
    if len(shape) <= 1:
        if leaf == "weight" or leaf == "scale":
            return 0.5 + rng.random(shape)
        return 0.05 * rng.standard_normal(shape)
    fan_in = int(np.prod(shape[1:]))
    return gain * rng.standard_normal(shape) / np.sqrt(fan_in)


def make_state_dict(entries, seed=0, gain=1.0, dtype="float32"):
    """All entries of a case.

    Args:
        entries: {name: shape}, as in a case's `state_dict.json`.
        dtype: of the floating-point entries.

    Returns:
        {name: array}
    """
    arrays = {name: make_array(name, shape, seed, gain) for name, shape in entries.items()}
    return {k: v if v.dtype == np.int64 else v.astype(dtype) for k, v in arrays.items()}
