"""Balls, sticks and translucent clouds to pixels: parallel projection, light from the upper left.

Solids are drawn into a depth buffer; clouds are then laid over them slice by slice from the back, each slice
absorbing what lies behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from voxtal.reports.view_panels import SHOWN, Balls, Cloud

SUPERSAMPLING = 2
"""Pixels along each axis that solids are drawn with for one of the picture."""
OPTICAL_DEPTH = 2.6
"""Of a cloud, straight through its densest peak."""
FINER = 3
"""Points of a cloud's grid as it is drawn for one of its own, along each axis."""
LEVELS = 64
"""Steps from black to white: too small to be seen, and a third off the size of the file."""
_LIGHT = np.array([-0.45, 0.6, 0.66])
"""Direction to it, a unit vector: right, up and towards the reader."""
_MIRROR = np.array([-0.247, 0.329, 0.911])
"""Normal of the surface that mirrors the light to the reader."""
_RIM = 0.32
"""Cosine towards the reader below which a ball is part of its outline."""
_STICK_COLOUR = np.array([0.42, 0.46, 0.5])


@dataclass(frozen=True)
class Window:
    """What part of space is drawn.

    Attributes
    ----------
    axes
        (3, 3; rows) unit vectors right, up and towards the reader.
    low
        (2,) coordinates along the first two of the picture's lower left corner.
    width, height
        Pixels.
    scale
        Pixels per unit of length.
    """

    axes: np.ndarray
    low: np.ndarray
    width: int
    height: int
    scale: float

    def finer(self, times: int) -> Window:
        return Window(self.axes, self.low, self.width * times, self.height * times, self.scale * times)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) to column, row (0 at the top) and nearness, all in pixels."""
        right, up, towards = np.moveaxis(points @ self.axes.T * self.scale, -1, 0)
        column, row = right - self.low[0] * self.scale, self.height - (up - self.low[1] * self.scale)
        return np.stack([column, row, towards], axis=-1)


def picture(
    window: Window, balls: Balls | None, sticks: Sequence[tuple[np.ndarray, np.ndarray]], clouds: Sequence[Cloud]
) -> np.ndarray:
    """(height, width, 3) float image, 0 to 1, on white.

    Parameters
    ----------
    window
        Size and place of the picture.
    balls
        Atoms.
    sticks
        Pairs of points (3,).
    clouds
        What is translucent; each one's opacity is in shares of its own maximum.
    """
    fine = window.finer(SUPERSAMPLING)
    canvas = _Canvas.blank(fine)
    for start, end in sticks:
        canvas.stick(fine.project(start), fine.project(end), radius=0.7 * SUPERSAMPLING)
    if balls is not None:
        for centre, colour, radius in zip(balls.centres, balls.colours, balls.radii, strict=True):
            canvas.ball(fine.project(centre), radius * fine.scale, colour)
    image = canvas.image
    shape = (window.height, SUPERSAMPLING, window.width, SUPERSAMPLING, 3)
    seen = [_smooth(cloud) for cloud in clouds if len(cloud.shown()[0])]
    if seen:
        nearest = canvas.nearness.reshape(shape[:4]).max(axis=(1, 3)) / SUPERSAMPLING
        before, throughout = (_enlarged(layer) for layer in _overlays(window, seen, nearest))
        layer = np.where(np.isfinite(canvas.nearness)[..., None], before, throughout)
        image = image * layer[..., 3:] + layer[..., :3]
    return np.asarray(np.rint(image.reshape(shape).mean(axis=(1, 3)).clip(0, 1) * LEVELS) / LEVELS)


def _enlarged(layer: np.ndarray) -> np.ndarray:
    return layer.repeat(SUPERSAMPLING, axis=0).repeat(SUPERSAMPLING, axis=1)


@dataclass(frozen=True)
class _Canvas:
    """(height, width, 3) colours and (height, width) nearness of what is seen there."""

    image: np.ndarray
    nearness: np.ndarray

    @classmethod
    def blank(cls, window: Window) -> _Canvas:
        shape = (window.height, window.width)
        return cls(np.ones((*shape, 3)), np.full(shape, -np.inf))

    def ball(self, centre: np.ndarray, radius: float, colour: np.ndarray) -> None:
        patch, x, y = self._patch(centre[:2] - radius, centre[:2] + radius)
        right, up = (x - centre[0]) / radius, (centre[1] - y) / radius
        squared = right**2 + up**2
        towards = np.sqrt(np.clip(1 - squared, 0, 1))
        normals = np.stack(np.broadcast_arrays(right, up, towards), axis=-1)
        shades = lit(np.asarray(colour), normals) * np.where(towards < _RIM, 0.62, 1.0)[..., None]
        self._put(patch, squared <= 1, centre[2] + radius * towards, shades)

    def stick(self, start: np.ndarray, end: np.ndarray, radius: float) -> None:
        ends = np.stack([start[:2], end[:2]])
        patch, x, y = self._patch(ends.min(axis=0) - radius, ends.max(axis=0) + radius)
        along = end - start
        length2 = max(float(along[:2] @ along[:2]), 1e-12)
        share = np.clip(((x - start[0]) * along[0] + (y - start[1]) * along[1]) / length2, 0, 1)
        squared = (x - start[0] - share * along[0]) ** 2 + (y - start[1] - share * along[1]) ** 2
        self._put(patch, squared <= radius**2, start[2] + share * along[2], _STICK_COLOUR)

    def _patch(self, low: np.ndarray, high: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """Part of the canvas between two corners, with the coordinates of its pixels: (1, w) and (h, 1)."""
        height, width = self.nearness.shape
        first = np.clip(np.floor(low), 0, (width, height)).astype(int)
        last = np.clip(np.ceil(high) + 1, 0, (width, height)).astype(int)
        columns, rows = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
        x, y = np.arange(columns.start, columns.stop) + 0.5, np.arange(rows.start, rows.stop) + 0.5
        return (rows, columns), x[None, :], y[:, None]

    def _put(self, patch: tuple[slice, slice], inside: np.ndarray, nearness: np.ndarray, colour: np.ndarray) -> None:
        seen = inside & (nearness > self.nearness[patch])
        self.image[patch][seen] = np.broadcast_to(colour, (*seen.shape, 3))[seen]
        self.nearness[patch][seen] = np.broadcast_to(nearness, seen.shape)[seen]


def lit(colour: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """``colour`` (3,) on a surface with unit ``normals`` (..., 3; right, up, towards the reader), with a highlight."""
    diffuse = np.clip(normals @ _LIGHT, 0, 1)[..., None]
    shine = np.clip(normals @ _MIRROR, 0, 1)[..., None] ** 40
    matt = np.clip(colour * (0.5 + 0.6 * diffuse), 0, 1)
    return np.asarray(matt + (1 - matt) * 0.6 * shine)


def _overlays(window: Window, clouds: Sequence[Cloud], nearest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the clouds before the solids, and what all of them, do to what lies behind.

    Parameters
    ----------
    nearest
        (height, width) how near the solids come, pixels.

    Returns
    -------
    tuple
        Twice (height, width, 4): the light that is added, and the share that is let through.
    """
    layers = np.zeros((2, window.height, window.width, 4))
    layers[..., 3] = 1
    absorptions = [OPTICAL_DEPTH / thickness(cloud) / cloud.values.max() for cloud in clouds]
    patch, depths = _slices(window, clouds)
    slices = (_Slice.of(window, clouds, absorptions, patch, depth) for depth in depths)
    for behind, here in pairwise(slices):
        step = here.depth - behind.depth
        before = np.clip((here.depth - nearest[patch] / window.scale) / step + 0.5, 0, 1)
        colours = here.colours(behind)
        for layer, share in zip(layers, (before, np.ones_like(before)), strict=True):
            opacity = 1 - np.exp(-share * here.total * step)[..., None]
            layer[patch] *= 1 - opacity
            layer[patch][..., :3] += colours * opacity
    return layers[0], layers[1]


