"""Where programs outside of this package find the shipped base and the published schedules."""

from brushjax.pipelines.bases import SD1_SCHEDULER, SHIPPED_BASE, XL_SCHEDULER

__all__ = ["SD1_SCHEDULER", "SHIPPED_BASE", "XL_SCHEDULER"]
