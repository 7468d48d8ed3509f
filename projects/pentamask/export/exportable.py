"""A model as a function of one picture's tensor."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from detectron2.modeling.backbone import BasicStem
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn

from pentamask.common import check_choice
from pentamask.graph import Graph, paste_masks, resize_masks
from pentamask.plugin import declared


class Exportable(nn.Module):
    """What a model finds in one picture, as a tuple of tensors; for `torch.export` and whatever follows it.

    It shares the model's weights, and the model itself stays as it is. Selection happens in steps of fixed size, with
    the results of the model's `forward` before they are brought to the size of the picture; only where scores tie
    exactly at the limit of detections, the model keeps all and this one keeps the limit.

    Attributes:
        inference: the plugin's graph, which describes the results. (Programs have a `graph` of their own.)
        masks, detections, batch: as given.
    """

    def __init__(
        self, model: nn.Module, *, masks: str = "roi", detections: str = "dynamic", batch: int | None = None
    ) -> None:
        """
        Args:
            model: of a class that declares a `graph`, see `pentamask.plugin.Plugin`.
            masks: "roi" as the model has them, within their boxes or of the whole picture at low resolution; or "image"
                for (n, H, W) bool at the size of the input.
            detections: "dynamic", as many as there are; or "fixed" for as many as there can be, of which those that
                do not exist have box 0, score 0, class -1 and mask 0.
            batch: number N of pictures of one size that come together, whose "fixed" results have a dimension N more;
                None for one picture.

        Raises:
            ValueError: the class declares none, the model has a part that cannot be exported, or an unknown option.
        """
        super().__init__()
        check_choice("--masks", masks, ("roi", "image"))
        check_choice("--detections", detections, ("dynamic", "fixed"))
        if batch is not None and detections != "fixed":
            raise ValueError("--batch needs --detections fixed: pictures differ in the number of their detections.")
        self.masks, self.detections, self.batch = masks, detections, batch
        graph: type[Graph] | None = declared(type(model), "graph")
        if graph is None:
            raise ValueError(f"{type(model).__name__} cannot be exported: its class declares no `graph`.")
        self.inference = graph(_replaced(_shared_copy(model).eval()))
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """
        Args:
            image: (3, H, W), of a batch (N, 3, H, W), of values 0-255, uint8 or floating point, channels in the order
                of INPUT.FORMAT.

        Returns:
            boxes (n, 4), scores (n,), classes (n,), masks and more, see `Graph.detect`; `output_names` names them.
        """
        size = image.shape[-2], image.shape[-1]
        pictures = [self._finished(x, size) for x in self.inference(image if self.batch else image[None])]
        if self.batch is None:
            return tuple(pictures[0].values())
        return tuple(torch.stack([results[name] for results in pictures]) for name in self.output_names)

    def _finished(self, results: dict[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """The graph's results for a picture with its masks and number as the options want them."""
        if self.masks == "image" and "masks" in results:
            paste = paste_masks if self.inference.mask_kind == "roi" else resize_masks
            results["masks"] = paste(results["masks"], results["boxes"], *size)
        if self.detections == "fixed":
            results = {name: x if name == "sem_seg" else self._fill_up(name, x) for name, x in results.items()}
        return results

    @property
    def output_names(self) -> list[str]:
        """Of what `forward` returns."""
        return list(self.inference.output_names)

    @property
    def mask_kind(self) -> str | None:
        """That of the graph, or "image"."""
        return self.inference.mask_kind and (self.inference.mask_kind if self.masks == "roi" else "image")

    def _fill_up(self, name: str, x: Tensor) -> Tensor:
        limit = self.inference.max_detections
        filling = x.new_full((limit, *x.shape[1:]), -1 if name == "classes" else 0)
        return torch.cat((x, filling))[:limit]


def _shared_copy(model: nn.Module) -> nn.Module:
    """A copy of a model's modules with the same parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


class _EverySecond(nn.Module):
    """Detectron2's `LastLevelMaxPool`, whose pooling with a window of 1 asks whether the size is odd."""

    def __init__(self, top_block: LastLevelMaxPool) -> None:
        super().__init__()
        self.num_levels, self.in_feature = top_block.num_levels, top_block.in_feature

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x[:, :, ::2, ::2]]


class _EvenStem(nn.Module):
    """Detectron2's `BasicStem`, whose pooling asks whether the size is odd: here it is even."""

    def __init__(self, stem: BasicStem) -> None:
        super().__init__()
        self.conv1 = stem.conv1

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        height, width = x.shape[-2:]
        # Zeros change no maximum of what is not negative.
        x = F.pad(x, (0, (width + 1) // 2 * 2 - width, 0, (height + 1) // 2 * 2 - height))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


# Modules of Detectron2 that do not export with a free height and width -> equal ones that do.
_REPLACEMENTS: dict[type[nn.Module], Callable[[nn.Module], nn.Module]] = {
    LastLevelMaxPool: _EverySecond,
    BasicStem: _EvenStem,
}


def _replaced(model: nn.Module) -> nn.Module:
    """`model`, changed in place by `_REPLACEMENTS`."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) in _REPLACEMENTS:
                setattr(module, name, _REPLACEMENTS[type(child)](child))
    return model
