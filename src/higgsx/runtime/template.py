"""Chat templates of strangers: Jinja in a sandbox, with limits on time, on text and on what it may build.

Templates find the helpers that transformers gives them: `raise_exception`, `strftime_now`, `tojson`,
`break` and `continue`, and blocks marked `generation`. Every loop, call and join asks how long it has been.
"""

from __future__ import annotations

import datetime
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

from higgsx.errors import TextError

MAX_SOURCE = 1 << 20
MAX_TEXT = 4 << 20
MAX_SECONDS = 2.0
MAX_NUMBER = 1 << 20
"""That a function is given: widths, counts."""
_WIDE = re.compile(r"[0-9]{5}|[{*][^}]*[{*]")
"""Of a format: a width of five digits, or one that comes from somewhere else."""
_LOOP, _JOIN = "higgsx_loop", "higgsx_join"


class _Limit(jinja2.TemplateError):
    pass


def render(template: str, messages: Sequence[Mapping[str, object]], special: Mapping[str, str]) -> str:
    """The conversation, and the beginning of an answer. TextError where the template fails or runs wild."""
    if len(template) > MAX_SOURCE:
        raise TextError("chat template is too long", got=len(template), expected=f"at most {MAX_SOURCE}")
    try:
        compiled = _Sandbox().from_string(template)
        pieces: list[str] = []
        length = 0
        for piece in compiled.generate(
            messages=[dict(message) for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=True,
            **special,
        ):
            length += len(piece)
            if length > MAX_TEXT:
                raise _Limit(f"it writes more than {MAX_TEXT} characters")
            pieces.append(piece)
    except Exception as error:  # a template can fail in as many ways as a program
        got = f"{type(error).__name__}: {str(error)[:200]}"
        raise TextError("chat template fails", got=got) from None
    return "".join(pieces)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what an assistant said; for us it is just text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("*", "**", "+", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
        )
        self._end = time.monotonic() + MAX_SECONDS
        for name, function in list(self.filters.items()):
            self.filters[name] = self._bounded(name, function)
        self.globals.pop("lipsum", None)
        self.filters["tojson"] = _to_json
        self.filters[_LOOP], self.filters[_JOIN] = self._loop, self._join
        self.globals["raise_exception"] = _raise
        self.globals["strftime_now"] = _now

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(jinja2.nodes.For):
            loop.iter = _filtered(loop.iter, _LOOP)
        return _Joins().visit(tree)

    def _loop(self, items: Iterable[object]) -> Sequence[object]:
        # a list keeps what templates ask of loops: its length, the next one, the last one
        return _Ticking(items, self._tick) if isinstance(items, Sequence) else [*self._ticked(items)]

    def _ticked(self, items: Iterable[object]) -> Iterator[object]:
        for item in items:
            self._tick()
            yield item

    def _join(self, parts: Sequence[object]) -> str:
        texts = [str(part) for part in parts]
        self._size(sum(map(len, texts)))
        return "".join(texts)

    def _bounded(self, name: str, function: Any) -> Any:
        """A filter that is not asked for anything large."""

        passed = getattr(function, "jinja_pass_arg", None)

        def bounded(*args: Any, **kwargs: Any) -> Any:
            value, *others = args if passed is None else args[1:]
            self._foresee(name, value, (*others, *kwargs.values()))
            found = function(*args, **kwargs)
            self._size(_length(found))
            return found

        if passed is not None:
            bounded.jinja_pass_arg = passed  # type: ignore[attr-defined]
        return bounded

    def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        # the sandbox wraps `format`
        subject = getattr(getattr(function, "__wrapped__", function), "__self__", None)
        self._foresee(getattr(function, "__name__", ""), subject, (*args, *kwargs.values()))
        found = super().call(context, function, *args, **kwargs)
        self._size(_length(found))
        return found

    def _foresee(self, name: str, subject: Any, args: Sequence[Any]) -> None:
        """Refuse what would build more than is allowed: widths, replaced and joined texts."""
        self._tick()
        numbers = [abs(value) for value in args if isinstance(value, int)]
        if numbers and max(numbers) > MAX_NUMBER:
            raise _Limit("a number is too large")
        texts = [value for value in args if isinstance(value, str)]
        if name in ("format", "format_map") and isinstance(subject, str) and _WIDE.search(subject):
            raise _Limit("a width is too large")
        if name == "replace" and isinstance(subject, str) and len(texts) > 1:
            self._size(len(subject) + subject.count(texts[0]) * len(texts[1]))
        if name == "join":
            for parts, glue in ((subject, texts[0] if texts else ""), (args[0] if args else (), subject)):
                if isinstance(parts, (list, tuple)):
                    self._size(sum(len(str(part)) + _length(glue) for part in parts))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self._tick()
        if operator == "*":
            repeated = (left, right) if isinstance(right, int) else (right, left)
            if isinstance(repeated[0], (str, list, tuple)):
                self._size(len(repeated[0]) * max(int(repeated[1]), 0))
        elif operator == "+":
            self._size(_length(left) + _length(right))
        elif operator == "**" and not (abs(left) < 1 << 16 and abs(right) < 64):
            raise _Limit("a power is too large")
        elif operator == "%" and isinstance(left, str):
            raise _Limit("text is not formatted with %")
        found = super().call_binop(context, operator, left, right)
        if isinstance(found, int) and found.bit_length() > 4096:
            raise _Limit("a number is too large")
        return found

    def _tick(self) -> None:
        if time.monotonic() > self._end:
            raise _Limit(f"it takes longer than {MAX_SECONDS:g} s")

    def _size(self, length: int) -> None:
        self._tick()
        if length > MAX_TEXT:
            raise _Limit(f"it builds more than {MAX_TEXT} characters")


class _Ticking(Sequence[object]):
    """A sequence that says so whenever one of its items is taken."""

    def __init__(self, items: Sequence[object], tick: Any) -> None:
        self._items, self._tick = items, tick

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        self._tick()
        return self._items[index]


class _Joins(jinja2.visitor.NodeTransformer):
    """`a ~ b` → a join that knows its limits."""

    def visit_Concat(self, node: Any) -> Any:  # noqa: N802
        self.generic_visit(node)
        return _filtered(jinja2.nodes.List(node.nodes, lineno=node.lineno), _JOIN)


def _filtered(node: Any, name: str) -> Any:
    return jinja2.nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _length(value: object) -> int:
    return len(value) if isinstance(value, (str, list, tuple)) else 0


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
