"""From measured rows to the tables in docs/results.md and README.md; nothing is typed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anchors
from common import REAL_MODELS, ROOT, SMALL_MODELS, markdown
from damage import pictures
from damage.others import other_models

Row = Mapping[str, Any]
_HEAD = ("plan", "MB", "bits", "KL", "KL 99 %", "top-1 %", "perplexity", "KL by text")
_RESULTS = ROOT / "docs" / "results.md"
_INTRO = """# What is lost at which size

Printed by `benchmarks/fidelity.py` from `benchmarks/measured/fidelity.json`; nothing here is typed by hand.
Rows from before 28 November 2026 were measured on a Xeon and taken over as they were printed, later ones on
another Xeon and on {machine}. What is lost does not depend on it: the one row
measured on both Xeons (0.5 B, ALMPQ, bytes of gauss16.b64) is the same to three digits.

- Held-back text; weights encoded and decoded as a file holds them, everything run in fp32: the error of the
  weights alone. KL(original ‖ compressed) in nats per token, ± one standard error.
- MB are the bytes of all matrices / 10⁶, bits the same over their weights, embedding and head included.
- "uniform" gives every matrix one code (rounding `rtn`; "uniform hqq" with that rounding). "ALMPQ" after the
  same name has the same bytes, without data; "ALMPQ gradients" as `--gradients` makes it (with channel
  scales), from 8,192 tokens of openings that the model continued, or of calibration material that is never
  measured on (encoders, pairs, speech). "hybrid" keeps embedding and head exact
  and has its own bytes.
- "torch int8": `torch.ao.quantization.quantize_dynamic`, int8 per row in every linear layer; a table that is
  also looked up is stored twice. It rounds activations too; the others do not.
