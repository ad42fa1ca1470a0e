"""What differs between a CPU and a GPU besides kernels: on a GPU the host runs ahead, and waiting for it costs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def on_cpu(device: torch.device) -> bool:
    """Whether tensors of this device are the host's: reading a number of them waits for nothing."""
    return device.type == "cpu"


def upload(
    numbers: Sequence[int], device: torch.device, dtype: torch.dtype = torch.int64
) -> Tensor:
    """The host's ``numbers`` [n] on ``device``, which the host does not wait for."""
    tensor = torch.tensor(numbers, dtype=dtype)
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
