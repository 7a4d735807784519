"""Set-up that must happen before JAX or brushjax is imported by any test."""

import os
import shutil
import tempfile

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
# Many tests compile the same programs. Each process of a test run keeps its own in a folder that
# goes when it ends: never in the user's cache, nor in one that two processes write at once.
_OWN = "brushjax-programs-"
_programs = os.environ.get("JAX_COMPILATION_CACHE_DIR", _OWN)
if _OWN in _programs:  # of this process, or of the one that started it
    _programs = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix=_OWN)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

from jaxtyping import install_import_hook  # noqa: E402 - after the environment is set

# Every annotation of brushjax is checked whenever a test calls the function that carries it.
install_import_hook("brushjax", "beartype.beartype")


def pytest_unconfigure():
    """Removes this process's programs."""
    if _OWN in _programs:
        shutil.rmtree(_programs, ignore_errors=True)
