"""The reference: `room` writes an entry for every public name of a module, from its docstring.

A name that `kpoison` itself offers stands under that name (`kpoison.gain`), any other under its room's
(`kpoison.laws.feature_effect`), and only once.  Docstrings are Google's style with Unicode mathematics; names in single
backticks become links where the library has them.
"""

import importlib
import inspect
import re
from functools import cache

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import kpoison

# Those that `kpoison` shows, and those that a function's name hides there or that it does not.
MODULES = [
    *(name for name in kpoison.__all__ if inspect.ismodule(getattr(kpoison, name))),
    "statistics",
    "sweep",
    "tuning",
]


def module(name: str):
    """The room, which a function of the same name may hide."""
    return importlib.import_module(f"kpoison.{name}")


@cache
def entries() -> dict[str, tuple[str, object]]:
    """By the room and the name there, what the entry is called; in the order of rooms."""
    top = {id(getattr(kpoison, name)): name for name in kpoison.__all__ if not inspect.ismodule(getattr(kpoison, name))}
    found, seen = {}, set()
    for room in MODULES:
        for name in module(room).__all__:
            thing = getattr(module(room), name)
            if id(thing) in seen or inspect.ismodule(thing):
                continue
            seen.add(id(thing))
            at_top = id(thing) in top and callable(thing)
            found[f"{room}.{name}"] = (f"kpoison.{top[id(thing)]}" if at_top else f"kpoison.{room}.{name}", thing)
    for identity, name in top.items():
        if identity not in seen and name != "__version__":
            found[f".{name}"] = f"kpoison.{name}", getattr(kpoison, name)
    return found


@cache
def targets() -> dict[str, str]:
    """What docstrings say for it, and the entry."""
    found = {}
    for path, (entry, thing) in entries().items():
        name = path.rpartition(".")[2]
        for short in (entry, f"kpoison.{path}", path, entry.removeprefix("kpoison."), f"kp.{path}", name):
            found.setdefault(short, entry)
        if inspect.isclass(thing):
            for method in vars(thing):
                if not method.startswith("_"):
                    found.setdefault(f"{name}.{method}", f"{entry}.{method}")
    return found


def first_sentence(thing: object) -> str:
    """Of the docstring, in one line."""
    text = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", text)[0].rstrip(":")


class Room(SphinxDirective):
    """`{room} laws`: a list of all names with a sentence each, and an entry for each."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Lines of reStructuredText, parsed."""
        room, lines, listed = self.arguments[0], [], []
        for path, (entry, thing) in entries().items():
            if path.partition(".")[0] != ("" if room == "kpoison" else room):
                continue
            if not callable(thing):
                named = (
                    ", ".join(f"``{part}``" for part in thing) if isinstance(thing, tuple | dict) else f"``{thing}``"
                )
                listed.append(f"* :py:obj:`{entry}`")
                lines += ["", f".. py:data:: {entry}", "", f"   {named}", ""]
                continue
            members = ["   :members:", "   :special-members: __call__"] if inspect.isclass(thing) else []
            if inspect.isclass(thing) and issubclass(thing, Exception):
                members = []
            listed.append(f"* :py:obj:`{entry}` — {escaped(first_sentence(thing))}")
            lines += ["", f".. auto{'class' if inspect.isclass(thing) else 'function'}:: {entry}", *members, ""]
        # Pages are Markdown; what is generated is not.
        content = StringList(["``````{eval-rst}", *listed, "", *lines, "``````"], source=f"kpoison.{room}")
        container = nodes.container()
        container.document = self.state.document
        self.state.nested_parse(content, 0, container)
        return container.children


def escaped(text: str) -> str:
    """As reStructuredText: names in backticks as links or code, all else as it is."""
    parts = re.split(r"(``[^`]+``|`[^`]+`)", text)
    return "".join(
        as_role(part.strip("`")) if part.startswith("`") and len(part) > 1 else plain(part) for part in parts
    )


def as_role(name: str) -> str:
    """A link to what the library has, code otherwise."""
    called = re.sub(r"\(.*\)$", "", name)
    return f":py:obj:`{name} <{targets()[called]}>`\\ " if called in targets() else f"``{name}``\\ "


def plain(text: str) -> str:
    """What would mean something in reStructuredText means itself: stars, bars, and underscores that end a word."""
    text = re.sub(r"(\*\*\S[^*]*\*\*)|([*|])", lambda found: found[1] or "\\" + found[2], text)
    return re.sub(r"(?<=\w)_(?!\w)", r"\\_", text)


def process(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """A docstring before napoleon reads it; blocks of literal text and of doctest stay as they are."""
    literal = None
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if literal is not None and line.strip() and indent <= literal:
            literal = None
        if literal is None and not line.lstrip().startswith(">>>"):
            lines[number] = line[:indent] + escaped(line[indent:])
        if line.rstrip().endswith("::"):
            literal = indent


WIDTHS = r"(?: \| ~?(?:numpy\.)?(?:number|bool|int|float|complex)\b)*"
ARRAY_LIKE = re.compile(
    rf"(~jaxtyping\.\w+)\[jaxlib\._jax\.Array, ('[^']*')\] \| \1\[(?:~?numpy\.)?ndarray, \2\]{WIDTHS}"
)


def shapes(app: Sphinx, what: str, name: str, thing: object, options: object, signature: str, returned: str):
    """Annotations of arrays as they are written, `Float[ArrayLike, 'n d']`, in place of the union behind them."""
    return tuple(text and ARRAY_LIKE.sub(r"\1[ArrayLike, \2]", text) for text in (signature, returned))


def skip(app: Sphinx, what: str, name: str, thing: object, skipped: bool, options: object) -> bool | None:
    """Fields of named tuples: they are among the attributes, with what they are."""
    return True if (getattr(thing, "__doc__", None) or "").startswith("Alias for field number") else None


def short_arrays(app: Sphinx, document: nodes.document) -> None:
    """JAX's own name of an array's type."""
    for text in list(document.findall(nodes.Text)):
        if "jaxlib._jax.Array" in text:
            text.parent.replace(text, nodes.Text(text.replace("jaxlib._jax.Array", "Array")))


def setup(app: Sphinx):
    """Called by Sphinx; before napoleon, which turns sections into fields."""
    app.add_directive("room", Room)
    app.connect("autodoc-process-docstring", process, priority=100)
    app.connect("autodoc-process-signature", shapes)
    app.connect("autodoc-skip-member", skip)
    app.connect("doctree-read", short_arrays)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
