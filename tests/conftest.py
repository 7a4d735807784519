"""Set-up that must happen before JAX or brushjax is imported by any test."""

import os

_FLAGS = (
    # Eight CPU devices, so that sharded and single-device results can be compared on any machine.
    "--xla_force_host_platform_device_count=8",
    # Tests compile much and compute little: less of LLVM's optimisation nearly halves their time
    # and changes results by no more than rounding.
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
)
_given = os.environ.get("XLA_FLAGS", "").split()
os.environ["XLA_FLAGS"] = " ".join([*_given, *(flag for flag in _FLAGS if flag not in _given)])
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may need the network
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")  # no test writes to the user's cache

from jaxtyping import install_import_hook  # noqa: E402 - after the environment is set

# Every annotation of brushjax is checked whenever a test calls the function that carries it.
install_import_hook("brushjax", "beartype.beartype")
