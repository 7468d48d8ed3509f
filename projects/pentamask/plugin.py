"""What a meta-architecture may declare, and how the rest of pentamask finds it.

Tools, checks, data and the model zoo know no model by name. They look up the class that a config names and read the
attributes of `Plugin` from it, so that a model of another repository is served like one of ours, and one that declares
nothing, as Detectron2's own, still trains. docs/extending.md shows a whole plugin.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.registry import locate
from omegaconf import DictConfig

from pentamask.common import get_key

if TYPE_CHECKING:
    from pentamask.checkpoint.key_map import KeyRules
    from pentamask.data.targets import TargetMaker
    from pentamask.explanation import Explanation
    from pentamask.graph import Graph


class ClassCount(NamedTuple):
    """A number in the config that must be the number of classes of the data.

    Attributes:
        field: of the dataset's metadata: "thing_classes", "stuff_classes", or "stuff_only_classes" for the stuff
            without the class that stands for all things in Detectron2's "separated" panoptic datasets.
        key: in a CfgNode, as "MODEL.FCOS.NUM_CLASSES"; None if there is none.
        lazy_keys: in a LazyConfig, below `model`; keys that the config lacks are skipped.
        enabled_by: config key of a CfgNode without whose truth the number is not used.
        unset: value of `key` that says nothing, so that another key's number is used.
    """

    field: str
    key: str | None
    lazy_keys: tuple[str, ...] = ()
    enabled_by: str | None = None
    unset: int | None = None


class Licence(NamedTuple):
    """What a repository says of its code and, where it does, of its weights."""

    code: str
    weights: str | None = None


@dataclass(frozen=True)
class Release:
    """A model that the authors of a paper released.

    Attributes:
        config: the config's name in the model zoo.
        page: GitHub repository whose README or model zoo lists the file.
        licence: of that repository and, where stated, of the file.
        metrics: published numbers in percent, under Detectron2's names.
        seconds: published time for one image, on `device`; None where none was published.
        device: GPU of that measurement; "" without one.
        file: the file's name, where the authors state one other than the config's.
        url: the authors' address of the file; None where they give a page or a closed host only.
        split: part of COCO that `metrics` were measured on.
        megabytes: size of the file (10^6 bytes), where its host states it.
        sha256: checksum of the file in hexadecimal, where the authors' pages state one; none of them does.
    """

    config: str
    page: str
    licence: Licence
    metrics: dict[str, float]
    seconds: float | None = None
    device: str = ""
    file: str | None = None
    url: str | None = None
    split: str = "val2017"
    megabytes: float | None = None
    sha256: str | None = None


def published(box_ap: float | None = None, mask_ap: float | None = None, pq: float | None = None) -> dict[str, float]:
    """`Release.metrics` of the numbers that are given."""
    numbers = {"bbox/AP": box_ap, "segm/AP": mask_ap, "panoptic_seg/PQ": pq}
    return {name: value for name, value in numbers.items() if value is not None}


class Plugin:
    """The attributes that a registered meta-architecture may have, with what holds for a model without them.

    Inheriting from this class is not needed.

    Attributes:
        add_config: adds the model's keys to a CfgNode in place, as `add_pentamask_config` and with it every tool does.
        key_rules: names and origin of the authors' files, see `pentamask.checkpoint.key_map.KeyRules`.
        class_counts: numbers of classes in the config, compared with the data before training.
        score_thresholds: config keys below which predictions are dropped; with all at 0 every model predicts something.
        dense_parts: modules, by their names, that give the same operations for every picture, which MODEL.COMPILE
            compiles.
        stages: the names of the modules, and of methods within the model as "postprocessor.nms", that begin a stage of
            inference, with that of the stage (see `pentamask.engine.stages`), beyond those of Detectron2's models.
        releases: what the model zoo lists.
        authors_names: the config keys, and their values, by which files of the authors name this model; where they
            all hold, the tools build the registered class.
        explain: a method like `explain(batched_inputs, *, max_instances=5, min_score=0.0)` that returns for each image
            what goes on inside the model, see `pentamask.explanation`; None if it has none.
        graph: the model's inference as a function of tensors, which export needs; None if it cannot be exported.
    """

    add_config: Callable[[CfgNode], None] = staticmethod(lambda cfg: None)
    key_rules: "KeyRules | None" = None
    class_counts: tuple[ClassCount, ...] = ()
    score_thresholds: tuple[str, ...] = ()
    dense_parts: tuple[str, ...] = ("backbone",)
    stages: Mapping[str, str] = {}
    releases: tuple[Release, ...] = ()
    authors_names: Mapping[str, str] = {}
    explain: "Callable[..., list[Explanation]] | None" = None
    graph: "type[Graph] | None" = None

    @classmethod
    def build_augmentations(cls, cfg: CfgNode, is_train: bool) -> list[T.Augmentation | T.Transform] | None:
        """The augmentation of the dataset mapper in place of the one that INPUT.* describes; None keeps that."""
        return None

    @classmethod
    def build_target_maker(cls, cfg: CfgNode) -> "TargetMaker | None":
        """What the dataset mapper adds to a training record for this model; None adds nothing."""
        return None


def find_model_class(cfg: CfgNode | DictConfig) -> type | None:
    """The class of the model that a config describes.

    A CfgNode names it by MODEL.META_ARCHITECTURE, or as its authors did (`find_authors_model`), a LazyConfig by
    `model._target_`.
    """
    if isinstance(cfg, CfgNode):
        name = find_authors_model(cfg) or cfg.MODEL.META_ARCHITECTURE
        return META_ARCH_REGISTRY.get(name) if name in META_ARCH_REGISTRY else None
    target = cfg.model.get("_target_")
    found = locate(target) if isinstance(target, str) else target
    return found if isinstance(found, type) else None


def find_authors_model(cfg: CfgNode) -> str | None:
    """The registered name of the plugin whose `authors_names` all hold in `cfg`, None if there is none."""
    for name, model_class in META_ARCH_REGISTRY:
        theirs = declared(model_class, "authors_names")
        if theirs and all(get_key(cfg, key) == value for key, value in theirs.items()):
            return name
    return None


def declared(model_class: type | None, name: str) -> Any:
    """The attribute `name` of a model's class, or that of `Plugin` if the class has none."""
    return getattr(model_class, name, getattr(Plugin, name))


def registered_models() -> list[type]:
    """The classes in Detectron2's registry of meta-architectures, in the order of registration."""
    return [model_class for _, model_class in META_ARCH_REGISTRY]


def load_foreign_plugins() -> None:
    """Import the packages that announce themselves as entry points "pentamask.plugins"; warn of those that fail."""
    for entry_point in entry_points(group="pentamask.plugins"):
        try:
            entry_point.load()
        except Exception as error:  # somebody else's code, which must not take everything else with it
            message = (
                f"The plugin {entry_point.name} ({entry_point.value}) is left out: {type(error).__name__}: {error}"
            )
            warnings.warn(message, stacklevel=2)
