"""Set-up that must happen before JAX or brushjax is imported by any test."""

import ctypes
import gc
import os
import shutil
import tempfile
from pathlib import Path

_FLAGS = (
    # Eight CPU devices, so that sharded and single-device results can be compared on any machine.
    "--xla_force_host_platform_device_count=8",
    # Tests compile much and compute little: less of LLVM's optimisation nearly halves their time
    # and changes results by no more than rounding.
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    # A third less again: the older emitters of fused loops, and one LLVM module for each program.
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
    "--xla_cpu_parallel_codegen_split_count=1",
)
_given = os.environ.get("XLA_FLAGS", "").split()
os.environ["XLA_FLAGS"] = " ".join([*_given, *(flag for flag in _FLAGS if flag not in _given)])
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may need the network
# Programs without the source line of every operation: a tenth less time.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
# Many tests compile the same programs. Each process of a test run keeps its own in a folder that
# goes when it ends: never in the user's cache, nor in one that two processes write at once.
_OWN = "brushjax-programs-"
_programs = os.environ.get("JAX_COMPILATION_CACHE_DIR", _OWN)
if _OWN in _programs:  # of this process, or of the one that started it
    _programs = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix=_OWN)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

import jax  # noqa: E402 - after the environment is set
import pytest  # noqa: E402

from tests import annotations  # noqa: E402
from tests.marks import refuse_both  # noqa: E402

# Every annotation of brushjax is checked whenever a test calls the function that carries it.
annotations.check("brushjax")


@pytest.hookimpl(tryfirst=True)  # before the option -m leaves any out
def pytest_collection_modifyitems(items):
    refuse_both(items)


def pytest_collection_finish():
    """What the import of all tests made stays: no search for garbage looks at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _bounded_memory():
    """Drops what earlier files compiled once it fills gigabytes; the folder above still has it."""
    yield
    if _resident() > 2.5e9:
        jax.clear_caches()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # else freed memory stays the process's


def _resident() -> float:
    """Returns this process's memory in bytes; 0 where the system does not tell (not Linux)."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def pytest_unconfigure():
    """Removes this process's programs."""
    if _OWN in _programs:
        shutil.rmtree(_programs, ignore_errors=True)
