"""What has to happen before the first test."""

# torch's inductor imports distutils and then setuptools, which insists on having come first.
import setuptools  # noqa: F401


ON_REQUEST = ("huge", "architectures")


def pytest_collection_modifyitems(config, items):
    """Leaves out what takes all of a machine's memory, or minutes, but for ``-m`` with its name."""
    left_out = [marker for marker in ON_REQUEST if marker not in config.option.markexpr]
    not_now = [item for item in items if any(map(item.get_closest_marker, left_out))]
    config.hook.pytest_deselected(items=not_now)
    items[:] = [item for item in items if item not in not_now]
