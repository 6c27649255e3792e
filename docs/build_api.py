"""Writes docs/api.md, the API reference, from the docstrings of the public names.

    python docs/build_api.py           # writes docs/api.md
    python docs/build_api.py --check   # exits with 1 if docs/api.md is not up to date

What is public is said in one place, `__all__`: a module that the package's `__all__`
names becomes a section, and so do the package's own classes and functions. Signatures
are read from the source, so that a default stands here as its author wrote it
(`8 / 255`, not `0.03137254901960784`).
"""

import argparse
import ast
import inspect
import re
import sys
import textwrap
import types
from pathlib import Path

import keras_robustlt

PACKAGE = keras_robustlt.__name__
TARGET = Path(__file__).with_name("api.md")
LINE_LENGTH = 80

# Sections of a docstring whose entries are `name: text`, `condition: text` and so on.
LISTS = {"Args", "Attributes", "Call arguments", "Raises"}
PROSE = {"Returns", "Yields", "Note", "Notes", "Reference", "References"}
EXAMPLES = {"Example", "Examples"}
# What every object that can be saved has, said where a class says more of it.
PLUMBING = {"from_config", "get_config"}


def build():
    """Returns the whole reference as Markdown."""
    sections = []
    own_names, modules = [], []
    for name in keras_robustlt.__all__:
        value = getattr(keras_robustlt, name)
        if isinstance(value, types.ModuleType):
            modules.append(name)
        elif callable(value):
            own_names.append(name)
    if own_names:
        sections.append((PACKAGE, keras_robustlt, sorted(own_names, key=str.lower)))
    for name in sorted(modules):
        module = getattr(keras_robustlt, name)
        if not hasattr(module, "__all__"):
            raise SystemExit(
                f"{PACKAGE}.{name} is public and has no `__all__`; add it."
            )
        members = [n for n in module.__all__ if callable(getattr(module, n))]
        sections.append((f"{PACKAGE}.{name}", module, sorted(members, key=str.lower)))

    lines = [
        "# API reference",
        "",
        "Written by `docs/build_api.py` from the docstrings; `make docs` renews it.",
        f"The examples take `import {PACKAGE} as krl`, `import keras` and",
        "`import numpy as np` as given, and where they use a `network`, a `model`,",
        "data `train` or images `x` with labels `y` without making them, those too.",
        "",
    ]
    for title, _, members in sections:
        lines.append(f"- [`{title}`](#{anchor(title)})")
        for member in members:
            full_name = f"{title}.{member}"
            lines.append(f"  - [`{member}`](#{anchor(full_name)})")
    titles = {
        getattr(module, member): f"{title}.{member}"
        for title, module, members in sections
        for member in members
    }
    for title, module, members in sections:
        lines += ["", f"## `{title}`"]
        # The package's docstring is the README's first screen; it is not said twice.
        if module is not keras_robustlt:
            lines += ["", render_docstring(documentation_of(module, title))]
        for member in members:
            value = getattr(module, member)
            lines += ["", *render_member(f"{title}.{member}", value, titles)]
    return "\n".join(lines).rstrip() + "\n"


