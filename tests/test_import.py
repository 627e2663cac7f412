"""What ``import softcm`` brings along."""

import subprocess
import sys


def test_import_loads_nothing_that_torch_has_not_loaded():
    code = (
        "import sys, torch; before = set(sys.modules); import softcm;"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    names = done.stdout.split()
    assert "softcm.losses" in names, done.stderr
    others = {name.split(".")[0] for name in names} - {"softcm"}
    # No Triton, no scikit-learn, and no part of torch that takes long, such as torch._dynamo.
    assert others <= sys.stdlib_module_names
    late = ("softcm.triton_kernels", "softcm.demo", "softcm.demo_data", "softcm.__main__")
    assert not set(late) & set(names)
