#!/usr/bin/env python3
# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Draws the figures of docs/performance.md from reports of `intflash bench` and bench/peers/run.

Writes shares.svg and shares.png (the share of the machine's integer limit, by port and shape), and
with --peers also peers.svg and peers.png (time beside the peers). Needs matplotlib.
"""

import argparse
import json
import pathlib

import matplotlib

matplotlib.use("Agg")
# The same report gives the same bytes: ids in an SVG file would otherwise be random.
matplotlib.rcParams["svg.hashsalt"] = "intflash"
matplotlib.rcParams["font.size"] = 9

import matplotlib.pyplot as plt

# Okabe and Ito's palette: told apart by the colour-blind, and in grey by its lightness.
COLORS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999"]
OURS = "#0072b2"

# What a reader looks for first; the rest of the table is in the report.
SHAPES = {
    "prefill/full/d128/n4096": "full\nd 128, 4096",
    "prefill/causal/d128/n4096": "causal\nd 128, 4096",
    "prefill/full/d64/n4096": "full\nd 64, 4096",
    "prefill/full/d256/n4096": "full\nd 256, 4096",
    "prefill/full/d128/n1024": "full\nd 128, 1024",
    "prefill/full/d128/n16384": "full\nd 128, 16k",
    "prefill/full/d128/n65536": "full\nd 128, 64k",
    "end-to-end/full/d128/n4096/h8": "end to end\nfull, 8 heads",
    "end-to-end/causal/d128/n4096/h8": "end to end\ncausal, 8 heads",
}


def save(figure, folder, name):
    for suffix in ("svg", "png"):
        metadata = {"Date": None} if suffix == "svg" else {"Software": None}
        figure.savefig(folder / f"{name}.{suffix}", dpi=150, bbox_inches="tight", metadata=metadata)
    plt.close(figure)


def tidy(axes):
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def plot_shares(report, folder):
    rows = {(row["port"], row["name"]): row for row in report["rows"]}
    ports = list(dict.fromkeys(row["port"] for row in report["rows"]))
    shapes = [name for name in SHAPES if any((port, name) in rows for port in ports)]
    ports = [port for port in ports if any((port, name) in rows for name in shapes)]
    if not shapes:
        raise SystemExit("the report has none of the rows that are drawn")

    figure, axes = plt.subplots(figsize=(1.2 + 1.1 * len(shapes), 3.4))
    width = 0.8 / len(ports)
    for index, port in enumerate(ports):
        drawn = [(x, rows[port, name]) for x, name in enumerate(shapes) if (port, name) in rows]
        bars = axes.bar(
            [x + (index - (len(ports) - 1) / 2) * width for x, _ in drawn],
            [row["share"] for _, row in drawn],
            width * 0.92,
            color=COLORS[index % len(COLORS)],
            label=port,
        )
        axes.bar_label(bars, [f"{row['share']:.2f}" for _, row in drawn], fontsize=6.5, padding=1)
    axes.set_xticks(range(len(shapes)), [SHAPES[name] for name in shapes])
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, 1)
    axes.set_ylabel("share of the integer peak")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    tidy(axes)
    figure.suptitle(f"{report['machine']['cpu']}, one thread", fontsize=10, x=0.01, ha="left")
    figure.legend(loc="upper right", ncols=len(ports), frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    save(figure, folder, "shares")


def plot_peers(report, folder):
    runs = report["runs"]
    columns = 2
    lines = -(-len(runs) // columns)
    figure, grid = plt.subplots(lines, columns, figsize=(9, 0.5 + 1.45 * lines), squeeze=False)
    for axes in grid.flat[len(runs) :]:
        axes.set_visible(False)
    for axes, run in zip(grid.flat, runs):
        rows = run["rows"]
        milliseconds = [row["seconds"] * 1e3 for row in rows]
        colors = [OURS] + ["#bbbbbb"] * (len(rows) - 1)
        labels = [row["name"] + ("" if row["held"] else " *") for row in rows]
        bars = axes.barh(labels, milliseconds, color=colors, height=0.7)
        axes.bar_label(bars, [f"{value:.0f} ms" for value in milliseconds], fontsize=7, padding=2)
        axes.invert_yaxis()
        axes.set_xlim(0, max(milliseconds) * 1.15)
        axes.tick_params(axis="y", length=0, labelsize=8)
        axes.set_xticks([])
        threads = f"{run['threads']} thread{'s' * (run['threads'] > 1)}"
        title = f"{run['isa']}, {threads}, {run['mask']}: {run['speedup']:.1f} x the best peer"
        axes.set_title(title, fontsize=8.5, loc="left")
        tidy(axes)
        axes.spines["bottom"].set_visible(False)
    shape = report["shape"]
    figure.suptitle(
        f"{report['machine']['cpu']}: {shape['heads']} heads, {shape['tokens']} tokens, "
        f"head_dim {shape['head_dim']}   (* not held to the instruction set)",
        fontsize=9,
        x=0.01,
        ha="left",
    )
    figure.tight_layout()
    save(figure, folder, "peers")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", help="JSON of intflash bench")
    parser.add_argument("--peers", help="JSON of bench/peers/run")
    parser.add_argument("--out", default=".", type=pathlib.Path, help="folder for the figures")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    plot_shares(json.loads(pathlib.Path(args.report).read_text()), args.out)
    if args.peers:
        plot_peers(json.loads(pathlib.Path(args.peers).read_text()), args.out)


if __name__ == "__main__":
    main()
