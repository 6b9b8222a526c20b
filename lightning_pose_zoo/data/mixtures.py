"""Groups and Gaussian mixtures of a few numbers, in plain numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Mixture", "clustered", "nearest"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Known = npt.NDArray[np.bool_]

_ROUNDS = 100
_SETTLED = 1e-6
_LEAST_VARIANCE = 1e-6
_ROWS_EACH = 10  # a Gaussian of four numbers is fitted to at least so many rows


@dataclass(frozen=True)
class Mixture:
    """A mixture of M Gaussians of d numbers.

    Attributes:
        shares: (M,), how much of the mixture each is; their sum is 1.
        means: (M, d).
        covariances: (M, d, d).
    """

    shares: Floats
    means: Floats
    covariances: Floats

    @staticmethod
    def fitted(rows: Floats, components: int, rng: np.random.Generator) -> Mixture:
        """Fit by expectation maximisation, from groups found by k-means.

        Args:
            rows: (n, d), n at least 1.
            components: How many Gaussians; fewer where there are fewer than ten rows for each.
            rng: For the first guess.
        """
        rows = np.asarray(rows, dtype=np.float64)
        count, size = rows.shape
        components = max(1, min(components, count // _ROWS_EACH))
        _, group = clustered(rows[:, None], np.ones((count, 1), dtype=bool), components, rng)
        share: Floats = np.eye(group.max() + 1)[group]
        before, floor = -np.inf, _LEAST_VARIANCE * np.eye(size)
        for _ in range(_ROUNDS):
            weight = share.sum(axis=0) + 1e-12
            means = share.T @ rows / weight[:, None]
            apart = rows[:, None] - means
            covariances = np.einsum("nm,nmi,nmj->mij", share, apart, apart) / weight[:, None, None] + floor
            mixture = Mixture(weight / weight.sum(), means, covariances)
            logs = mixture.log_densities(rows)
            highest = logs.max(axis=1, keepdims=True)
            total = highest[:, 0] + np.log(np.exp(logs - highest).sum(axis=1))
            share = np.exp(logs - total[:, None])
            if total.mean() - before < _SETTLED:
                break
            before = float(total.mean())
        return mixture

    def log_densities(self, rows: Floats) -> Floats:
        """Return the logarithm of each Gaussian's density times its share at rows (n, d), (n, M)."""
        apart = rows[:, None] - self.means
        factors = np.linalg.cholesky(self.covariances)
        solved = np.linalg.solve(factors, apart.transpose(1, 2, 0))  # (M, d, n)
        spread = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1) + 0.5 * rows.shape[1] * np.log(2 * np.pi)
        logs: Floats = np.log(self.shares) - spread - 0.5 * (solved**2).sum(axis=1).T
        return logs

    def draw(self, rng: np.random.Generator) -> Floats:
        """Draw one row (d,)."""
        one = rng.choice(len(self.shares), p=self.shares)
        factor = np.linalg.cholesky(self.covariances[one])
        return np.asarray(self.means[one] + factor @ rng.standard_normal(self.means.shape[1]))

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as lists."""
        names = ("shares", "means", "covariances")
        return {name: np.round(getattr(self, name), 8).tolist() for name in names}

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> Mixture:
        """Build a mixture from lists.

        Raises:
            ValueError: Where they do not belong together, or are no mixture.
        """
        shares, means, covariances = (
            np.array(content[name], dtype=np.float64) for name in ("shares", "means", "covariances")
        )
        count, size = means.shape
        if shares.shape != (count,) or covariances.shape != (count, size, size) or not np.isfinite(means).all():
            raise ValueError(f"shares {shares.shape}, means {means.shape} and covariances {covariances.shape}")
        if not (shares > 0).all() or abs(shares.sum() - 1) > 1e-3:
            raise ValueError(f"shares {shares.tolist()} are not positive with the sum 1")
        np.linalg.cholesky(covariances)  # raises where one is no covariance
        return Mixture(shares / shares.sum(), means, covariances)


def nearest(points: Floats, known: Known, centers: Floats) -> Integers:
    """Return the centre that is nearest to each point, by the mean squared distance of its known parts, (n,).

    Args:
        points: (n, K, d).
        known: (n, K) bool.
        centers: (A, K, d).
    """
    squared = ((points[:, None] - centers) ** 2).sum(axis=-1)
    distances = (squared * known[:, None]).sum(axis=-1)
    return np.asarray(distances.argmin(axis=1), dtype=np.int64)


def clustered(points: Floats, known: Known, count: int, rng: np.random.Generator) -> tuple[Floats, Integers]:
    """Group points by k-means (first guesses by k-means++); parts that are not known count nothing.

    Args:
        points: (n, K, d).
        known: (n, K) bool; what is not known of a centre is taken from all points.
        count: How many groups; at most as many as there are different points.
        rng: For the first guess.

    Returns:
        Centres (A, K, d) without empty groups, and the group of each point (n,).
    """
    if not len(points):
        return np.zeros((0, *points.shape[1:])), np.zeros(0, dtype=np.int64)
    everywhere = _mean(points, known, np.zeros(points.shape[1:]))
    filled = np.where(known[..., None], points, everywhere)
    centers = filled[rng.integers(len(points))][None]
    while len(centers) < count:
        apart = ((filled[:, None] - centers) ** 2).sum(axis=(-1, -2)).min(axis=1)
        if apart.sum() <= 0:
            break
        centers = np.concatenate([centers, filled[rng.choice(len(points), p=apart / apart.sum())][None]])
    group = nearest(points, known, centers)
    for _ in range(_ROUNDS):
        used = np.unique(group)
        centers = np.stack([_mean(points[group == one], known[group == one], everywhere) for one in used])
        again = nearest(points, known, centers)
        if np.array_equal(again, np.searchsorted(used, group)):
            break
        group = again
    used, group = np.unique(again, return_inverse=True)
    return centers[used], group.astype(np.int64)


def _mean(points: Floats, known: Known, otherwise: Floats) -> Floats:
    """Return the mean (K, d) of what is known of points (n, K, d)."""
    count = known.sum(axis=0)[:, None]
    total = (points * known[..., None]).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), otherwise)
