"""`torch.compile` for the parts of a model whose work does not depend on what is seen."""

from torch import nn

from pentamask.plugin import declared


def compile_dense_parts(model: nn.Module) -> nn.Module:
    """Compile what the model's class declares as `dense_parts`, for pictures of any size, in place.

    Each is a graph without breaks. The first picture takes a minute and more; names of parameters stay as they are.

    Args:
        model: for training or inference, optimised or not.

    Returns:
        `model`.
    """
    for name in declared(type(model), "dense_parts"):
        model.get_submodule(name).compile(dynamic=True)
    return model
