"""Compress a model to one .hgs file within a budget."""

from __future__ import annotations

import argparse

import higgsx
from higgsx.cli.common import Bar, add_budget, add_json, add_source, amount, budget_of, print_json
from higgsx.fidelity.render import render
from higgsx.units import format_bytes


def arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="default: the model's name with .hgs, here")
    add_budget(parser)
    parser.add_argument(
        "--plan-file", metavar="FILE", help="use this plan (as `higgsx plan --plan-file` wrote it)"
    )
    parser.add_argument("--check-text", metavar="FILE", help="measure the damage on this text")
    parser.add_argument("--no-check", action="store_true", help="do not measure the damage")
    parser.add_argument(
        "--max-damage", type=amount, metavar="KL", help="refuse a result with more damage (nats per token)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite an existing file")
    add_json(parser)


def main(arguments: argparse.Namespace) -> None:
    with Bar(arguments.json) as bar:
        result = higgsx.compress(
            arguments.model,
            arguments.output,
            **budget_of(arguments),
            plan=arguments.plan_file,
            check=not arguments.no_check,
            check_text=arguments.check_text,
            max_damage=arguments.max_damage,
            force=arguments.force,
            revision=arguments.revision,
            token=arguments.token,
            progress=bar,
        )
    if arguments.json:
        print_json(result.to_json())
        return
    size = f"{format_bytes(result.nbytes)}, {result.source_bytes / result.nbytes:.2f} times smaller"
    print(f"{result.path}: {size}, {result.bits:.3f} bits a weight")
    print(f"content {result.content_digest}")
    how = "learned from data" if result.learned else "a guess without data"
    print(f"predicted loss {result.plan.loss:.3g} {result.plan.unit}: {how}")
    if result.advice:
        print(result.advice)
    print()
    print("\n".join(render(result.damage)))
