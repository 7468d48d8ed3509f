"""Runs models that pentamask exported to ONNX, with numpy, Pillow and onnxruntime, where PyTorch is not installed.

    from pentamask_runner import Runner
    result = Runner("model.onnx", confidence_threshold=0.5)("photo.jpg")
    result.boxes, result.scores, result.classes, result.masks, result.panoptic

Videos, and models whose config resizes with OpenCV, need OpenCV as well.
"""

from .runner import Result, Runner

__all__ = ["Result", "Runner"]
