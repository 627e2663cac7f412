"""What has to happen before the first test."""

# torch's inductor imports distutils and then setuptools, which insists on having come first.
import setuptools  # noqa: F401


def pytest_collection_modifyitems(config, items):
    """Leaves out the tests that take all of a machine's memory, but for ``-m huge``."""
    if "huge" not in config.option.markexpr:
        huge = [item for item in items if item.get_closest_marker("huge")]
        config.hook.pytest_deselected(items=huge)
        items[:] = [item for item in items if item not in huge]
