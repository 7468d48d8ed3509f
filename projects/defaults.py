"""Adding config keys without touching what is already there."""

from typing import Any

from detectron2.config import CfgNode


def add_defaults(node: CfgNode, **defaults: Any) -> CfgNode:
    """Set the keys that `node` lacks; keys it has keep their values, so that calling twice is calling once.

    Args:
        node: the config node to extend, in place.
        defaults: key names and default values. A value of type dict becomes a nested node, extended likewise.

    Returns:
        `node`.
    """
    for key, value in defaults.items():
        if isinstance(value, dict):
            add_defaults(node.setdefault(key, CfgNode()), **value)
        else:
            node.setdefault(key, value)
    return node
