"""Set-up that must happen before JAX or brushjax is imported by any test."""

import os

# Eight CPU devices, so that sharded and single-device results can be compared on any machine.
_DEVICES = "--xla_force_host_platform_device_count=8"
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may need the network

from jaxtyping import install_import_hook  # noqa: E402 - after the environment is set

# Every annotation of brushjax is checked whenever a test calls the function that carries it.
install_import_hook("brushjax", "beartype.beartype")