def _smooth(cloud: Cloud) -> Cloud:
    """The part that matters, on a finer grid: interpolated linearly, the given one shows in the picture."""
    from scipy.ndimage import zoom

    index, _ = cloud.shown()
    first = np.maximum(index.min(axis=0) - 2, 0)
    last = np.minimum(index.max(axis=0) + 3, cloud.values.shape)
    part = cloud.values[tuple(slice(a, b) for a, b in zip(first, last, strict=True))].astype(np.float32)
    finer = zoom(part, FINER, order=3, mode="nearest")
    finer = np.maximum(finer - SHOWN * finer.max(), 0)
    ratio = (np.array(part.shape) - 1) / np.maximum(np.array(finer.shape) - 1, 1)
    return Cloud(cloud.name, cloud.colour, finer, cloud.origin + first @ cloud.steps, ratio[:, None] * cloud.steps)


def thickness(cloud: Cloud) -> float:
    """Width of the highest peak at half its height, as the integral through a Gaussian that wide over its height."""
    peak = np.unravel_index(int(np.argmax(cloud.values)), cloud.values.shape)
    half = cloud.values[peak] / 2
    widths = []
    for axis, middle in enumerate(peak):
        line = cloud.values[tuple(slice(None) if k == axis else peak[k] for k in range(3))] >= half
        outside = np.flatnonzero(~line)
        first = outside[outside < middle].max(initial=-1)
        last = outside[outside > middle].min(initial=len(line))
        widths.append((last - first - 1) * float(np.linalg.norm(cloud.steps[axis])))
    return float(np.sqrt(np.pi / np.log(2)) / 2 * np.prod(widths) ** (1 / 3))


