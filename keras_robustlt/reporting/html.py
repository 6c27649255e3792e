"""HTML of elements that escape what is in them."""

import base64
import html
import io

import numpy as np

__all__ = ["Markup", "element", "image", "table"]

VOID = {"img", "meta"}


class Markup(str):
    """Text that is HTML already; all other text is escaped."""


def element(name, *content, **attributes):
    """An HTML or SVG element.

    Args:
        name: String.
        *content: Strings, numbers and elements, or lists of these; `None` for nothing.
        **attributes: Their names with `_` for `-`, and one at the end where the name
            is a word of Python. `None` leaves an attribute out.

    Returns:
        `Markup`.

    So `element("p", "1 < 2", class_="note")` is `<p class="note">1 &lt; 2</p>`.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    opening = f"<{name}{given}>"
    return Markup(opening if name in VOID else f"{opening}{_inner(content)}</{name}>")


def _inner(content):
    if isinstance(content, Markup):
        return content
    if isinstance(content, (list, tuple)):
        return "".join(map(_inner, content))
    return "" if content is None else html.escape(str(content))


def table(head, rows, caption=None, class_=None):
    """A table; the first cell of each row is the row's header.

    Args:
        head: List of the cells of the first row.
        rows: List of lists of cells.
        caption: String, for those who do not see the heading. Defaults to `None`.
        class_: String. Defaults to `None`.
    """
    head = [element("th", cell, scope="col") for cell in head]
    rows = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            [element("td", cell) for cell in row[1:]],
        )
        for row in rows
    ]
    return element(
        "table",
        caption and element("caption", caption),
        element("thead", element("tr", head)),
        element("tbody", rows),
        class_=class_,
    )


def image(pixels, alt, class_=None):
    """An image that is part of the page.

    Args:
        pixels: Float array of shape `(height, width, channels)` with values in
            `[0, 1]`; of 3 channels the colours, of 4 the opacity too, of any other
            number their mean is shown.
        alt: String: what it shows.
        class_: String. Defaults to `None`.
    """
    from PIL import Image

    if pixels.shape[-1] not in (3, 4):
        pixels = pixels.mean(axis=-1)
    pixels = (255 * np.clip(pixels, 0, 1)).round().astype("uint8")
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", optimize=True)
    data = base64.b64encode(content.getvalue()).decode()
    height, width = pixels.shape[:2]
    return element(
        "img",
        src=f"data:image/png;base64,{data}",
        alt=alt,
        class_=class_,
        width=width,
        height=height,
    )
