#!/usr/bin/env bash
# One cell of the README's wheel matrix: installs a wheel beside a torch in a new environment, and
# runs the tests of values, gradients, operators and errors there, away from the source tree.
#
#   tests/wheel_matrix.sh WHEEL PYTHON TORCH [OPTIONS OF PYTEST]
#   tests/wheel_matrix.sh dist/softcm-0.1.0-cp310-abi3-linux_x86_64.whl 3.12 2.13.0 -n 2
#
# uv, which comes with the extra 'dev', takes a minute for a torch of five gigabytes; pip takes four.
set -euo pipefail

wheel=$(realpath "$1") python=$2 torch=$3
shift 3
tests=$(dirname "$(realpath "$0")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH

uv venv --quiet --python "$python" "$work/venv"
uv pip install --quiet --python "$work/venv/bin/python" \
  "torch==$torch" pytest pytest-xdist hypothesis setuptools "$wheel"
mkdir "$work/tests"
cp "$tests"/*.py "$work/tests"
cp "$tests/../pyproject.toml" "$work"
cd "$work"
SOFTCM_REQUIRE_EXT=1 venv/bin/python -c "
import platform, softcm, torch
assert softcm.__file__.startswith('$work/venv'), softcm.__file__
print(f'softcm {softcm.__version__}, Python {platform.python_version()}, torch {torch.__version__}')"
SOFTCM_REQUIRE_EXT=1 venv/bin/pytest -q --no-header -p no:cacheprovider "$@" \
  tests/test_{tables,gradients,operators,errors,degenerate}.py
