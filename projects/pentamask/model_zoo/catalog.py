"""The models that the papers' authors released, as the plugins declare them."""

from pentamask.plugin import Release, declared, registered_models


def list_releases() -> dict[str, Release]:
    """The released models of every registered meta-architecture, by the names of their configs."""
    releases: dict[str, Release] = {}
    for model_class in registered_models():
        releases.update((release.config, release) for release in declared(model_class, "releases"))
    return releases