- Small models are undertrained: they show that it works, not how much it wins.
"""
_PLANS = ("uniform", "uniform hqq", "ALMPQ", "ALMPQ gradients")


def write(data: Mapping[str, Any]) -> None:
    rows: list[Row] = data["rows"]
    parts = [_INTRO.format(machine=data["machine"])]
    for name in (*REAL_MODELS, *SMALL_MODELS):
        mine = [row for row in rows if row["model"] == name]
        if mine:
            original = mine[0]["damage"]["perplexity"]["original"]
            parts.append(f"## {name}\n\nPerplexity of the original: {original:.2f}.\n")
            parts += [pictures.of_model(name, mine), _equal(mine), _promise(mine), _zeros(mine), _table(mine)]
            if name == anchors.MODEL:
                parts.append(_against(mine))
    parts.append(other_models(rows))
    kept = [part for part in parts if part]
    _RESULTS.write_text("\n".join([*kept, *map(_kept, ("prediction", "speed"))]))
    link = "All sizes, small models, and llama.cpp at equal bytes: [docs/results.md](docs/results.md)."
    _fill(ROOT / "README.md", f"{_short(rows)}\n\n{link}")


def _equal(rows: Sequence[Row]) -> str:
    """KL of every way to spend the same bytes."""
    by_key = {(row["plan"], row["at"]): row for row in rows}
    places = {row["at"]: row["bits"] for row in rows if row["plan"] == "ALMPQ"}
    lines = []
    for at, bits in sorted(places.items(), key=lambda pair: -pair[1]):
        cells = [_kl(by_key.get((plan, at))) for plan in _PLANS]
        learned, guessed, one = (by_key.get((plan, at)) for plan in ("ALMPQ gradients", "ALMPQ", "uniform"))
        lines.append((at, f"{bits:.3f}", *cells, _ratio(learned, guessed), _ratio(learned, one)))
    ways = ("one code", "one code, hqq", "ALMPQ", "ALMPQ, gradients")
    head = ("bytes of", "bits", *ways, "gradients / without", "gradients / one code")
    return f"KL at equal bytes:\n\n{markdown(lines, head)}\n"


def _zeros(rows: Sequence[Row]) -> str:
    """What hqq is for: codes with zero points."""
    by_key = {(row["plan"], row["at"]): row for row in rows}
    lines = []
    for (plan, at), row in by_key.items():
        other = by_key.get(("uniform hqq", at))
        if plan == "uniform" and at.startswith("int") and at.count(".") > 1 and other is not None:
            lines.append((at, f"{row['bits']:.3f}", _kl(row), _kl(other), _ratio(other, row)))
    head = ("code with zero points", "bits", "rtn", "hqq", "hqq / rtn")
    return f"Equal steps with zero points:\n\n{markdown(lines, head)}\n" if lines else ""


def _kl(row: Row | None) -> str:
    if row is None:
        return "–"
    kl = row["damage"]["kl"]
    return f"{kl['mean']:.3g} ± {kl['standard_error']:.1g}"


def _ratio(row: Row | None, other: Row | None) -> str:
    if row is None or other is None or other["damage"]["kl"]["mean"] == 0:
        return "–"
    return f"{row['damage']['kl']['mean'] / other['damage']['kl']['mean']:.2f}"


def write_speed(text: str) -> None:
    """The part about speed; `benchmarks/cpu_peers.py` prints it."""
    write_block("speed", text)


def write_block(name: str, text: str) -> None:
    """A part that another script prints, in the place of the one before, else at the end."""
    begin, end = _marks(name)
    whole = _RESULTS.read_text()
    head, _, rest = whole.partition(begin)
    tail = rest.partition(end)[2]
    _RESULTS.write_text(f"{head.rstrip()}\n\n{begin}\n{text.strip()}\n{end}\n{tail.lstrip()}")


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def _kept(name: str) -> str:
    """What stands there already, with its marks; empty where there is none."""
    begin, end = _marks(name)
    whole = _RESULTS.read_text() if _RESULTS.is_file() else ""
    _, found, rest = whole.partition(begin)
    return f"{begin}{rest.partition(end)[0]}{end}\n" if found else ""


def _table(rows: Sequence[Row]) -> str:
    shown = [row for row in rows if row["plan"] != "uniform hqq" and row["at"].count(".") < 2]
    ordered = sorted(shown, key=lambda row: (-row["bits"], row["plan"] != "uniform", row["plan"]))
    table = markdown([_cells(row) for row in ordered], _HEAD)
    return f"<details><summary>Every plan</summary>\n\n{table}\n\n</details>\n"


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
    """Is a plan ever worse than the uniform one of the same bytes by more than two standard errors?"""
    by_plan = {(row["plan"], row["at"]): row["damage"]["kl"] for row in rows}
    told = []
    for kind in ("ALMPQ", "ALMPQ gradients"):
        broken = []
        for (plan, at), mine in by_plan.items():
            other = by_plan.get(("uniform", at))
            if plan != kind or other is None:
                continue
            doubt = 2 * (mine["standard_error"] ** 2 + other["standard_error"] ** 2) ** 0.5
            if mine["mean"] > other["mean"] + doubt:
                broken.append(at)
        if any(plan == kind for plan, _ in by_plan):
            worse = f"**worse by more than two standard errors at {', '.join(broken)}**"
            told.append(f"{kind}: {worse if broken else 'never worse by more than two standard errors'}")
    return f"Against one code of the same bytes, {'; '.join(told)}.\n" if told else ""


def _against(rows: Sequence[Row]) -> str:
    by_key = {(row["plan"], row["at"]): row for row in rows}
    lines = []
    for anchor in anchors.LLAMA_CPP:
        guessed, learned = (by_key.get((plan, anchor.name)) for plan in ("ALMPQ", "ALMPQ gradients"))
        best = learned or guessed
        if best is None:
            continue
        ratio = best["damage"]["kl"]["mean"] / anchor.kl
        verdict = "won" if ratio < 1 else "lost"
        if anchor.wanted is not None:
            verdict += f", target {anchor.wanted} {'reached' if ratio <= anchor.wanted else 'missed'}"
        theirs, top1 = f"{anchor.kl:.4f} ± {anchor.error:.4f}", 100 * best["damage"]["top1_agreement"]
        cells = (theirs, _kl(guessed), _kl(learned), f"{ratio:.2f}", f"{anchor.top1:.1f}", f"{top1:.1f}")
        lines.append((anchor.name, anchor.bits, *cells, verdict))
    ours = ("ALMPQ at its bytes", "with gradients", "ratio", "its top-1 %", "our top-1 %")
    head = ("llama.cpp type", "bits", "its KL", *ours, "")
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
                learned = mine.get(("ALMPQ gradients", at))
                lines.append(_short_line(name, mine["ALMPQ", at], learned, mine["uniform", rival]))
    learned = ("KL with `--gradients`", "its top-1 %", "its perplexity")
    head = ("model", "bits", "times smaller", "KL", *learned, "one code for all: KL at bits")
    return markdown(lines, head)


def _short_line(name: str, row: Row, learned: Row | None, other: Row) -> tuple[str, ...]:
    cells = ("–", "–", "–")
    if learned is not None:
        damage = learned["damage"]
        perplexity = damage["perplexity"]
        cells = (
            _kl(learned),
            f"{100 * damage['top1_agreement']:.1f}",
            f"{perplexity['original']:.2f} → {perplexity['compressed']:.2f}",
        )
    one = f"{other['damage']['kl']['mean']:.3g} at {other['bits']:.2f}"
    return name, f"{row['bits']:.2f}", f"{16 / row['bits']:.2f}", _kl(row), *cells, one


def _fill(path: Any, text: str) -> None:
    begin, end = "<!-- results:begin -->", "<!-- results:end -->"
    whole = path.read_text()
    if begin not in whole:
        raise SystemExit(f"{path.name} has no place for results")
    head, rest = whole.split(begin)
    path.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}")
