"""The documentation site: `sphinx-build -W -c docs . site` builds it from these pages.

The source folder is the repository, so that a link between pages is the same on the site and in a
file browser; a link to a file that is no page gives that file. The sections and links of
docs/README.md are the table of contents.
"""

import re
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util.nodes import make_refnode

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "grpo-envs"
copyright = "the grpo-envs authors"
version = release = version_of("grpo-envs")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "docs/README"
include_patterns = ["*.md", "docs/*.md", "docs/*.png", "agents/README.md", "envs/README.md"]
highlight_language = "none"  # what commands print is not Python
html_theme = "furo"
html_math_renderer = "mathml"  # what browsers draw themselves: no script, no network
html_title = "grpo-envs"
default_role = "code"  # docstrings write `names` as Markdown does
autodoc_member_order = "bysource"
autodoc_typehints = "description"
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4

nitpicky = True
nitpick_ignore_regex = [
    # Types of annotations: those of other packages, and ours that are no part of the API.
    ("py:.*", r"(accelerate|collections|contextlib|datasets|fractions|gymnasium|logging)\..*"),
    ("py:.*", r"(numpy|pathlib|random|torch|transformers|typing|grpo_\w+)\..*"),
    (
        "py:.*",
        r"Accelerator|Path|PreTrained\w+|GrpoConfig|PolicyGradientConfig|RunConfig|Shots|Unreadable",
    ),
]
suppress_warnings = ["ref.python"]  # a short name in an annotation that two modules have


def add_contents(app: "Sphinx", page: str, source: list[str]) -> None:
    """Append a hidden table of contents to the index: its sections, and the links of its rows."""
    if page != root_doc:
        return
    for section in re.split(r"^## ", source[0], flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        rows = re.findall(r"^\| \[([^\]]+)\]\(([\w./]+)\.md\)", body, flags=re.MULTILINE)
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n"
        source[0] += "\n".join(f"{name} <{target}>" for name, target in rows) + "\n```\n"


def keep_first_line(app: "Sphinx", what: str, name: str, *rest: Any) -> None:
    """Keep Napoleon from taking what stands before a colon of an attribute's text as its type."""
    lines: list[str] = rest[-1]
    if what in ("attribute", "data", "property") and lines:
        lines[:0] = ["..", ""]


def resolve_short_name(app: "Sphinx", env: Any, node: Any, content: Any) -> nodes.reference | None:
    """Resolve a class that a docstring or an annotation names without its module."""
    if node.get("refdomain") != "py":
        return None
    objects = env.get_domain("py").objects
    ends = [name for name in objects if name.endswith("." + node["reftarget"].rpartition(".")[2])]
    if len(ends) != 1:
        return None
    found = objects[ends[0]]
    return make_refnode(app.builder, node["refdoc"], found.docname, found.node_id, content)


def write_math(writer: Any, node: nodes.math | nodes.math_block) -> None:
    """Write an equation as MathML; below and above a displayed one is room, or it would scroll."""
    block = isinstance(node, nodes.math_block)
    equation = convert(node.astext(), display="block" if block else "inline")
    room = '<div style="padding: .6em 0">{}</div>'
    writer.body.append(room.format(equation) if block else equation)
    raise nodes.SkipNode


def setup(app: "Sphinx") -> None:
    """Connect the functions above."""
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", keep_first_line, priority=100)
    app.connect("missing-reference", resolve_short_name)
