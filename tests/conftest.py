"""What has to happen before the first test."""

# torch's inductor imports distutils and then setuptools, which insists on having come first.
import setuptools  # noqa: F401
