"""Maps of what counts in an image, drawn over it, and pictures as PNG bytes."""

from __future__ import annotations

import numpy as np

#: Sides of pictures in pixels: smaller images are enlarged to at least this, every pixel to a square.
LEAST_SIDE = 256
#: Share of the colours over the image where the map is largest.
MOST = 0.8


def overlay(image: np.ndarray, heat: np.ndarray, *, signed: bool = False) -> np.ndarray:
    """Return an image with a map over it: grey where nothing counts, coloured where something does.

    Args:
        image: uint8 (H, W, C), C 1 or 3, or colours 0..1.
        heat: of any sides and scale; it is stretched over the image; what is not finite counts as 0.
        signed: whether below 0 means against: then red is for, blue against, full from the 99th percentile of the
            sizes on, for a few pixels far above all others would leave the rest pale. Else dark violet to bright
            yellow, from 0 to the largest.

    Returns:
        uint8 (h, w, 3), RGB; h and w are H and W times the smallest whole number that makes the longer side at least
        :data:`LEAST_SIDE`.
    """
    import cv2

    colours = image.astype(np.float32) / (255 if image.dtype == np.uint8 else 1)
    colours = np.repeat(colours, 3, axis=-1) if colours.shape[-1] == 1 else colours[..., :3]
    times = enlargement(image.shape[:2])
    colours = colours.repeat(times, 0).repeat(times, 1)
    height, width = colours.shape[:2]
    values = np.nan_to_num(np.asarray(heat, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    values = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
    values = np.clip(values / _full(values, signed), -1.0, 1.0)
    grey = colours @ np.array([0.299, 0.587, 0.114], np.float32)
    if signed:
        strength = np.abs(values)[..., None]
        tint = np.where(
            values[..., None] > 0, np.array([0.84, 0.15, 0.10], np.float32), np.array([0.10, 0.35, 0.85], np.float32)
        )
        base = 0.45 + 0.5 * grey[..., None]  # pale, so that both colours are seen
        mixed = base * (1 - MOST * strength) + tint * (MOST * strength)
    else:
        values = np.clip(values, 0.0, 1.0)
        table = cv2.applyColorMap(np.rint(values * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
        tint = table[..., ::-1].astype(np.float32) / 255
        strength = (0.35 + (MOST - 0.35) * values)[..., None]
        mixed = grey[..., None] * (1 - strength) + tint * strength
    return np.rint(np.clip(mixed, 0.0, 1.0) * 255).astype(np.uint8)


def picture(image: np.ndarray, heat: np.ndarray | None, *, signed: bool = False) -> bytes:
    """Return any input with a map over it, or as it is, as the bytes of a PNG file.

    Args:
        image: an image (H, W, C), a signal (L, C), or a volume (D, H, W, C), of which three slices are drawn:
            through the largest value of the map, or of the input alone through its middle.
        heat: of its rank without channels; None for the input alone.
        signed: as for :func:`overlay`.
    """
    if image.ndim == 2:
        return _signal(image, heat, signed)
    if image.ndim == 4:
        from resnet_jax.report.example_axes import slices

        if heat is None:
            image = slices(image)
        else:
            peak = int(np.abs(np.nan_to_num(heat)).argmax())
            at = tuple(int(each) for each in np.unravel_index(peak, heat.shape))
            image, heat = slices(image, at), slices(heat[..., None], at, 0.0)[..., 0]
        times = max(1, -(-LEAST_SIDE // (2 * image.shape[0])))
        image = image.repeat(times, 0).repeat(times, 1)
    if image.dtype != np.uint8 or image.shape[-1] not in (1, 3):
        low, high = (float(end) for end in np.percentile(image, (0.5, 99.5)))
        shown = np.clip((image.astype(np.float64) - low) / max(high - low, 1e-12), 0, 1) * 255
        image = np.rint(shown[..., : 3 if shown.shape[-1] >= 3 else 1]).astype(np.uint8)
    return encode_png(enlarged(image) if heat is None else overlay(image, heat, signed=signed))


def scale_bar(*, signed: bool, curves: bool = False) -> np.ndarray:
    """Return the colors of a map from its smallest to its largest value, as they are seen over gray, (8, 256, 3).

    Args:
        signed: as for :func:`overlay`.
        curves: of a map behind the curves of a signal.
    """
    heat = np.linspace(-1.0 if signed else 0.0, 1.0, 256, dtype=np.float32)[None].repeat(8, 0)
    if not curves:
        return overlay(np.full((8, 256, 1), 128, np.uint8), heat, signed=signed)
    from matplotlib import colormaps

    colours = colormaps[_BEHIND[signed]]((heat + signed) / (1 + signed))[..., :3]
    return np.rint(255 * (1 - _OPAQUE + _OPAQUE * colours)).astype(np.uint8)


#: Colors behind the curves of a signal, by whether they are signed, and how far they cover the white.
_BEHIND, _OPAQUE = {False: "YlOrRd", True: "coolwarm"}, 0.75


def _signal(signal: np.ndarray, heat: np.ndarray | None, signed: bool) -> bytes:
    """Draw the curves of a signal (L, C), the map as colours behind them."""
    from resnet_jax.report.canvas import PALETTE, figure_bytes, new_figure
    from resnet_jax.report.example_axes import MAX_LINES

    figure = new_figure((6.4, 2.2), dpi=100)
    axes = figure.subplots()
    low, high = float(signal.min()), float(signal.max())
    margin = 0.05 * max(high - low, 1e-12)
    extent = (-0.5, len(signal) - 0.5, low - margin, high + margin)
    if signal.shape[1] > MAX_LINES:
        axes.imshow(signal.T, aspect="auto", origin="lower", cmap="gray", extent=extent)
    if heat is not None:
        most = _full(heat, signed)
        limits = {"vmin": -most if signed else 0.0, "vmax": most, "cmap": _BEHIND[signed]}
        axes.imshow(heat[None], aspect="auto", extent=extent, alpha=_OPAQUE, interpolation="nearest", **limits)
    for channel in range(signal.shape[1] if signal.shape[1] <= MAX_LINES else 0):
        width = 0.5 if len(signal) > 1000 else 1.2
        axes.plot(signal[:, channel], color="black" if heat is not None else PALETTE[channel], linewidth=width)
    axes.set(xlim=extent[:2], ylim=extent[2:])
    axes.spines[["top", "right"]].set_visible(False)
    return figure_bytes(figure)


def _full(values: np.ndarray, signed: bool) -> float:
    """Return the size of a value that has the full colour."""
    sizes = np.abs(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0))
    usual = float(np.percentile(sizes, 99)) if signed else 0.0
    return max(usual or float(sizes.max()), 1e-20)


def enlarged(image: np.ndarray) -> np.ndarray:
    """Return an image, uint8 (H, W, C), as :func:`overlay` enlarges it, (h, w, 3)."""
    times = enlargement(image.shape[:2])
    image = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]
    return image.repeat(times, 0).repeat(times, 1)


def enlargement(sides: tuple[int, ...]) -> int:
    """Return how many times as large an image of these sides is shown.

    >>> enlargement((32, 32)), enlargement((224, 200)), enlargement((480, 640))
    (8, 2, 1)
    """
    return max(1, -(-LEAST_SIDE // max(sides)))


def encode_png(pixels: np.ndarray) -> bytes:
    """Return RGB or grey pixels, uint8 (H, W, C), as the bytes of a PNG file."""
    import cv2

    return cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))[1].tobytes()
