"""What the replay of every family of reference cases needs: reading a case, its weights, and the comparison."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from weights import make_state_dict


@dataclass
class Case:
    """A recorded case: a folder with `case.json`, `state_dict.json`, `inputs.npz` and `outputs.npz`."""

    path: Path
    device: str = "cpu"
    precision: torch.dtype | None = None  # None: as recorded
    spec: dict[str, Any] = field(init=False)
    inputs: dict[str, np.ndarray] = field(init=False)
    outputs: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        self.spec = json.loads((self.path / "case.json").read_text())
        self.inputs = dict(np.load(self.path / "inputs.npz"))
        self.outputs = dict(np.load(self.path / "outputs.npz"))

    @property
    def dtype(self) -> torch.dtype:
        return self.precision or getattr(torch, self.spec["dtype"])

    def state_dict(self) -> dict[str, np.ndarray]:
        """The weights under the authors' names, without the family's edits."""
        entries = json.loads((self.path / "state_dict.json").read_text())
        return make_state_dict(entries, self.spec["seed"], self.spec["gain"], self.spec["dtype"])

    def input(self, name: str) -> torch.Tensor:
        array = torch.from_numpy(self.inputs[name]).to(self.device)
        return array if self.precision is None or not array.is_floating_point() else array.to(self.precision)


class Comparison:
    """Compares our outputs with the recorded ones and remembers each array's error.

    An output that was not recorded is ignored; a recorded one that was never compared fails the replay.
    """

    def __init__(self, expected: dict[str, np.ndarray]) -> None:
        self.expected = expected
        self.compared: set[str] = set()
        self.failures: list[str] = []
        self.errors: dict[str, float] = {}

    @property
    def worst(self) -> tuple[float, str]:
        """The largest error, relative to its array's largest value, and that array."""
        return max(((error, name) for name, error in self.errors.items()), default=(0.0, ""))

    def __contains__(self, name: str) -> bool:
        return name in self.expected

    def close(self, name: str, actual: Any, rtol: float, atol: float) -> None:
        """|actual - expected| <= rtol * |expected| + atol everywhere, and equal shapes."""
        if name not in self.expected:
            return
        actual, expected = self._pair(name, actual)
        if actual.shape != expected.shape:
            self.failures.append(f"{name}: shape {actual.shape}, expected {expected.shape}")
            return
        if expected.size == 0:
            return
        actual, expected = actual.astype(np.float64), expected.astype(np.float64)
        error = np.where(actual == expected, 0.0, np.abs(actual - expected))
        relative = float(error.max() / max(np.abs(expected[np.isfinite(expected)]).max(initial=0.0), 1e-12))
        self.errors[name] = relative
        if not (error <= rtol * np.abs(expected) + atol).all():
            self.failures.append(
                f"{name}: largest error {error.max():.3g}, relative to the largest value {relative:.3g}"
            )

    def equal(self, name: str, actual: Any) -> None:
        """Equal element by element."""
        if name not in self.expected:
            return
        actual, expected = self._pair(name, actual)
        if actual.shape != expected.shape or not (actual == expected).all():
            self.failures.append(f"{name}: differs, shape {actual.shape}, expected {expected.shape}")

    def pixels(self, name: str, actual: Any, fraction: float, per_item: bool = False) -> None:
        """At most `fraction` of the elements differ; with `per_item`, of each entry of the first axis."""
        if name not in self.expected:
            return
        actual, expected = self._pair(name, actual)
        if actual.shape != expected.shape:
            self.failures.append(f"{name}: shape {actual.shape}, expected {expected.shape}")
        elif expected.size:
            differing = actual != expected
            share = differing.reshape(len(differing), -1).mean(axis=1).max() if per_item else differing.mean()
            if share > fraction:
                self.failures.append(f"{name}: {share:.3g} of the elements differ")

    def finish(self) -> None:
        """Fail with all differences, and with every recorded output that was not compared."""
        missed = sorted(set(self.expected) - self.compared)
        if missed:
            self.failures.append(f"recorded but not compared: {', '.join(missed)}")
        assert not self.failures, "\n".join(self.failures)

    def _pair(self, name: str, actual: Any) -> tuple[np.ndarray, np.ndarray]:
        self.compared.add(name)
        if isinstance(actual, torch.Tensor):
            actual = actual.detach().cpu()
            actual = (actual.float() if actual.dtype is torch.bfloat16 else actual).numpy()
        return np.asarray(actual), self.expected[name]
