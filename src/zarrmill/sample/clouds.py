"""Clouds and their shadows as smooth fields: opacity, probability and the effect on reflectance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zarrmill.sample.fields import Field, FieldRows, Float32Array, centres, fractal
from zarrmill.sample.spec import SampleSpec

N_NODES = 129
"""Nodes of the cloud lattice along the product's edge; a quarter more lies around it for the shadows."""
SOFTNESS = 0.35
"""Rise of the field, in standard deviations, from the rim of a cloud to full opacity."""
SHADOW_SHIFT = (0.035, 0.02)
"""Where a shadow's cloud is, ``(y, x)`` as share of the edge: the sun stands in the south-east."""
RIM_PERCENT = 20
"""Cloud probability where opacity begins."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """Cloud and shadow over some rows."""

    opacity: Float32Array
    """0 clear to 1 opaque."""
    thickness: Float32Array
    """Distance from the cloud's rim in units of ``SOFTNESS``, 0 to 4: brighter towards the middle."""
    shadow: Float32Array
    """0 lit to 1 full shadow; 0 under opaque cloud."""

    def apply(self, reflectance: Float32Array, cloud_top: int) -> None:
        """Change ``reflectance`` (DN - 1000) in place; ``cloud_top`` is that of a typical cloud.

        40 % of the ground's contrast stays under an opaque cloud, so the noise of real pixels stays too.
        """
        reflectance *= 1 - np.float32(0.45) * self.shadow
        top = (np.float32(0.45) + np.float32(0.18) * self.thickness) * np.float32(cloud_top)
        top -= np.float32(0.6) * reflectance
        top *= self.opacity
        reflectance += top


class Clouds:
    """The cloud field of one product."""

    def __init__(self, spec: SampleSpec) -> None:
        """Draw the field and set the threshold so that about ``spec.cloud_fraction`` is cloud."""
        self._spec = spec
        margin = N_NODES // 4
        nodes = fractal(spec.rng("clouds"), N_NODES + 2 * margin, (5, 10, 20, 40, 80))
        spacing = spec.size_px / (N_NODES - 1)
        inside = nodes[margin:-margin, margin:-margin]
        # Cloud classes begin at 25 percent, a little inside the rim.
        level = np.quantile(inside, 1 - spec.cloud_fraction) - (25 - RIM_PERCENT) / (100 - RIM_PERCENT) * SOFTNESS
        excess = (nodes - np.float32(level)) / np.float32(SOFTNESS)
        self._is_clear = spec.cloud_fraction == 0
        self._field = Field(excess, (-margin * spacing, -margin * spacing), spacing)
        self._expanded: dict[tuple[int, bool], FieldRows] = {}

    def overlay(self, factor: int, start: int, stop: int) -> Overlay | None:
        """Effect on rows ``start`` to ``stop`` of the ``factor`` coarser grid; None where nothing changes."""
        if self._is_clear:
            return None
        excess = self._excess(factor, start, stop, shifted=False)
        shadow = self._shadow(excess, factor, start, stop)
        opacity = np.clip(excess, 0, 1)
        if not opacity.any() and not shadow.any():
            return None
        return Overlay(opacity, np.clip(excess, 0, 4), shadow)

    def percent(self, factor: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Cloud probability in percent."""
        excess = self._excess(factor, start, stop, shifted=False)
        return np.rint(np.clip(RIM_PERCENT + (100 - RIM_PERCENT) * excess, 0, 100)).astype(np.uint8)

    def shadow(self, factor: int, start: int, stop: int) -> Float32Array:
        """Depth of cloud shadow, 0 to 1."""
        return self._shadow(self._excess(factor, start, stop, shifted=False), factor, start, stop)

    def _shadow(self, excess: Float32Array, factor: int, start: int, stop: int) -> Float32Array:
        caster = self._excess(factor, start, stop, shifted=True)
        depth: Float32Array = np.clip(caster, 0, 1) * (1 - np.clip(excess, 0, 1))
        return depth

    def _excess(self, factor: int, start: int, stop: int, *, shifted: bool) -> Float32Array:
        width = self._spec.size_px // factor
        if self._is_clear:
            return np.full((stop - start, width), -1, np.float32)
        by_y, by_x = (s * self._spec.size_px if shifted else 0.0 for s in SHADOW_SHIFT)
        key = (factor, shifted)
        if key not in self._expanded:
            self._expanded[key] = self._field.across(centres(0, width, factor) + by_x)
        return self._expanded[key].rows(centres(start, stop, factor) + by_y)
