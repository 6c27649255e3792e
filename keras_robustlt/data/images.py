"""Image files: which there are, and how each becomes an array.

Every format that Pillow reads by itself is read, as 8 bits a channel, grey or RGB. An
image stands as its EXIF tag says, transparent places are white, 16 bits are scaled to
8, and of several frames the first is taken.
"""

import collections
import contextlib
import functools
import hashlib
import math
import warnings

import numpy as np

from keras_robustlt.data.arguments import is_whole
from keras_robustlt.data.arrays import check_memory
from keras_robustlt.data.findings import ERROR, NOTE, WARNING

COLOR_MODES = ("auto", "grayscale", "rgb")
# Formats that start other programs to be read, or that Pillow only recognises.
UNREAD_FORMATS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
GRAY_MODES = ("1", "L", "LA", "La")
ORIENTATION = 0x0112  # The EXIF tag.
# The largest value of 12 bits, as scanners and microscopes store them in 16.
TWELVE_BITS = 4095

SMALLER = "Pass a smaller `image_size`."

Header = collections.namedtuple("Header", "mode size format frames upright transparent")


@functools.cache
def formats():
    """The formats that are read, as Pillow names them."""
    from PIL import Image

    Image.init()
    return tuple(name for name in Image.ID if name not in UNREAD_FORMATS)


@functools.cache
def suffixes():
    """The suffixes of the formats that are read."""
    from PIL import Image

    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, name in known if name in formats())


def is_image(file):
    """Whether Pillow knows the content of `file` as an image."""
    from PIL import Image

    with _quiet(), contextlib.suppress(Exception):
        with Image.open(file, formats=formats()):
            return True
    return False


