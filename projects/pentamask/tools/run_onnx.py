"""Run a model that was exported to ONNX; `python -m pentamask_runner` is the same without PyTorch.

python -m pentamask.tools.run_onnx model.onnx --input 'photos/*.jpg' --output drawn/ --confidence-threshold 0.5
"""

from pentamask_runner.command_line import cli

if __name__ == "__main__":
    cli()
