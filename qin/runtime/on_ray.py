"""A Ray cluster to run on: the one that RAY_ADDRESS names, or this machine alone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from qin.runtime.errors import ConfigError
from qin.runtime.host import LOOPBACK

# Ray's sockets need paths of at most 107 characters, and containers a small share of memory in /dev/shm.
_LOCAL: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 100 << 20, "_node_ip_address": LOOPBACK}
_QUIET = {"RAY_DEDUP_LOGS": "0", "RAY_COLOR_PREFIX": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@contextmanager
def connected(*, setting: str, num_cpus: int) -> Iterator[bool]:
    """Be connected to Ray in the block; says whether that is a cluster that others have started.

    Args:
        setting: Key of params.yaml that asks for it, for messages.
        num_cpus: Cores that Ray may hand out where it is started here.

    Raises:
        ConfigError: If Ray is not installed, or the cluster cannot be reached.
    """
    try:
        import ray  # noqa: PLC0415 -- an extra
    except ImportError as error:
        raise ConfigError(f'params.yaml: {setting}: ray needs an extra: pip install "qin-ctr[ray]"') from error
    os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
    address = os.environ.get("RAY_ADDRESS")
    try:
        ray.init(logging_level="ERROR", **({} if address else {**_LOCAL, "num_cpus": num_cpus}))
    except ConnectionError as error:
        raise ConfigError(f"environment: RAY_ADDRESS: {address}: no Ray cluster answers there ({setting})") from error
    try:
        yield bool(address)
    finally:
        ray.shutdown()