class ImageFiles:
    """The images in a list of files, read in two passes.

    Args:
        files: List of paths.
        check: `DataCheck`, to note what is noteworthy.
        image_size: Integer, `(height, width)` or `None`.
        color_mode: `"auto"`, `"grayscale"` or `"rgb"`.

    Attributes:
        digests: List of bytes, equal for images of equal pixels; `None` for a file
            that cannot be read.
    """

    def __init__(self, files, check, image_size=None, color_mode="auto"):
        self.files = files
        self.size = None
        if image_size is not None:
            self.size = height_and_width(image_size)
        self.bad = {}
        self.brightest_of_16_bits = []
        with _quiet():
            self.headers = [self._attempt(_header, file) for file in files]
        self._note(check)
        headers = [header for header in self.headers if header]
        if self.size is None and headers:
            self.size = headers[0].size
        gray = all(_is_gray(header.mode) for header in headers)
        self.gray = color_mode == "grayscale" or (color_mode == "auto" and gray)
        self.digests = [None] * len(files)

    def _attempt(self, function, file, *arguments):
        """`function(file, ...)`; `None` if the file is bad, and why is kept."""
        if file in self.bad:
            return None
        try:
            return function(file, *arguments)
        except Exception as error:
            # Pillow's decoders raise nearly anything.
            reason = str(error).replace(repr(str(file)), "").strip()
            self.bad[file] = reason or repr(error)
            return None

    def _note(self, check):
        """Notes what the headers say."""
        pairs = zip(self.files, self.headers, strict=True)
        known = [(file, header) for file, header in pairs if header]

        def chosen(condition):
            return [file for file, header in known if condition(header)]

        sizes = collections.Counter(header.size for _, header in known)
        if len(sizes) > 1:
            common = sizes.most_common(1)[0][0]
            check.add(
                NOTE if self.size else ERROR,
                "other size",
                f"Images have {len(sizes)} sizes (height x width), most of them "
                f"{_shown(common)}. "
                + (
                    f"All are resized to {_shown(self.size)}."
                    if self.size
                    else "Pass `image_size` to resize them to one size."
                ),
                [
                    f"{file}: {_shown(header.size)}"
                    for file, header in known
                    if header.size != common
                ],
            )
        modes = collections.Counter(header.mode for _, header in known)
        if len(modes) > 1:
            common = modes.most_common(1)[0][0]
            shown = ", ".join(f"{mode} ({n})" for mode, n in modes.most_common())
            check.add(
                NOTE,
                "other mode",
                f"Images have several of Pillow's modes: {shown}. With "
                "`color_mode='auto'` all become RGB, unless all are grey.",
                chosen(lambda header: header.mode != common),
            )
        for kind, message, files in (
            (
                "rotated",
                "Images that an EXIF tag turns or mirrors; they are turned upright.",
                chosen(lambda header: not header.upright),
            ),
            (
                "transparent",
                "Images with transparency; they are laid on white.",
                chosen(lambda header: header.transparent),
            ),
            (
                "16 bits",
                "Images of 16 bits a channel; they are scaled to 8, 65535 to 255.",
                chosen(lambda header: _is_deep(header)),
            ),
            (
                "animation",
                "Images of several frames; the first is read.",
                chosen(lambda h: h.frames > 1 and h.format not in ("TIFF", "MPO")),
            ),
        ):
            if files:
                check.add(NOTE, kind, message, files)
        stacks = chosen(lambda h: h.frames > 1 and h.format == "TIFF")
        if stacks:
            check.add(
                WARNING,
                "several pages",
                f"{len(stacks)} TIFF files have several pages, and only the first "
                "is read. Save the pages as files if they are images of the class.",
                stacks,
            )

    def read(self, check, on_bad):
        """All images, one array.

        Returns:
            A uint8 array of shape `(num_files, height, width, channels)`; what it has
            for files that cannot be read means nothing.
        """
        self.check_memory()
        out = np.zeros(self.shape, np.uint8)
        size = self.shape[1:3]
        for i, pixels in enumerate(self._decoded()):
            if pixels is not None:
                out[i] = resize(pixels[None], *size)[0]
        self._note_pixels(check, on_bad)
        return out

    @property
    def shape(self):
        """That of the array that `read` makes."""
        return (len(self.files), *(self.size or (1, 1)), 1 if self.gray else 3)

    def check_memory(self):
        """Raises if the memory of this machine cannot hold that array."""
        check_memory(math.prod(self.shape), SMALLER)

    def inspect(self, check, on_bad):
        """Decodes all images as `read` does, and keeps only their digests."""
        for _ in self._decoded():
            pass
        self._note_pixels(check, on_bad)

    def _decoded(self):
        with _quiet():
            for i, file in enumerate(self.files):
                pixels = self._attempt(self._decode, file)
                if pixels is not None:
                    content = repr(pixels.shape).encode() + pixels.tobytes()
                    self.digests[i] = hashlib.blake2b(content, digest_size=16).digest()
                yield pixels

    def _note_pixels(self, check, on_bad):
        brightest = self.brightest_of_16_bits
        if brightest and 0 < max(brightest) <= TWELVE_BITS:
            check.add(
                WARNING,
                "dark 16 bits",
                f"No pixel of the {len(brightest)} images of 16 bits is above "
                f"{max(brightest)} of 65535, so that all come out dark. If they hold "
                "fewer bits, scale them to 8 bits before.",
                count=len(brightest),
            )
        if not self.bad:
            return
        many = f"{len(self.bad)} of {len(self.files)} files"
        if on_bad == "skip":
            message = f"{many} cannot be read as images and are left out."
        else:
            message = (
                f"{many} cannot be read as images. Replace or remove them, or pass "
                "on_bad='skip' to leave them out."
            )
        check.add(
            WARNING if on_bad == "skip" else ERROR,
            "unreadable",
            message,
            [f"{file}: {reason}" for file, reason in self.bad.items()],
        )

    def _decode(self, file):
        from PIL import Image

        with Image.open(file, formats=formats()) as image:
            deep = _is_deep(image)
            image.load()
            image = _upright(image)
            if deep:
                image = self._scaled_to_8_bits(image)
            elif _is_transparent(image):
                opaque = image.convert("RGBA")
                white = Image.new("RGBA", opaque.size, "white")
                image = Image.alpha_composite(white, opaque).convert("RGB")
            image = image.convert("L" if self.gray else "RGB")
            return np.asarray(image).reshape(*image.size[::-1], 1 if self.gray else 3)

    def _scaled_to_8_bits(self, image):
        from PIL import Image

        levels = np.asarray(image).astype(np.int64)
        self.brightest_of_16_bits.append(int(levels.max()))
        return Image.fromarray(np.round(levels / 257).astype(np.uint8))


