# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""The parts model, decode and codecs: SmolLM2-135M in transformers, whose attention is changed."""

import pathlib
import statistics
import tempfile

import torch
import transformers
from intflash.transformers import IntflashCache, calibrate, register
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from turns import Stopwatch, divergence, goal_text, print_table, ratio

ROOT = pathlib.Path(__file__).resolve().parents[2]
SPARE = 64  # tokens that a cache has room for after the prompt
# Options of IntflashCache; windows are of 256 tokens and the first 64.
CODECS = {
    "int8": {},
    "k8v16": {"codec": "k8v16"},
    "k8v4": {"codec": "k8v4"},
    "k8v4, window": {"codec": "k8v4", "window_blocks": 4},
    "k4v4, window": {"codec": "k4v4", "window_blocks": 4},
    "k4v2, window": {"codec": "k4v2", "window_blocks": 4},
    "k2v2, window": {"codec": "k2v2", "window_blocks": 4},
    "k4v4, 64 tokens": {"codec": "k4v4", "window_blocks": 1, "sink_blocks": 0},
}


class Runner:
    """The model with one of two attentions, and the time that these take."""

    def __init__(self, args, clock):
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        folder, name = pathlib.Path(args.model).parent, pathlib.Path(args.model).name
        self.clock = clock
        load = transformers.AutoModelForCausalLM.from_pretrained
        self.model = load(folder, gguf_file=name, dtype=torch.float32).eval()
        self.config = self.model.config
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
        text = read_text(args.text)
        self.tokens = tokenizer(text, return_tensors="pt").input_ids
        self.attending, self.storing = Stopwatch(clock), Stopwatch(clock)
        self.ours = register()
        for attention in ("sdpa", self.ours):
            function = ALL_ATTENTION_FUNCTIONS[attention]
            transformers.AttentionInterface.register(attention, self.attending.wrap(function))

    def prompt(self, length):
        if self.tokens.shape[1] < length:
            held = self.tokens.shape[1]
            raise SystemExit(f"the text has {held} tokens, and {length} are wanted: see --text")
        return self.tokens[:, :length]

    def cache(self, name, tokens):
        if name in CODECS:
            made = IntflashCache(self.config, tokens=tokens + SPARE, **CODECS[name])
        elif name == "quanto":
            made = transformers.QuantizedCache("quanto", self.config, nbits=4)
        else:
            made = transformers.DynamicCache(config=self.config)
        made.update = self.storing.wrap(made.update)
        return made

    @torch.inference_mode()
    def step(self, name, tokens, cache):
        """Hidden states of new tokens, and seconds: in all, of attention, and of storing keys."""
        self.model.set_attn_implementation(self.ours if name in CODECS else "sdpa")
        self.attending.seconds = self.storing.seconds = 0.0
        seconds, out = self.clock.time(
            lambda: self.model.model(tokens, cache=cache, use_cache=True)
        )
        return out.last_hidden_state[0], (seconds, self.attending.seconds, self.storing.seconds)

    def calibrated(self, begin):
        """Codecs by layer and by head, chosen by 1024 tokens that are measured by none."""
        tokens = self.prompt(begin + 1024)[:, begin:]
        dims = 2 * self.config.head_dim
        options = {}
        for bits in (4.5, 3.5):
            for by_head in (False, True):
                with tempfile.TemporaryDirectory() as folder:
                    found = calibrate(
                        self.model, tokens, bits * dims / 8, f"{folder}/c.json", by_head=by_head
                    )
                name = f"{bits} bits, by {'head' if by_head else 'layer'}"
                options[name] = {"calibration": found}
        return options

    def prefill(self, name, length):
        cache = self.cache(name, length)
        hidden, times = self.step(name, self.prompt(length), cache)
        return cache, hidden, times

    @torch.inference_mode()
    def compare(self, hidden, reference):
        """Of all rows, in pieces: mean KLD, its 99 % quantile, and the share of same top tokens."""
        pieces = []
        for a, b in zip(hidden.split(256), reference.split(256), strict=True):
            pieces.append(divergence(self.model.lm_head(a), self.model.lm_head(b)))
        divergences, same = (torch.cat(column) for column in zip(*pieces, strict=True))
        return (
            float(divergences.mean()),
            float(divergences.quantile(0.99)),
            float(same.double().mean()),
        )

    @torch.inference_mode()
    def score(self, name, tokens):
        """Of the second half of a text: its nats, and log-probabilities of all tokens."""
        cache = self.cache(name, tokens.shape[1])
        hidden = self.step(name, tokens, cache)[0]
        half = tokens.shape[1] // 2
        logs = self.model.lm_head(hidden[half - 1 : -1]).double().log_softmax(-1)
        return -logs.gather(1, tokens[0, half:, None]), logs

    def decode_turns(self, caches, steps):
        """{name: (seconds of each token in all, of attention, of storing)}, of the same tokens."""
        times = {name: [] for name in caches}
        for token in self.prompt(steps + 1).T:
            for name, cache in caches.items():
                times[name].append(self.step(name, token[None], cache)[1])
        return {name: list(zip(*taken[1:], strict=True)) for name, taken in times.items()}


def read_text(path):
    """The file's, or this checkout's held-out text with the documents after it."""
    if path is not None:
        return pathlib.Path(path).read_text()
    documents = sorted((ROOT / "docs").glob("*.md"))
    held_out = ROOT / "examples/runner/model/heldout.txt"
    return "\n".join(file.read_text() for file in (held_out, *documents))


def bytes_of_bf16(config, tokens):
    """Of a cache of keys and values in two bytes."""
    return tokens * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4