def anchor(title):
    """Returns the anchor that GitHub gives to the heading `title`."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def documentation_of(value, name):
    """Returns the docstring of `value` itself: one that it inherits is not its own."""
    text = value.__doc__
    if not text:
        raise SystemExit(f"{name} is public and has no docstring; write one.")
    return inspect.cleandoc(text)


def render_member(name, value, titles):
    """Returns the lines for one public class or function."""
    lines = [f"### `{name}`", "", *render_signature(name, value), ""]
    lines.append(render_docstring(documentation_of(value, name)))
    if not inspect.isclass(value):
        return lines
    members = members_of(value, titles)
    for method_name, method in sorted(members.items()):
        title = f"{name.rsplit('.', 1)[1]}.{method_name}"
        if isinstance(method, property):
            signature = []
        else:
            signature = [*render_signature(title, getattr(value, method_name)), ""]
        lines += ["", f"#### `{title}`", "", *signature]
        lines.append(render_docstring(inspect.cleandoc(method.__doc__)))
    overridden = set(vars(value))
    for base in value.__mro__[1:]:
        inherited = sorted(members_of(base, titles).keys() - overridden)
        overridden |= vars(base).keys()
        if base in titles and inherited:
            listed = ", ".join(f"`{member}`" for member in inherited)
            link = f"[`{titles[base]}`](#{anchor(titles[base])})"
            lines += ["", f"Inherited from {link}: {listed}."]
    return lines


def members_of(cls, titles):
    """Returns the public methods and properties of `cls` that have a docstring.

    Those of the package's own classes that it derives from are among them, unless these
    have an entry of their own. A method that overrides one of Keras's and does what
    Keras says of it has no docstring, and needs no entry.
    """
    members = {}
    for base in reversed(cls.__mro__):
        is_own = base.__module__.startswith(PACKAGE) and base not in titles
        if base is not cls and not is_own:
            continue
        for name, member in vars(base).items():
            is_public = not name.startswith("_") or name == "__call__"
            kinds = (types.FunctionType, classmethod, staticmethod, property)
            has_text = isinstance(member, kinds) and member.__doc__
            if base is not cls and name in PLUMBING or not is_public:
                continue
            members.pop(name, None)
            if has_text:
                members[name] = member
    return members


def render_signature(name, value):
    """Returns a fenced block with the call of `value`, a parameter a line if long."""
    parameters = parameters_of(value)
    line = f"{name}({', '.join(parameters)})"
    if len(line) > LINE_LENGTH:
        body = "".join(f"    {parameter},\n" for parameter in parameters)
        line = f"{name}(\n{body})"
    return ["```python", line, "```"]


def parameters_of(value):
    """Returns the parameters of a class or function as text, `self` left out."""
    function = value.__init__ if inspect.isclass(value) else value
    function = inspect.unwrap(getattr(function, "__func__", function))
    try:
        source = textwrap.dedent(inspect.getsource(function))
        arguments = ast.parse(source).body[0].args
    except (OSError, TypeError):
        # Generated code, such as the `__init__` of a dataclass, has no source.
        parameters = inspect.signature(value).parameters.values()
        return [str(p.replace(annotation=inspect.Parameter.empty)) for p in parameters]
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults))
    defaults += arguments.defaults
    pairs = [
        *zip(positional, defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    parts = [render_parameter(source, *pair) for pair in pairs]
    keyword_only = parts[len(positional) :]
    parts = parts[: len(positional)]
    if parts and parts[0] in ("self", "cls"):
        del parts[0]
    if arguments.vararg:
        parts.append(f"*{arguments.vararg.arg}")
    elif arguments.kwonlyargs:
        parts.append("*")
    parts += keyword_only
    if arguments.kwarg:
        parts.append(f"**{arguments.kwarg.arg}")
    return parts


def render_parameter(source, argument, default):
    if default is None:
        return argument.arg
    # On one line, whatever its layout in the source.
    text = " ".join(ast.get_source_segment(source, default).split())
    return f"{argument.arg}={text}"


def render_docstring(text):
    """Returns a docstring in Keras's form as Markdown."""
    blocks, title, body = [], None, []
    headings = LISTS | PROSE | EXAMPLES
    fenced = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        heading = line.removesuffix(":") if line.endswith(":") else None
        if heading in headings and not fenced:
            blocks.append((title, body))
            title, body = heading, []
        elif (
            title
            and line
            and not line.startswith(" ")
            and not fenced
            and (title not in EXAMPLES)
        ):
            # Text at the margin again: the section has ended.
            blocks.append((title, body))
            title, body = None, [line]
        else:
            body.append(line)
    blocks.append((title, body))
    rendered = [render_block(title, "\n".join(body)) for title, body in blocks]
    return "\n\n".join(block for block in rendered if block)


def render_block(title, body):
    body = textwrap.dedent(body).strip("\n")
    if title is None or not body:
        return body
    if title in LISTS:
        body = render_list(body)
    elif title in EXAMPLES and "```" not in body:
        language = "pycon" if body.startswith(">>>") else "python"
        body = f"```{language}\n{body}\n```"
    return f"**{title}**\n\n{body}"


def render_list(body):
    """Returns `name: text` entries, each with its indented lines, as a list."""
    items = []
    for line in body.splitlines():
        entry = re.match(r"(\*{0,2}\w[\w.]*(?:, \*{0,2}\w[\w.]*)*): *(.*)", line)
        if entry:
            names = ", ".join(f"`{name}`" for name in entry[1].split(", "))
            items.append(f"- {names}: {entry[2]}".rstrip())
        elif line.strip():
            items.append("  " + line[4:] if line.startswith("    ") else "  " + line)
        else:
            items.append("")
    return "\n".join(items)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="compare with the file, write nothing"
    )
    check = parser.parse_args().check
    text = build()
    if not check:
        TARGET.write_text(text, encoding="utf-8")
        print(f"Wrote {TARGET} ({len(text.splitlines())} lines).")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
        sys.exit(f"{TARGET} is not up to date: run `make docs` and commit the file.")


if __name__ == "__main__":
    main()