@contextlib.contextmanager
def _quiet():
    """Without Pillow's warnings about single files: they are notes of the check."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _header(file):
    from PIL import Image

    if file.stat().st_size == 0:
        raise ValueError("it is empty")
    with Image.open(file, formats=formats()) as image:
        header = _header_of(image)
    if header.mode[0] in "IF" and not _is_deep(header):
        raise ValueError(
            f"it has more than 16 bits a channel (Pillow mode {header.mode}), which "
            "has no one meaning in 8 bits"
        )
    return header


def _header_of(image):
    orientation = _orientation(image)
    if orientation >= 5 and image.format == "TIFF":
        image.load()  # Turns it, and only then the size is sure.
        width, height = image.size
    elif orientation >= 5:
        height, width = image.size
    else:
        width, height = image.size
    return Header(
        mode=image.mode,
        size=(height, width),
        format=image.format,
        frames=getattr(image, "n_frames", 1),
        upright=orientation == 1,
        transparent=_is_transparent(image),
    )


def _orientation(image):
    """What the EXIF tag says, from 1 (upright) to 8; 1 without a proper tag."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:
        return 1  # A damaged tag says nothing.
    return value if value in range(1, 9) else 1


def _upright(image):
    from PIL import Image

    turn = Image.Transpose
    turns = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }
    orientation = _orientation(image)
    return image.transpose(turns[orientation]) if orientation in turns else image


def _is_transparent(image):
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or (
        "transparency" in image.info
    )


def _shown(size):
    return f"{size[0]}x{size[1]}"


def _is_gray(mode):
    return mode in GRAY_MODES or mode[0] == "I"


def _is_deep(image):
    """Whether it has 16 bits; Pillow may widen those of PNG and PGM to 32."""
    return image.mode.startswith("I;16") or (
        image.mode == "I" and image.format in ("PNG", "PPM")
    )


def height_and_width(image_size):
    """An image size as `(height, width)`, or a `ValueError`."""
    size = np.atleast_1d(np.asarray(image_size, object)).tolist()
    if len(size) == 1:
        size *= 2
    if len(size) != 2 or not all(is_whole(s) and s < 2**31 for s in size):
        raise ValueError(
            "`image_size` must be a positive integer or (height, width). "
            f"Received: image_size={image_size!r}"
        )
    return int(size[0]), int(size[1])


def resize(images, height, width):
    """Resizes an array of uint8 images."""
    if images.shape[1:3] == (height, width):
        return images
    num_images, *_, num_channels = images.shape
    check_memory(num_images * height * width * num_channels, SMALLER)
    from PIL import Image

    def resized(plane):
        # BILINEAR in Pillow averages when it makes an image smaller.
        image = Image.fromarray(plane)
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))

    # Channel by channel, so that any number of channels will do.
    channels = range(images.shape[-1])
    return np.stack(
        [np.stack([resized(image[..., c]) for c in channels], -1) for image in images]
    )


def with_color_mode(images, color_mode):
    """An array of uint8 images as grey or RGB, if `color_mode` asks for it."""
    channels = images.shape[-1]
    if color_mode == "auto" or channels == (1 if color_mode == "grayscale" else 3):
        return images
    if channels not in (1, 3):
        raise ValueError(
            f"`color_mode='{color_mode}'` needs images of 1 or 3 channels. Received: "
            f"images of {channels}"
        )
    if color_mode == "rgb":
        return np.repeat(images, 3, axis=-1)
    # As Pillow weighs the colours.
    weights = np.array([19595, 38470, 7471], np.uint32)
    return ((images @ weights + 0x8000) >> 16).astype(np.uint8)[..., None]
