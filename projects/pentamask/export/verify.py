"""Whether a file finds what the model finds, in pictures of the user's."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from .exportable import Exportable

# Largest differences of a file in float32: boxes in pixels, scores, values of masks.
BOX_LIMIT, SCORE_LIMIT, MASK_LIMIT = 0.01, 1e-4, 1e-3
_HEADER = "| picture | size | found: model / file | without partner | boxes, px | scores | masks |\n" + "|---" * 7 + "|"


@dataclass
class Agreement:
    """Of two sets of detections, matched by class and box.

    Attributes:
        expected, found: numbers of detections of model and file.
        unmatched: those without partner, except where the score is so close to the lowest that rounding decides.
        boxes, scores, masks: largest differences between partners; of masks at full size the share of other pixels; 0
            where there are none.
    """

    expected: int
    found: int
    unmatched: int
    boxes: float
    scores: float
    masks: float

    @property
    def is_close(self) -> bool:
        """Whether all are within the limits."""
        close = self.boxes <= BOX_LIMIT and self.scores <= SCORE_LIMIT and self.masks <= MASK_LIMIT
        return close and self.unmatched == 0


def compare(expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> Agreement:
    """
    Args:
        expected, found: outputs of model and file, see `Graph.detect`.
    """
    expected, found = _real(expected), _real(found)
    distances = np.abs(expected["boxes"][:, None] - found["boxes"][None]).max(axis=2, initial=0)
    # Twins, as an object found twice, differ in score.
    distances = distances + np.abs(expected["scores"][:, None] - found["scores"][None])
    distances[expected["classes"][:, None] != found["classes"][None]] = np.inf
    rows, columns = linear_sum_assignment(np.where(np.isfinite(distances), distances, 1e9))
    partners = distances[rows, columns] < 1.0
    rows, columns = rows[partners], columns[partners]
    alone = [np.delete(x["scores"], taken) for x, taken in ((expected, rows), (found, columns))]
    lowest = min((x["scores"].min(initial=np.inf) for x in (expected, found)), default=0.0)

    def largest(name: str) -> float:
        if name not in expected:
            return 0.0
        ours, theirs = found[name][columns], expected[name][rows]
        if theirs.dtype == bool:  # the share of pixels that differ, of the worst mask
            return float((ours != theirs).mean(axis=(1, 2)).max(initial=0))
        difference = theirs.astype(np.float64) - ours.astype(np.float64)
        return float(np.abs(difference).max(initial=0))

    return Agreement(
        len(expected["scores"]),
        len(found["scores"]),
        int(sum((scores > lowest + SCORE_LIMIT).sum() for scores in alone)),
        *(largest(name) for name in ("boxes", "scores", "masks")),
    )


def _real(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without the rows that fill up a fixed number of detections, and without maps."""
    real = outputs["classes"] >= 0
    return {name: x[real] for name, x in outputs.items() if name != "sem_seg"}


def run_eagerly(module: Exportable, image: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of the model in PyTorch for a picture (3, H, W) uint8."""
    device = next(module.parameters()).device
    with torch.no_grad():
        outputs = module(torch.from_numpy(image).to(device))
    return {name: x.cpu().numpy() for name, x in zip(module.output_names, outputs)}


def print_agreement(rows: Iterable[tuple[str, np.ndarray, Agreement]]) -> bool:
    """Print a table with a line for each picture: its name, pixels (3, H, W) and agreement.

    Returns:
        Whether all are within the limits.
    """
    print(_HEADER)
    all_close = True
    for name, image, x in rows:
        size = f"{image.shape[2]} x {image.shape[1]}"
        numbers = f"{x.boxes:.1e} | {x.scores:.1e} | {x.masks:.1e}"
        print(f"| {name} | {size} | {x.expected} / {x.found} | {x.unmatched} | {numbers} |", flush=True)
        all_close = all_close and x.is_close
    return all_close