def _slices(window: Window, clouds: Sequence[Cloud]) -> tuple[tuple[slice, slice], np.ndarray]:
    """The part of the picture that holds the clouds, and the depths of the slices, far to near, evenly spaced."""
    voxel = np.array([np.abs(window.axes @ cloud.steps.T).sum(axis=1).max() for cloud in clouds]).max()
    points = np.concatenate([cloud.shown()[1] for cloud in clouds]) @ window.axes.T
    low, high = points.min(axis=0) - voxel, points.max(axis=0) + voxel
    size = (window.width, window.height)
    left, right = np.clip((np.array([low[0], high[0]]) - window.low[0]) * window.scale, 0, size[0]).astype(int)
    bottom, top = np.clip((np.array([low[1], high[1]]) - window.low[1]) * window.scale, 0, size[1]).astype(int)
    step = min(float(np.linalg.norm(cloud.steps, axis=1).min()) for cloud in clouds)
    depths = np.arange(low[2], high[2] + step, step)
    return (slice(size[1] - int(top), size[1] - int(bottom)), slice(int(left), int(right))), depths


@dataclass(frozen=True)
class _Slice:
    """Absorption per length of every cloud (clouds, h, w), and of all (h, w), at one depth."""

    window: Window
    clouds: Sequence[Cloud]
    depth: float
    absorption: np.ndarray
    total: np.ndarray

    @classmethod
    def of(
        cls,
        window: Window,
        clouds: Sequence[Cloud],
        absorptions: Sequence[float],
        patch: tuple[slice, slice],
        depth: float,
    ) -> _Slice:
        sampled = np.stack(
            [factor * _sampled(window, cloud, patch, depth) for cloud, factor in zip(clouds, absorptions, strict=True)]
        )
        return cls(window, clouds, depth, sampled, sampled.sum(axis=0))

    def colours(self, behind: _Slice) -> np.ndarray:
        """(h, w, 3): colours of the clouds, mixed, lit as if surfaces of equal absorption were solid."""
        row, column = np.gradient(self.total)
        normals = np.stack(
            [-column, row, (behind.total - self.total) / ((self.depth - behind.depth) * self.window.scale)], axis=-1
        )
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-12
        shares = self.absorption / (self.total + 1e-12)
        colours = sum(share[..., None] * np.array(c.colour) for share, c in zip(shares, self.clouds, strict=True))
        return np.asarray(colours * (0.68 + 0.4 * np.clip(normals @ _LIGHT, -0.5, 1))[..., None])


def _sampled(window: Window, cloud: Cloud, patch: tuple[slice, slice], depth: float) -> np.ndarray:
    """(h, w): the cloud's values in the pixels of ``patch`` at ``depth``, interpolated; 0 outside its grid."""
    from scipy.ndimage import affine_transform

    rows, columns = patch
    to_index = np.linalg.inv(cloud.steps)
    right, up, towards = window.axes @ to_index
    corner = np.array([columns.start + 0.5, window.height - rows.start - 0.5]) / window.scale + window.low
    start = corner[0] * right + corner[1] * up + depth * towards - cloud.origin @ to_index
    matrix = np.stack([0 * towards, -up / window.scale, right / window.scale], axis=1)
    shape = (1, rows.stop - rows.start, columns.stop - columns.start)
    return np.asarray(affine_transform(cloud.values.astype(np.float32), matrix, start, shape, order=1)[0])
