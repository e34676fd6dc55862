"""Answers in a given structure: tags, a regular expression, XML, YAML.

The parsers have limits: RE2 takes linear time; XML with a document type (which entities need), YAML
with aliases, and nesting beyond `MOST_DEPTH` are refused.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar
from xml.parsers import expat

import re2
import yaml

from grpo_envs.errors import ConfigError, require
from grpo_envs.graders.format.base import MOST_DEPTH, Constraint, need_text, need_texts

_NAME = re.compile(r"[A-Za-z_][\w.-]{0,99}", re.ASCII)
_HAS = r"It has no lookaround, no backreferences, and of \p only categories (\p{L}) and scripts."
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tags(Constraint):
    """These tags in this order, each exactly once and not empty, with nothing outside."""

    name: ClassVar[str] = "tags"
    tags: tuple[str, ...]

    def _require(self) -> None:
        need_names(self.name, "tags", self.tags)
        require(len({*self.tags}) == len(self.tags), "tags.tags", list(self.tags), "each tag once")

    def _said(self) -> str:
        shape = "".join(f"<{tag}>...</{tag}>" for tag in self.tags)
        return f"write {shape} and nothing outside of the tags"

    def _measure(self, text: str) -> float:
        pieces = re.split("(</?(?:" + "|".join(map(re.escape, self.tags)) + ")>)", text)
        wanted = [part for tag in self.tags for part in (f"<{tag}>", f"</{tag}>")]
        outside, inside = pieces[::4], pieces[2::4]
        return (
            pieces[1::2] == wanted and not "".join(outside).strip() and all(map(str.strip, inside))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Regex(Constraint):
    """The whole text, without surrounding blanks, matches a regular expression of RE2."""

    name: ClassVar[str] = "regex"
    pattern: str
    example: str = ""
    """A matching text, for environments that show a solution."""

    def _require(self) -> None:
        need_text(self.name, "pattern", self.pattern)
        compiled("regex.pattern", self.pattern)
        if self.example:
            need_text(self.name, "example", self.example)
            right = self.check(self.example) == 1
            require(right, "regex.example", repr(self.example)[:80], "what the pattern matches")

    def _said(self) -> str:
        return f"write a text that matches the regular expression {self.pattern}"

    def _measure(self, text: str) -> float:
        return matches(compiled("regex.pattern", self.pattern).fullmatch, text.strip())


@lru_cache(maxsize=256)
def compiled(key: str, pattern: str) -> Any:
    """Return a pattern for RE2, which matches in linear time.

    Raises:
        ConfigError: RE2 does not support the pattern, such as backreferences or lookaround.
    """
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError) as error:
        why = error.args[0].decode() if isinstance(error.args[0], bytes) else error
        message = f"{key}={pattern[:80]!r} is not a pattern of RE2: {why}. {_HAS}"
        raise ConfigError(message) from error


def matches(match: Any, text: str) -> bool:
    """Return whether a matching function of RE2 finds a match; text that is not UTF-8 has none."""
    try:
        return match(text) is not None
    except UnicodeEncodeError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Xml(Constraint):
    """Well-formed XML without a document type, with the root `root` and all of `elements`."""

    name: ClassVar[str] = "xml"
    root: str = ""
    elements: tuple[str, ...] = ()

    def _require(self) -> None:
        if self.root:
            need_names(self.name, "root", (self.root,))
        if self.elements:
            need_names(self.name, "elements", self.elements)

    def _said(self) -> str:
        root = f" with the root element {self.root}" if self.root else ""
        inner = f" and in it the elements {', '.join(self.elements)}" if self.elements else ""
        return f"write well-formed XML{root}{inner}"

    def _measure(self, text: str) -> float:
        try:
            root, inner = _elements_of(text)
        except (expat.ExpatError, ValueError):
            return 0.0
        return (not self.root or root == self.root) and {*self.elements} <= inner


def _elements_of(text: str) -> tuple[str, set[str]]:
    """Return the name of the root and of all other elements.

    Raises:
        ExpatError: the text is not well-formed.
        ValueError: the text declares a document type, is nested too deeply, or is not UTF-8.
    """
    names: list[str] = []
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        names.append(name)
        if depth > MOST_DEPTH:
            raise ValueError("nested too deeply")

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1

    def refuse(*declared: object) -> None:
        raise ValueError("a document type")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = refuse
    parser.Parse(text.strip(), True)
    return names[0], {*names[1:]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Yaml(Constraint):
    """One YAML document that is a mapping with these keys; without keys, a mapping or a list."""

    name: ClassVar[str] = "yaml"
    keys: tuple[str, ...] = ()

    def _require(self) -> None:
        if self.keys:
            need_texts(self.name, "keys", self.keys)

    def _said(self) -> str:
        if not self.keys:
            return "write a YAML document that is a mapping or a list"
        return f"write a YAML mapping with the keys {', '.join(self.keys)}"

    def _measure(self, text: str) -> float:
        try:
            node = _yaml_node(text)
        except (yaml.YAMLError, ValueError):
            return 0.0
        if not isinstance(node, yaml.MappingNode):
            return isinstance(node, yaml.SequenceNode) and not self.keys
        return {*self.keys} <= {_key(key) for key, _ in node.value}


def _yaml_node(text: str) -> yaml.Node | None:
    """Return the root node of the document, without constructing values.

    Raises:
        YAMLError: the text is not YAML, or not one document.
        ValueError: it has an alias or a repeated key, is nested too deeply, or is not UTF-8.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH or type(event) is yaml.AliasEvent:
            raise ValueError("an alias, or nested too deeply")
    root = yaml.compose(text, Loader=_LOADER)
    waiting = [root] if root is not None else []
    while waiting:
        node = waiting.pop()
        if isinstance(node, yaml.MappingNode):
            keys = [_key(key) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if len({*keys}) < len(keys):
                raise ValueError("a key stands there twice")
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
    return root


def _key(node: yaml.Node) -> str:
    return node.value if isinstance(node, yaml.ScalarNode) else ""


def need_names(name: str, option: str, values: Any) -> None:
    """Require an option to be a list of names of tags."""
    need_texts(name, option, values)
    for value in values:
        require(_NAME.fullmatch(value) is not None, f"{name}.{option}", repr(value)[:80], "names")


KINDS = (Tags, Regex, Xml, Yaml)
