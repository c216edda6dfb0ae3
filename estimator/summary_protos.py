"""Summary protos: fetched values as TensorBoard reads them.

    values = summary_values("digits", Image(pixels, most=3))    # tags digits/image/0, ...

The formats are those of TensorFlow's own summaries: simple values, bucketed histograms, PNG images,
tensors of text.
"""

import logging
import struct
import zlib
from typing import Any

import numpy as np

from estimator.summary import Histogram, Image, Text

_LOG = logging.getLogger(__name__)

_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}  # of a PNG, by the number of channels
_NOT_A_NUMBER = np.array([255, 0, 0, 255], np.uint8)  # the colour of such a pixel
_DARKEST = 1e-6


def summary_values(tag: str, value: Any) -> list[Any]:
    """Returns the `Summary.Value`s of one summary.

    >>> [v.simple_value for v in summary_values("loss", np.float32(0.5))]
    [0.5]

    Args:
        tag: the name that TensorBoard shows.
        value: a number; an array, which is kept as a tensor; or what a model_fn gave to
            `summary.histogram`, `summary.image` or `summary.text`, fetched.
    """
    from tensorboardX.proto.summary_pb2 import Summary

    if isinstance(value, Histogram):
        return [Summary.Value(tag=tag, histo=_histogram(tag, value.values))]
    if isinstance(value, Image):
        return _images(tag, value)
    if isinstance(value, Text):
        lines = value.lines if value.output is None else np.ravel(value.output.finish())
        return [_text(tag, [x.decode() if isinstance(x, bytes) else str(x) for x in lines])]
    array = np.asarray(value)
    if array.size == 1:
        return [Summary.Value(tag=tag, simple_value=float(array.reshape(())))]
    return [Summary.Value(tag=tag, tensor=_tensor(array))]


def _histogram(tag: str, values: Any) -> Any:
    """Counts values in TensorFlow's buckets, whose limits grow by a tenth each."""
    from tensorboardX.proto.summary_pb2 import HistogramProto

    # Sorted values are counted by bisection; float32 sorts several times faster than float64.
    given = np.asarray(values).ravel()
    narrow = given.dtype.itemsize <= 4 and given.dtype.kind not in "iu"
    given = given.astype(np.float32 if narrow else np.float64)
    finite = np.sort(given[np.isfinite(given)])
    if len(finite) < len(given):
        _LOG.warning(
            'summary.histogram("%s"): %d of %d values are not finite numbers and are left out.',
            tag,
            len(given) - len(finite),
            len(given),
        )
    limits = _bucket_limits()
    below = np.searchsorted(finite, limits, side="left")
    counts = np.diff(below, prepend=0)
    # As TensorFlow writes them: of a run of empty buckets only the last.
    filled = counts > 0
    kept = filled | np.append(filled[1:], False)
    wide = finite.astype(np.float64)
    return HistogramProto(
        min=float(wide[0]) if len(wide) else 0.0,
        max=float(wide[-1]) if len(wide) else 0.0,
        num=len(wide),
        sum=float(wide.sum()),
        sum_squares=float((wide**2).sum()),
        bucket_limit=limits[kept] if kept.any() else [np.finfo(np.float64).max],
        bucket=counts[kept] if kept.any() else [0.0],
    )


def _bucket_limits() -> np.ndarray:
    positive = 1e-12 * np.cumprod(np.full(774, 1.1)) / 1.1
    positive = positive[positive < 1e20]
    return np.concatenate([-positive[::-1], [0.0], positive, [np.finfo(np.float64).max]])


def _images(tag: str, image: Image) -> list[Any]:
    from tensorboardX.proto.summary_pb2 import Summary

    values = []
    for index, pixels in enumerate(np.asarray(image.pixels)):
        height, width, channels = pixels.shape
        png = Summary.Image(
            height=height,
            width=width,
            colorspace=channels,
            encoded_image_string=_png(_as_bytes(pixels)),
        )
        name = f"{tag}/image" if image.most == 1 else f"{tag}/image/{index}"
        values.append(Summary.Value(tag=name, image=png))
    return values


def _as_bytes(pixels: np.ndarray) -> np.ndarray:
    """Brings an image to 0 to 255, as TensorFlow does; pixels that are no numbers become red."""
    if pixels.dtype == np.uint8:
        return pixels
    pixels = pixels.astype(np.float64)
    good = np.isfinite(pixels).all(-1)
    known = pixels[good]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    if low < 0:
        reach, span, zero = max(-low, high), 127.0, 128.0
    else:
        reach, span, zero = high, 255.0, 0.0
    scale = 0.0 if reach < _DARKEST else span / reach
    made = np.where(good[..., None], pixels, 0) * scale + zero
    bad = _NOT_A_NUMBER[: pixels.shape[-1]]
    return np.where(good[..., None], made.astype(np.uint8), bad)


def _png(pixels: np.ndarray) -> bytes:
    """Encodes bytes of shape (height, width, channels), unfiltered (PNG, 2nd edition, 2003)."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    rows = pixels.reshape(height, width * channels)
    lines = np.concatenate([np.zeros((height, 1), np.uint8), rows], 1).tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


def _text(tag: str, lines: list[str]) -> Any:
    from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboardX.proto.tensor_pb2 import TensorProto
    from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto

    dims = [] if len(lines) == 1 else [TensorShapeProto.Dim(size=len(lines))]
    tensor = TensorProto(
        dtype="DT_STRING",
        string_val=[line.encode() for line in lines],
        tensor_shape=TensorShapeProto(dim=dims),
    )
    plugin = SummaryMetadata.PluginData(plugin_name="text")
    return Summary.Value(tag=tag, tensor=tensor, metadata=SummaryMetadata(plugin_data=plugin))


def _tensor(array: np.ndarray) -> Any:
    from tensorboardX.proto.tensor_pb2 import TensorProto
    from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto

    dims = [TensorShapeProto.Dim(size=size) for size in array.shape]
    return TensorProto(
        dtype="DT_DOUBLE",
        double_val=array.astype(np.float64).ravel(),
        tensor_shape=TensorShapeProto(dim=dims),
    )
