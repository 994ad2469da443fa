"""From measured rows to the tables in docs/results.md and README.md; nothing is typed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anchors
from common import REAL_MODELS, ROOT, SMALL_MODELS, markdown

Row = Mapping[str, Any]
_HEAD = ("plan", "MB", "bits", "KL", "KL 99 %", "top-1 %", "perplexity", "KL by text")
_RESULTS = ROOT / "docs" / "results.md"
_BEGIN, _END = "<!-- speed:begin -->", "<!-- speed:end -->"
_INTRO = """# What is lost at which size

Printed by `benchmarks/fidelity.py`; nothing here is typed by hand. {machine}.

- Held-back text; weights encoded and decoded as a file holds them, everything run in fp32: the error of the
  weights alone. KL(original ‖ compressed) in nats per token, ± one standard error.
- MB are the bytes of all matrices / 10⁶, bits the same over their weights, embedding and head included.
- "uniform" gives every matrix one code; "ALMPQ" after the same name has the same bytes. No data was used.
- Small models are undertrained: they show that it works, not how much it wins.
"""


def write(data: Mapping[str, Any]) -> None:
    rows: list[Row] = data["rows"]
    parts = [_INTRO.format(machine=data["machine"])]
    for name in (*REAL_MODELS, *SMALL_MODELS):
        mine = [row for row in rows if row["model"] == name]
        if mine:
            original = mine[0]["damage"]["perplexity"]["original"]
            parts.append(f"## {name}\n\nPerplexity of the original: {original:.2f}.\n\n{_table(mine)}\n")
            parts.append(_promise(mine))
            if name == anchors.MODEL:
                parts.append(_against(mine))
    _RESULTS.write_text("\n".join([*parts, _speed()]))
    link = "All sizes, small models, and llama.cpp at equal bytes: [docs/results.md](docs/results.md)."
    _fill(ROOT / "README.md", f"{_short(rows)}\n\n{link}")


def write_speed(text: str) -> None:
    """The part about speed, in the place of the one before; `benchmarks/cpu_peers.py` prints it."""
    whole = _RESULTS.read_text()
    head, _, rest = whole.partition(_BEGIN)
    tail = rest.partition(_END)[2]
    _RESULTS.write_text(f"{head.rstrip()}\n\n{_BEGIN}\n{text.strip()}\n{_END}\n{tail.lstrip()}")


def _speed() -> str:
    """What stands there already, with its marks; empty where there is none."""
    whole = _RESULTS.read_text() if _RESULTS.is_file() else ""
    _, found, rest = whole.partition(_BEGIN)
    return f"{_BEGIN}{rest.partition(_END)[0]}{_END}\n" if found else ""


def _table(rows: Sequence[Row]) -> str:
    return markdown(
        [_cells(row) for row in sorted(rows, key=lambda row: (-row["bits"], row["plan"] != "uniform"))], _HEAD
    )


def _cells(row: Row) -> tuple[str, ...]:
    damage = row["damage"]
    kl = damage["kl"]
    domains = " / ".join(f"{name} {part['kl']['mean']:.3g}" for name, part in damage["domains"].items())
    return (
        f"{row['plan']}, {row['at']}",
        f"{row['megabytes']:.1f}",
        f"{row['bits']:.3f}",
        f"{kl['mean']:.3g} ± {kl['standard_error']:.1g}",
        f"{kl['p99']:.2g}",
        f"{100 * damage['top1_agreement']:.1f}",
        f"{damage['perplexity']['compressed']:.2f}",
        domains or "–",
    )


def _promise(rows: Sequence[Row]) -> str:
    """Is ALMPQ ever worse than the uniform plan of the same bytes by more than two standard errors?"""
    by_plan = {(row["plan"], row["at"]): row["damage"]["kl"] for row in rows}
    lines, broken = [], []
    for (plan, at), mine in by_plan.items():
        other = by_plan.get(("uniform", at))
        if plan != "ALMPQ" or other is None:
            continue
        lines.append(f"{at} {mine['mean'] / other['mean']:.2f}")
        doubt = 2 * (mine["standard_error"] ** 2 + other["standard_error"] ** 2) ** 0.5
        if mine["mean"] > other["mean"] + doubt:
            broken.append(at)
    verdict = (
        f"**Worse by more than two standard errors at {', '.join(broken)}.**"
        if broken
        else "Never worse by more than two standard errors."
    )
    return f"KL of ALMPQ over the uniform plan of the same bytes: {', '.join(lines)}. {verdict}\n"


def _against(rows: Sequence[Row]) -> str:
    mine = {row["at"]: row for row in rows if row["plan"] == "ALMPQ"}
    lines = []
    for anchor in anchors.LLAMA_CPP:
        if anchor.name in mine:
            kl = mine[anchor.name]["damage"]["kl"]
            top = 100 * mine[anchor.name]["damage"]["top1_agreement"]
            verdict = "won" if kl["mean"] < anchor.kl else "lost"
            lines.append(
                (
                    anchor.name, anchor.bits, f"{anchor.kl:.4f} ± {anchor.error:.4f}",
                    f"{kl['mean']:.4f} ± {kl['standard_error']:.4f}", f"{kl['mean'] / anchor.kl:.2f}",
                    f"{anchor.top1:.1f}", f"{top:.1f}", verdict,
                )
            )  # fmt: skip
    head = (
        "llama.cpp type",
        "bits",
        "its KL",
        "our KL at its bytes",
        "ratio",
        "its top-1 %",
        "our top-1 %",
        "",
    )
    note = (
        "### Beside llama.cpp, at equal bytes\n\nIts files were made without importance matrix and measured "
        "once on another machine, on the same model, windows and texts. Its standard errors take positions "
        "as independent, ours also cluster them by window and are larger.\n"
    )
    return f"{note}\n{markdown(lines, head)}\n" if lines else ""


def _short(rows: Sequence[Row]) -> str:
    """The table of the README: real models, a few sizes."""
    lines = []
    for name in REAL_MODELS:
        mine = {(row["plan"], row["at"]): row for row in rows if row["model"] == name}
        for at, rival in (
            ("int8.b64", "int8.b64"),
            ("gauss32.b64", "gauss32.b64"),
            ("4.25 bits", "gauss16.b64"),
        ):
            if ("ALMPQ", at) in mine:
                lines.append(_short_line(name, mine["ALMPQ", at], mine["uniform", rival]))
    head = ("model", "bits", "times smaller", "KL", "top-1 %", "perplexity", "one code for all: KL at bits")
    return markdown(lines, head)


def _short_line(name: str, row: Row, other: Row) -> tuple[str, ...]:
    damage = row["damage"]
    perplexity = damage["perplexity"]
    return (
        name,
        f"{row['bits']:.2f}",
        f"{16 / row['bits']:.2f}",
        f"{damage['kl']['mean']:.3g} ± {damage['kl']['standard_error']:.1g}",
        f"{100 * damage['top1_agreement']:.1f}",
        f"{perplexity['original']:.2f} → {perplexity['compressed']:.2f}",
        f"{other['damage']['kl']['mean']:.3g} at {other['bits']:.2f}",
    )


def _fill(path: Any, text: str) -> None:
    begin, end = "<!-- results:begin -->", "<!-- results:end -->"
    whole = path.read_text()
    if begin not in whole:
        raise SystemExit(f"{path.name} has no place for results")
    head, rest = whole.split(begin)
    path.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}")
