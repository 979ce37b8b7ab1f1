# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Prints the tables of docs/python.md: intflash beside PyTorch and transformers, in turn.

Parts: overhead (of a call, over the C interface), sdpa (the drop-in), model (SmolLM2-135M: logits,
prefill, tokens after it, memory), decode (beside QuantizedCache), codecs (perplexity). All of a
part is measured in this process, A B A B; with one thread by its CPU time. Shares of goals above 1
reach them.
"""

import argparse
import importlib.metadata
import pathlib
import platform

import calls
import intflash
import model
import torch
import turns

PARTS = ("overhead", "sdpa", "model", "decode", "codecs")


def cpu_name():
    """The first CPU's, with what tells its generation."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    pairs = [[half.strip() for half in line.split(":", 1)] for line in lines if ":" in line]
    fields = dict(reversed(pairs))
    numbers = ("cpu family", "model", "stepping")
    known = [f"{name} {fields[name]}" for name in numbers if name in fields]
    return ", ".join([fields.get("model name", platform.machine()), *known])


def version(package):
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"no {package}"


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="bench/python/run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of: {' '.join(PARTS)} (all)")
    parser.add_argument("--threads", type=int, default=1, help="of both sides (1)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each call of sdpa (5)")
    parser.add_argument("--quick", action="store_true", help="small shapes and few turns")
    parser.add_argument("--text", help="of which tokens are taken (the held-out text and docs/)")
    parser.add_argument("--library", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--model", required=True, help=argparse.SUPPRESS)
    args = parser.parse_args()
    for part in args.parts:
        if part not in PARTS:
            parser.error(f"part {part}: must be one of {' '.join(PARTS)}")
    for name in ("threads", "rounds"):
        if vars(args)[name] < 1:
            parser.error(f"--{name} {vars(args)[name]}: must be at least 1")
    args.parts = args.parts or PARTS
    return args


def main():
    args = parse_arguments()
    turns.check_arithmetic()
    torch.set_num_threads(args.threads)
    clock = turns.Clock(args.threads)
    packages = ("intflash", "torch", "transformers", "optimum-quanto", "numpy")
    print(f"{cpu_name()}; port {intflash.info().port}, threads {args.threads}, {clock.name}")
    print(", ".join([f"Python {platform.python_version()}", *map(version, packages)]), flush=True)
    for part in ("overhead", "sdpa"):
        if part in args.parts:
            getattr(calls, part)(args, clock)
    wanted = [part for part in ("model", "decode", "codecs") if part in args.parts]
    runner = model.Runner(args, clock) if wanted else None
    for part in wanted:
        getattr(model, part)(runner, args)


if __name__ == "__main__":
    main()
