"""Finding the peak of each map and its place between the cells.

Only the few cells around a peak are ever blurred or differentiated; on the CPU the peak itself is found by numpy, whose
argmax over the last axis is several times faster than torch's.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["dark_offset", "dark_udp_offset", "map_peaks", "quarter_offset"]


def _traced() -> bool:
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None or torch.onnx.is_in_onnx_export()


def map_peaks(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Find the highest cell of each map; the first one of equals.

    Args:
        heatmaps: (N, K, h, w).

    Returns:
        Cells (N, K, 2) int64, x and y; values (N, K).
    """
    flat = heatmaps.flatten(2)
    if flat.device.type == "cpu" and not flat.requires_grad and not _traced() and flat.numel():
        index = torch.from_numpy(flat.detach().numpy().argmax(axis=-1))
    else:
        index = flat.argmax(dim=-1)
    values = flat.gather(-1, index[..., None])[..., 0]
    width = heatmaps.shape[-1]
    return torch.stack([index % width, torch.div(index, width, rounding_mode="floor")], dim=-1), values


def _cells(heatmaps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Read cells x, y (N, K, m) of the maps (N, K, h, w), clamped to them."""
    height, width = heatmaps.shape[-2:]
    return heatmaps.flatten(2).gather(2, y.clamp(0, height - 1) * width + x.clamp(0, width - 1))


def quarter_offset(heatmaps: Tensor, peak: Tensor) -> Tensor:
    """Step a quarter of a cell towards the higher neighbour, as in the HRNet repository.

    Args:
        heatmaps: (N, K, h, w).
        peak: (N, K, 2) int64 cells.

    Returns:
        (N, K, 2) offsets in cells; 0 for peaks in the two outermost cells.
    """
    height, width = heatmaps.shape[-2:]
    x, y = peak[..., 0], peak[..., 1]
    steps = torch.tensor([1, -1], device=peak.device)
    across = _cells(heatmaps, x[..., None] + steps, y[..., None].expand(*y.shape, 2))
    along = _cells(heatmaps, x[..., None].expand(*x.shape, 2), y[..., None] + steps)
    slope = torch.stack([across[..., 0] - across[..., 1], along[..., 0] - along[..., 1]], dim=-1)
    inner = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    return torch.where(inner[..., None], slope.sign() * 0.25, torch.zeros_like(slope))


@lru_cache(maxsize=16)
def _blur_matrix(kernel: int, cells: int) -> list[list[float]]:
    """Return (cells, cells + kernel - 1): blurs a patch down to its inner cells along one axis.

    The Gaussian is the one that OpenCV takes for a kernel size without a sigma. Numbers, because a tensor that is made
    while a network is exported is no tensor afterwards.
    """
    sigma = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
    weights = [math.exp(-((i - kernel // 2) ** 2) / (2 * sigma**2)) for i in range(kernel)]
    normal = [weight / sum(weights) for weight in weights]
    return [[0.0] * row + normal + [0.0] * (cells - 1 - row) for row in range(cells)]


def _blurred_patch(heatmaps: Tensor, peak: Tensor, kernel: int, cells: int) -> Tensor:
    """Blur the maps in the (cells, cells) around each peak; outside of the map there are zeros.

    Returns:
        (N, K, cells, cells), rows are y.
    """
    reach = (cells + kernel - 1) // 2
    height, width = heatmaps.shape[-2:]
    around = torch.arange(-reach, reach + 1, device=heatmaps.device)
    x, y = peak[..., 0, None] + around, peak[..., 1, None] + around
    index = y.clamp(0, height - 1)[..., :, None] * width + x.clamp(0, width - 1)[..., None, :]
    patch = heatmaps.flatten(2).gather(2, index.flatten(2)).reshape(index.shape)
    in_y = ((y >= 0) & (y < height)).to(patch.dtype)
    in_x = ((x >= 0) & (x < width)).to(patch.dtype)
    blur = torch.tensor(_blur_matrix(kernel, cells), device=patch.device)
    return (blur * in_y[..., None, :]) @ patch @ (blur * in_x[..., None, :]).transpose(-1, -2)


def _newton_step(gradient: Tensor, hessian: Tensor) -> Tensor:
    """Solve -H^-1 g for (..., 2) gradients and (..., 3) Hessians xx, xy, yy; 0 where H is singular."""
    xx, xy, yy = hessian.unbind(-1)
    determinant = xx * yy - xy * xy
    regular = determinant != 0
    scale = torch.where(regular, determinant, torch.ones_like(determinant)).reciprocal()
    step = -torch.stack(
        [
            (yy * gradient[..., 0] - xy * gradient[..., 1]) * scale,
            (xx * gradient[..., 1] - xy * gradient[..., 0]) * scale,
        ],
        -1,
    )
    return torch.where(regular[..., None], step, torch.zeros_like(step))


def dark_offset(heatmaps: Tensor, peak: Tensor, kernel: int) -> Tensor:
    """Find the top of the Gaussian that the blurred map resembles, as DARK does.

    Args:
        heatmaps: (N, K, h, w).
        peak: (N, K, 2) int64 cells.
        kernel: Width of the blur in cells, odd.

    Returns:
        (N, K, 2) offsets in cells; 0 for peaks too near to the border for second differences over two cells.
    """
    height, width = heatmaps.shape[-2:]
    log = _blurred_patch(heatmaps, peak, kernel, 5).clamp(min=1e-10).log()
    gradient = torch.stack([log[..., 2, 3] - log[..., 2, 1], log[..., 3, 2] - log[..., 1, 2]], dim=-1) / 2
    hessian = torch.stack(
        [
            (log[..., 2, 4] - 2 * log[..., 2, 2] + log[..., 2, 0]) / 4,
            (log[..., 3, 3] - log[..., 1, 3] - log[..., 3, 1] + log[..., 1, 1]) / 4,
            (log[..., 4, 2] - 2 * log[..., 2, 2] + log[..., 0, 2]) / 4,
        ],
        dim=-1,
    )
    x, y = peak[..., 0], peak[..., 1]
    inner = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)
    step = _newton_step(gradient, hessian)
    return torch.where(inner[..., None], step, torch.zeros_like(step))


def dark_udp_offset(heatmaps: Tensor, peak: Tensor, kernel: int) -> Tensor:
    """Find the top of the Gaussian that the blurred map resembles, with UDP's differences over single cells.

    Args:
        heatmaps: (N, K, h, w).
        peak: (N, K, 2) int64 cells.
        kernel: Width of the blur in cells, odd.

    Returns:
        (N, K, 2) offsets in cells.
    """
    height, width = heatmaps.shape[-2:]
    x, y = peak[..., 0], peak[..., 1]
    blurred = _blurred_patch(heatmaps, peak, kernel, 3)
    # The blur is scaled back to the map's own height before the floor of 1e-3 is applied.
    top = _cells(heatmaps, x[..., None], y[..., None])[..., 0]
    blurred = blurred * (top / blurred.amax(dim=(-1, -2)).clamp(min=1e-12))[..., None, None]
    around = torch.arange(-1, 2, device=peak.device)
    # Beyond the border the outermost cell continues.
    rows = (y[..., None] + around).clamp(0, height - 1) - y[..., None] + 1
    columns = (x[..., None] + around).clamp(0, width - 1) - x[..., None] + 1
    index = rows[..., :, None] * 3 + columns[..., None, :]
    log = blurred.flatten(-2).gather(-1, index.flatten(-2)).reshape(blurred.shape).clamp(1e-3, 50.0).log()
    gradient = torch.stack([log[..., 1, 2] - log[..., 1, 0], log[..., 2, 1] - log[..., 0, 1]], dim=-1) / 2
    mixed = log[..., 2, 2] - log[..., 1, 2] - log[..., 2, 1] + 2 * log[..., 1, 1]
    mixed = (mixed - log[..., 1, 0] - log[..., 0, 1] + log[..., 0, 0]) / 2
    epsilon = torch.finfo(torch.float32).eps
    hessian = torch.stack(
        [
            log[..., 1, 2] - 2 * log[..., 1, 1] + log[..., 1, 0] + epsilon,
            mixed,
            log[..., 2, 1] - 2 * log[..., 1, 1] + log[..., 0, 1] + epsilon,
        ],
        dim=-1,
    )
    return _newton_step(gradient, hessian)
