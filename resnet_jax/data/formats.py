"""The format of a file, from its first bytes: images that can be read, others, and what is mistaken for a data set.

A suffix says little: JPEGs are named .jfif, .image or nothing at all, and text is named .jpg. The signatures come from
the formats' own specifications.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

HEAD_BYTES = 560
"""Number of bytes of a file that :func:`identify` examines."""


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        name: with its article, for messages: ``a JPEG image``.
        readable: whether it is an image that :func:`resnet_jax.data.decode.decode_image` reads.
        advice: what to do with it instead; empty for readable images, or if there is no advice.
    """

    name: str
    readable: bool = False
    advice: str = ""

    def __str__(self) -> str:
        """Return the name and the advice."""
        return f"{self.name}; {self.advice}" if self.advice else self.name


def _image(name: str) -> Format:
    return Format(name, readable=True)


_CONVERT = "convert it to PNG or JPEG"
_UNPACK = "unpack it, then name the folder: folder:PATH"
_ARRAYS = "save its arrays with np.savez('data.npz', x=..., y=...), then npz:data.npz"

#: Signature at the start -> format, longer ones first if one begins with another.
_STARTS: tuple[tuple[bytes, Format], ...] = (
    (b"\xff\xd8\xff", _image("a JPEG image")),
    (b"\x89PNG\r\n\x1a\n", _image("a PNG image")),
    (b"GIF87a", _image("a GIF image")),
    (b"GIF89a", _image("a GIF image")),
    (b"II*\0", _image("a TIFF image")),
    (b"MM\0*", _image("a TIFF image")),
    (b"II+\0", Format("a BigTIFF image", advice="save it as an ordinary TIFF or PNG")),
    (b"MM\0+", Format("a BigTIFF image", advice="save it as an ordinary TIFF or PNG")),
    (b"\0\0\0\x0cjP  \r\n\x87\n", _image("a JPEG 2000 image")),
    (b"\xff\x4f\xff\x51", _image("a JPEG 2000 image")),
    (b"\x59\xa6\x6a\x95", _image("a Sun raster image")),
    (b"#?RADIANCE", Format("a Radiance HDR image", advice="its values have no fixed scale: " + _CONVERT)),
    (b"#?RGBE", Format("a Radiance HDR image", advice="its values have no fixed scale: " + _CONVERT)),
    (b"v/1\x01", Format("an OpenEXR image", advice="its values have no fixed scale: " + _CONVERT)),
    (b"\xff\x0a", Format("a JPEG XL image", advice=_CONVERT)),
    (b"\0\0\0\x0cJXL \r\n\x87\n", Format("a JPEG XL image", advice=_CONVERT)),
    (b"8BPS", Format("a Photoshop file", advice=_CONVERT)),
    (b"DDS ", Format("a DDS texture", advice=_CONVERT)),
    (b"\0\0\x01\0", Format("an icon", advice=_CONVERT)),
    (b"%PDF", Format("a PDF file", advice=_CONVERT)),
    (b"%!PS", Format("a PostScript file", advice=_CONVERT)),
    (b"\x89HDF\r\n\x1a\n", Format("an HDF5 file", advice=f"open it with h5py; {_ARRAYS}")),
    (b"MATLAB 5.0", Format("a MATLAB file", advice=f"open it with scipy.io.loadmat; {_ARRAYS}")),
    (b"MATLAB 7.3", Format("a MATLAB file (HDF5)", advice=f"open it with h5py; {_ARRAYS}")),
    (b"\x93NUMPY", Format("one NumPy array (.npy)", advice="it has no labels; np.savez('data.npz', x=..., y=...) has")),
    (b"PK\x03\x04", Format("a zip archive", advice=_UNPACK)),
    (b"PK\x05\x06", Format("an empty zip archive", advice=_UNPACK)),
    (b"\x1f\x8b", Format("a gzip archive", advice=_UNPACK)),
    (b"BZh", Format("a bzip2 archive", advice=_UNPACK)),
    (b"\xfd7zXZ\0", Format("an xz archive", advice=_UNPACK)),
    (b"(\xb5/\xfd", Format("a zstandard archive", advice=_UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", Format("a 7-Zip archive", advice=_UNPACK)),
    (b"Rar!\x1a\x07", Format("a RAR archive", advice=_UNPACK)),
    (
        b"\x83\xafp\xd1\r\x88J?",
        Format("an ArrayRecord file", advice="is it a data set of ours? array_record:PATH"),
    ),
    (b"PAR1", Format("a Parquet file", advice=f"open it with pandas or pyarrow; {_ARRAYS}")),
    (b"ARROW1", Format("an Arrow file", advice=f"open it with pyarrow; {_ARRAYS}")),
    (b"SQLite format 3\0", Format("an SQLite database", advice=_ARRAYS)),
    (b"fLaC", Format("sound (FLAC)")),
    (b"OggS", Format("sound (Ogg)")),
    (b"ID3", Format("sound (MP3)")),
    (b"\x1aE\xdf\xa3", Format("a video (Matroska)", advice="save its frames as images")),
    (b"\0\0\x01\xba", Format("a video (MPEG)", advice="save its frames as images")),
    (b"\x7fELF", Format("a program")),
)

_RIFF = {
    b"WEBP": _image("a WebP image"),
    b"WAVE": Format("sound (WAV)", advice="only images are read: save spectrograms as images or in an .npz"),
    b"AVI ": Format("a video (AVI)", advice="save its frames as images"),
}
_FTYP = {
    b"avif": _image("an AVIF image"),
    b"avis": _image("an AVIF image"),
    **dict.fromkeys((b"heic", b"heix", b"mif1", b"msf1", b"hevc"), Format("a HEIC image", advice=_CONVERT)),
}
_PICKLE = Format("a Python pickle", advice=f"it is not opened here, for a pickle may run code; {_ARRAYS}")
_TAR = Format("a tar archive", advice=_UNPACK)
_VIDEO = Format("a video (MP4)", advice="save its frames as images")
_TEXT = Format("text")
_PORTABLE = _image("a portable anymap (PNM) image")

_IMAGE_SUFFIXES = """
jpg jpeg jpe jfif jif png apng bmp dib webp tif tiff gif jp2 j2k j2c jpf jpx avif pbm pgm ppm pnm pam ras sr
"""
SUFFIXES = frozenset(f".{suffix}" for suffix in _IMAGE_SUFFIXES.split())
"""Suffixes of files that are assumed to be images without checking; others are noticed when decoded."""
READABLE = "JPEG, PNG, GIF, BMP, TIFF, WebP, AVIF, JPEG 2000, PNM or Sun raster"
"""The supported formats, for messages."""


def identify(head: bytes) -> Format | None:
    r"""Return the format of a file from its first bytes; None if unknown.

    Args:
        head: its first :data:`HEAD_BYTES`, or all of it.

    >>> identify(b"GIF89a").name, identify(b"RIFF\0\0\0\0WAVE").name, identify(b"1,2,3\n").name
    ('a GIF image', 'sound (WAV)', 'text')
    """
    for start, found in _STARTS:
        if head.startswith(start):
            return found
    if head[:4] == b"RIFF" and head[8:12] in _RIFF:
        return _RIFF[head[8:12]]
    if head[4:8] == b"ftyp":
        return _FTYP.get(head[8:12], _VIDEO)
    if re.match(rb"P[1-6][\s#]", head) or head.startswith(b"P7\n"):
        return _PORTABLE
    if re.match(rb"P[fF]\s", head):
        return Format("a float map (PFM) image", advice="its values have no fixed scale: " + _CONVERT)
    if head[:2] == b"BM" and len(head) >= 18 and struct.unpack("<I", head[14:18])[0] in (12, 40, 52, 56, 64, 108, 124):
        return _image("a BMP image")
    if head[257:262] == b"ustar":
        return _TAR
    if head[128:132] == b"DICM":
        return Format("a DICOM file", advice=f"open it with pydicom, and {_CONVERT}")
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return _PICKLE
    return _text(head)


def _text(head: bytes) -> Format | None:
    if not head or b"\0" in head:
        return None
    try:
        text = head[:HEAD_BYTES].decode("utf-8", errors="strict")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # more than a character cut at the end
            return None
        text = head[: error.start].decode()
    if any(not (c.isprintable() or c.isspace()) for c in text):
        return None
    start = text.lstrip("\ufeff \r\n\t").lower()
    if "<svg" in start:
        return Format("an SVG drawing", advice=_CONVERT)
    if start.startswith(("<!doctype html", "<html")):
        return Format("a web page (HTML)", advice="a download that failed often leaves one: fetch it again")
    if start.startswith("version https://git-lfs"):
        return Format("a Git LFS pointer", advice="the file itself was not downloaded: git lfs pull")
    if start.startswith("<?xml"):
        return Format("text (XML)")
    return _TEXT
