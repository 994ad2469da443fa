"""Show what compress would do, from configuration and headers alone; nothing is written but the plan."""

from __future__ import annotations

import argparse

import higgsx
from higgsx.cli.common import Bar, add_budget, add_json, add_source, budget_of, print_json, table
from higgsx.plots import of_plan, require_drawable, save
from higgsx.units import format_bytes


def arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add_budget(parser)
    parser.add_argument(
        "--sample", action="store_true", help="measure errors on samples of the weights, as compress does"
    )
    parser.add_argument(
        "--plan-file", metavar="FILE", help="write the plan to this file, to edit and give to compress"
    )
    parser.add_argument(
        "--plot", metavar="FILE", help="draw loss against size and the bits of every layer: .svg or .png"
    )
    parser.add_argument("--force", action="store_true", help="overwrite an existing plan file or picture")
    add_json(parser)


def main(arguments: argparse.Namespace) -> None:
    if arguments.plot:
        require_drawable(arguments.plot)
    with Bar(arguments.json) as bar:
        forecast = higgsx.plan(
            arguments.model,
            **budget_of(arguments),
            sample=arguments.sample,
            plan_file=arguments.plan_file,
            force=arguments.force,
            revision=arguments.revision,
            token=arguments.token,
            progress=bar,
        )
    if arguments.plot:
        save(of_plan(forecast.table, forecast.plan), arguments.plot, arguments.force)
    if arguments.json:
        print_json(forecast.to_json())
        return
    rows = [
        (
            choice.name,
            choice.label,
            f"{float(choice.bits):.3f}",
            format_bytes(choice.nbytes),
            f"{choice.loss:.2e}",
            choice.why,
        )
        for choice in forecast.shown()
    ]
    print(table(rows, ("tensor", "code", "bits", "bytes", "predicted loss", "why"), left=2, words=1))
    print()
    print("\n".join(forecast.summary()))
