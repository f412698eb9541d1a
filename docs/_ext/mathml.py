"""Mathematics as MathML, made when the site is built: no script, no network, the reader's colours and fonts."""

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

logger = logging.getLogger(__name__)


def as_mathml(node: nodes.Element, display: str) -> str:
    """Of a formula in TeX; what is not understood is a warning, which fails the build."""
    text = node.astext()
    try:
        return convert(text, display=display)
    except Exception as error:
        logger.warning("not converted to MathML (%r): %s", error, text, location=node)
        return f"<code>{text}</code>"


def visit_math(self, node: nodes.math) -> None:
    """In a line."""
    self.body.append(as_mathml(node, "inline"))
    raise nodes.SkipNode


def visit_displayed(self, node: nodes.math_block) -> None:
    """In a block of its own, which a narrow screen scrolls by itself."""
    self.body.append(self.starttag(node, "div", CLASS="formula"))
    self.body.append(as_mathml(node, "block") + "</div>\n")
    raise nodes.SkipNode


def setup(app):
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displayed, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
