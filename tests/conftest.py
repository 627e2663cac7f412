"""What has to happen before the first test."""

import os

# Threads that wait for others sleep: with a process of tests on each core they would take the time
# of those that work. Two processes of emulated kernels on two cores took 91 s instead of 142 s.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# torch's inductor imports distutils and then setuptools, which insists on having come first.
import setuptools  # noqa: F401

ON_REQUEST = ("huge", "architectures")


def pytest_collection_modifyitems(config, items):
    """Leaves out what takes all of a machine's memory, or minutes, but for ``-m`` with its name."""
    left_out = [marker for marker in ON_REQUEST if marker not in config.option.markexpr]
    not_now = [item for item in items if any(map(item.get_closest_marker, left_out))]
    config.hook.pytest_deselected(items=not_now)
    items[:] = [item for item in items if item not in not_now]
