# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Compares intflash with its peers: one process per instruction set, number of threads and mask.

Within a process all take turns (A B C A B C ...), all have the same number of threads, and the
peers are held to the instruction set by their own switches. ONNX Runtime has none: it is shown, and
left out of the ratio wherever the CPU has more than the instruction set in question.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent

# For each class of CPU: our port, the CPU flag that it needs, the flag that lets peers compute in
# bf16 (without it they would emulate it), and the switches of oneDNN (OpenVINO, PyTorch), ATen and
# MKL.
# The peers keep bf16 under AVX-512: CPUs without AMX have it, and it is the stronger opponent.
CLASSES = {
    "amx": ("amx_int8", "amx_int8", "amx_bf16", {}),
    "avx512": (
        "avx512_vnni",
        "avx512_vnni",
        "avx512_bf16",
        {
            "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16",
            "ATEN_CPU_CAPABILITY": "avx512",
            "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        },
    ),
    "avx2": (
        "avx2",
        "avx2",
        None,
        {
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "ATEN_CPU_CAPABILITY": "avx2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        },
    ),
}


def cpu_info():
    """Model name and flags of the first CPU."""
    name, flags = "unknown", set()
    for line in pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
        key, _, text = line.partition(":")
        if key.strip() == "model name":
            name = text.strip()
        elif key.strip() == "flags":
            flags = set(text.split())
    return name, flags


def torch_imports():
    if importlib.util.find_spec("torch") is None:
        return False
    command = [sys.executable, "-c", "import torch"]
    return subprocess.run(command, capture_output=True).returncode == 0


def measure(args, flags, isa, threads, causal):
    port, _, bf16_flag, switches = CLASSES[isa]
    command = [sys.executable, str(HERE / "measure.py"), "--library", args.library, "--port", port]
    command += ["--threads", str(threads), "--repeats", str(args.repeats)]
    command += ["--heads", str(args.heads), "--tokens", str(args.tokens)]
    command += ["--head-dim", str(args.head_dim)]
    command += ["--precisions", "f32"] + (["bf16"] if bf16_flag in flags else [])
    command += ["--causal"] * causal + ["--torch"] * args.torch
    # OpenVINO and older oneDNN read the second spelling.
    if "ONEDNN_MAX_CPU_ISA" in switches:
        switches = switches | {"DNNL_MAX_CPU_ISA": switches["ONEDNN_MAX_CPU_ISA"]}
    environment = os.environ | switches | {"OMP_NUM_THREADS": str(threads)}
    environment.pop("INTFLASH_ISA", None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    rows = json.loads(done.stdout)
    # Held to less than the CPU has, only those count that obey a switch.
    best_isa = next(name for name, (_, flag, _, _) in CLASSES.items() if flag in flags)
    peers = [row for row in rows[1:] if row["held"] or isa == best_isa]
    best = min(peers, key=lambda row: row["seconds"])
    return {
        "isa": isa,
        "threads": threads,
        "mask": "causal" if causal else "full",
        "rows": rows,
        "best_peer": best["name"],
        "speedup": best["seconds"] / rows[0]["seconds"],
    }


def print_run(run):
    threads = run["threads"]
    print(f"\n{run['isa']}, {threads} thread{'s' * (threads > 1)}, {run['mask']}")
    for row in run["rows"]:
        note = "" if row["held"] else "   (has no switch: uses all that the CPU has)"
        print(
            f"  {row['name']:<28}{row['version']:<12}{row['seconds'] * 1e3:>9.1f} ms"
            f"{row['gops']:>9.0f} GOP/s{row['rel_l1'] * 100:>9.4f} %{note}"
        )
    print(f"  {run['speedup']:.2f} times as fast as {run['best_peer']}", flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", required=True, help="path of libintflash.so")
    parser.add_argument("--json", help="writes a report")
    parser.add_argument("--isa", nargs="+", choices=CLASSES, help="default: all that the CPU has")
    parser.add_argument("--threads", nargs="+", type=int, help="default: 1, and 2 if there are")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--torch", action="store_true", help="PyTorch too, if it imports")
    args = parser.parse_args()
    args.library = str(pathlib.Path(args.library).resolve(strict=True))
    return args


def main():
    args = parse_arguments()
    cpu, flags = cpu_info()
    if args.torch and not torch_imports():
        print("PyTorch does not import here: left out", file=sys.stderr)
        args.torch = False
    cpus = len(os.sched_getaffinity(0))
    threads = args.threads or ([1, 2] if cpus >= 2 else [1])
    classes = args.isa or [name for name, (_, flag, _, _) in CLASSES.items() if flag in flags]

    tokens = f"{args.tokens} x {args.tokens} tokens"
    print(f"{cpu}: {args.heads} heads, {tokens}, head_dim {args.head_dim}")
    print("times from float32 (PyTorch bf16: from bfloat16) to result; error beside float64")
    runs = []
    for isa in classes:
        for count in threads:
            for causal in (False, True):
                runs.append(measure(args, flags, isa, count, causal))
                print_run(runs[-1])
    if args.json:
        shape = {"heads": args.heads, "tokens": args.tokens, "head_dim": args.head_dim}
        report = {"machine": {"cpu": cpu, "cpus": cpus}, "shape": shape, "runs": runs}
        pathlib.Path(args.json).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