def bytes_of(cache):
    """Of the pages that sequences hold, in all layers."""
    info = cache.store.info()
    return (info.pages - info.free_pages) * info.page_bytes * info.layers


def milliseconds(times):
    return statistics.median(times) * 1e3


def prefill_row(length, taken):
    """Of {name: [times of a prefill, ...]}."""
    total, attention = (
        {name: [times[i] for times in taken[name]] for name in taken} for i in (0, 1)
    )
    storing = [times[2] for times in taken["int8"]]
    speed = ratio(total["sdpa"], total["int8"])
    seconds = [f"{statistics.median(times):.2f}" for times in (total["sdpa"], attention["sdpa"])]
    ours = [a + b for a, b in zip(attention["int8"], storing, strict=True)]
    seconds += [f"{statistics.median(times):.2f}" for times in (total["int8"], ours)]
    return (length, *seconds, f"{speed:.2f}", goal_text(speed, 1.3, True))


def decode_row(runner, caches, length, steps):
    """One token at a time after a prompt, both in turn."""
    times = runner.decode_turns(caches, steps)
    (sdpa_total, sdpa, sdpa_storing), (total, ours, storing) = times["sdpa"], times["int8"]
    share = 1 / ratio(sdpa, ours)
    taken = (sdpa_storing, storing, sdpa_total, total)
    memory = bytes_of(caches["int8"]) / bytes_of_bf16(runner.config, length + steps + 1)
    return (
        length,
        f"{milliseconds(sdpa):.2f}",
        f"{milliseconds(ours):.2f}",
        f"{share:.3f}",
        goal_text(share, 0.25, False),
        *(f"{milliseconds(part):.2f}" for part in taken),
        f"{memory:.3f}",
        goal_text(memory, 0.55, False),
    )


def model(runner, args):
    """Prefill, what it changes, and tokens after it."""
    logits, prefills, decodes = [], [], []
    for length in (512, 1024) if args.quick else (2048, 8192):
        taken = {"sdpa": [], "int8": []}
        for _ in range(1 if args.quick else min(args.rounds, 2)):
            caches, hidden = {}, {}
            for name in taken:
                caches[name], hidden[name], times = runner.prefill(name, length)
                taken[name].append(times)
        mean, most, same = runner.compare(hidden["int8"], hidden["sdpa"])
        shares = goal_text(mean, 0.0006, False), goal_text(same, 0.985, True)
        logits.append((length, f"{mean:.5f}", f"{most:.4f}", f"{100 * same:.2f} %", *shares))
        prefills.append(prefill_row(length, taken))
        decodes.append(decode_row(runner, caches, length, 8 if args.quick else 24))
    header = ("tokens", "mean KLD", "99 % KLD", "same top token", "share of KLD's goal", "of top's")
    print_table("Logits, against sdpa in f32", header, logits)
    header = ("tokens", "sdpa s", "of it attention", "intflash s", "of it attention and cache")
    print_table("Prefill", (*header, "times as fast", "share of the goal"), prefills)
    header = ("keys", "attention: sdpa ms", "intflash ms", "ratio", "share of the goal")
    header += ("cache: DynamicCache ms", "IntflashCache ms", "token: sdpa ms", "intflash ms")
    header += ("memory, of bf16's", "share of the goal")
    print_table("A token after them", header, decodes)


def decode(runner, args):
    """Tokens over caches that are quantized, each after a prefill of its own."""
    length, steps = (512, 4) if args.quick else (4096, 12)
    names = {
        "int8": "IntflashCache",
        "sdpa": "DynamicCache, f32",
        "quanto": "QuantizedCache, quanto",
    }
    if not transformers.utils.import_utils.is_optimum_quanto_available():
        print("\noptimum-quanto is not installed: QuantizedCache is left out")
        del names["quanto"]
    caches = {name: runner.prefill(name, length)[0] for name in names}
    times = runner.decode_turns(caches, steps)
    rows = []
    for name, title in names.items():
        speed = ratio(times[name][0], times["int8"][0])
        share = goal_text(speed, 5.0, True) if name == "quanto" else ""
        rows.append(
            (title, *(f"{milliseconds(part):.2f}" for part in times[name]), f"{speed:.2f}", share)
        )
    header = (
        "cache",
        "token ms",
        "of it attention",
        "of it the cache",
        "of IntflashCache's",
        "share of the goal",
    )
    print_table(f"Decoding over {length} keys", header, rows)


def codecs(runner, args):
    """Perplexity of texts of 1024 tokens, second halves, by what the cache keeps."""
    chunks, length = (2, 256) if args.quick else (12, 1024)
    CODECS.update(runner.calibrated(chunks * length))
    nats = {name: [] for name in ("sdpa", *CODECS)}
    divergences = {name: [] for name in CODECS}
    for tokens in runner.prompt(chunks * length).split(length, dim=1):
        reference = None
        for name in nats:
            taken, logs = runner.score(name, tokens)
            nats[name].append(taken)
            reference = logs if reference is None else reference
            if name in CODECS:
                divergences[name].append((reference.exp() * (reference - logs)).sum(-1))
    perplexity = {name: float(torch.cat(taken).mean().exp()) for name, taken in nats.items()}
    rows = [("sdpa, f32", f"{perplexity['sdpa']:.3f}", "", "")]
    for name in CODECS:
        more = 100 * (perplexity[name] / perplexity["sdpa"] - 1)
        mean = float(torch.cat(divergences[name]).mean())
        rows.append((name, f"{perplexity[name]:.3f}", f"{more:+.2f} %", f"{mean:.5f}"))
    title = f"Perplexity of {chunks} texts of {length} tokens, second halves"
    print_table(title, ("cache", "perplexity", "more than sdpa's", "mean KLD"), rows)
