#!/usr/bin/env python3
"""Compares braise with other engines, by turns, and writes the record.

It builds nothing: it is given braise and programs with llama-bench's command line, runs each test on each of them one
after the other, starts over as many times as there are turns, and takes medians: of the rates, and of the ratios
within each turn, because the speed of a shared machine changes by the minute. A turn in which other programs took more
than a share of the CPUs is left out where undisturbed ones remain. A program that fails or is not there is named in the
table; the others go on.

    benches/pairs.py --braise target/release/braise \\
        --peer 'llama.cpp=path/to/llama-bench' \\
        --peer 'ik_llama.cpp, repack=path/to/ik/llama-bench -rtr 1' \\
        --unfair 'ik_llama.cpp, repack=keeps a second copy of the weights' \\
        --model model.gguf --test pp512 --test tg64 --test tg16@8192 --turns 5 --record benches/record/NAME

Tests are ppN and tgN, with @D at a depth of D tokens. --record writes NAME.md, the table with the machine, versions and
command, and NAME.jsonl, every run. Needs Python 3.9 or newer and Linux (elsewhere it cannot tell disturbed turns).
"""
import argparse
import datetime
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

BRAISE = "braise"


class Failed(Exception):
    """A program gave no result; the message says why."""


class Test:
    """What is run: reading n tokens (pp), or generating them (tg), after `depth` others."""

    def __init__(self, text):
        found = re.fullmatch(r"(pp|tg)([1-9][0-9]*)(?:@([0-9]+))?", text)
        if not found:
            raise argparse.ArgumentTypeError(f"{text!r} is no test; write pp512, tg64 or tg16@8192")
        self.text, self.kind = text, found[1]
        self.n, self.depth = int(found[2]), int(found[3] or 0)


class Program:
    """braise or a peer: its name in tables, its command, and what is known of it."""

    def __init__(self, name, command):
        self.name, self.command = name, command
        self.version = None
        self.help = None

    def arguments(self, test, model, threads, reps):
        """The whole command line of a test."""
        pp, tg = (test.n, 0) if test.kind == "pp" else (0, test.n)
        if self.name == BRAISE:
            flags = ["--pp", pp, "--tg", tg, "--depth", test.depth, "--threads", threads, "--reps", reps]
            return [*self.command, "bench", model, *map(str, flags), "--output", "json"]
        flags = ["-p", pp, "-n", tg]
        if test.depth and self.knows("--n-depth"):
            flags += ["-d", test.depth]
        elif test.depth and test.kind == "tg" and self.knows("-gp"):
            flags = ["-p", 0, "-n", 0, "-gp", f"{test.depth},{tg}"]
        elif test.depth:
            raise Failed("has no such test")
        return [*self.command, "-m", model, *map(str, flags), "-t", str(threads), "-r", str(reps), "-o", "json"]

    def knows(self, flag):
        """Whether the program's help names a flag."""
        if self.help is None:
            done = execute([self.command[0], "--help"], timeout=60)
            self.help = done.stdout + done.stderr
        return re.search(rf"(^|[\s,]){re.escape(flag)}\b", self.help, re.MULTILINE) is not None

    def run(self, test, model, threads, reps, timeout):
        """One run: its row as the program printed it."""
        done = execute(self.arguments(test, model, threads, reps), timeout)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise Failed(f"failed with code {done.returncode}: {last}")
        try:
            [row] = json.loads(done.stdout)
            if not statistics.median(row["samples_ts"]) > 0:
                raise ValueError("a rate that is no number above 0")
        except (ValueError, KeyError, TypeError, statistics.StatisticsError) as e:
            raise Failed(f"printed something else than one result: {e}") from e
        self.version = row.get("build_commit")
        return row


def execute(command, timeout):
    """Runs a command; every way of not getting an end of it is `Failed`."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except OSError as e:
        raise Failed(f"cannot be started: {e.strerror}") from e
    except subprocess.TimeoutExpired as e:
        raise Failed(f"took more than {timeout} s") from e


def busy():
    """CPU seconds that all programs have used, and those of our own; `None` where the system does not tell."""
    try:
        user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    except OSError:
        return None
    own = sum(os.times()[:4])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK"), own


def others(before, after, seconds):
    """Share of the machine's CPUs that other programs took in between."""
    if before is None or after is None:
        return None
    total, own = after[0] - before[0], after[1] - before[1]
    return max(0.0, total - own) / seconds / (os.cpu_count() or 1)


def measure(options):
    """Runs everything; yields a dictionary for each run."""
    for model in options.model:
        for test in options.test:
            for turn in range(options.turns):
                at = turn % len(options.programs)  # another one is first each time
                for program in options.programs[at:] + options.programs[:at]:
                    result = {"model": model.name, "test": test.text, "turn": turn, "program": program.name}
                    before, begin = busy(), time.monotonic()
                    try:
                        row = program.run(test, str(model), options.threads, options.reps, options.timeout)
                        result["others"] = others(before, busy(), time.monotonic() - begin)
                        result["rate"] = statistics.median(row["samples_ts"])
                        for field in ("samples_ts", "limit_ts", "limit_read_gbs", "limit_int8_gops", "isa"):
                            if field in row:
                                result[field] = row[field]
                    except Failed as e:
                        result["failed"] = str(e)
                    print(progress(result), file=sys.stderr)
                    yield result


def progress(result):
    """A run in a line."""
    said = result.get("failed") or f"{result['rate']:.1f} tokens/s"
    cpu = result.get("others")
    disturbed = "" if cpu is None else f" (others: {cpu:.0%} of the CPUs)"
    return f"{result['model']} {result['test']} turn {result['turn'] + 1}, {result['program']}: {said}{disturbed}"


def kept_turns(runs, most):
    """The turns that count, and whether those that were disturbed are among them."""
    turns = {}
    for run in runs:
        turns.setdefault(run["turn"], []).append(run)
    quiet = {turn for turn, of in turns.items() if all((run.get("others") or 0.0) <= most for run in of)}
    return (quiet, False) if quiet else (set(turns), True)


def table_row(runs, options):
    """The cells of one test of one model."""
    turns, disturbed = kept_turns(runs, options.others)
    rates = {(run["program"], run["turn"]): run["rate"] for run in runs if run["turn"] in turns and "rate" in run}
    own = [run for run in runs if run["program"] == BRAISE and run["turn"] in turns and "rate" in run]
    cells = [runs[0]["model"], runs[0]["test"]]
    for program in options.programs:
        name = program.name
        mine = [rate for (of, _), rate in rates.items() if of == name]
        if not mine:
            cells += [next(run["failed"] for run in runs if run["program"] == name and "failed" in run)]
            cells += ["-"]
            continue
        failed = sum(run["program"] == name and "failed" in run for run in runs)
        cells.append(f"{statistics.median(mine):.4g}" + f" ({failed} failed)" * (failed > 0))
        if name == BRAISE:
            shares = [run["rate"] / run["limit_ts"] for run in own if "limit_ts" in run]
            cells.append(f"{statistics.median(shares):.2f}" if shares else "-")
        else:
            both = [turn for turn in turns if (BRAISE, turn) in rates and (name, turn) in rates]
            ratios = [rates[BRAISE, turn] / rates[name, turn] for turn in both]
            cells.append(f"{statistics.median(ratios):.2f}" if ratios else "-")
    cells.append(f"{len(turns)} of {options.turns}" + (", disturbed" if disturbed else ""))
    return cells


def table(results, options):
    """All results as Markdown."""
    header = ["model", "test"]
    for program in options.programs:
        header += [program.name, "of the limit" if program.name == BRAISE else "ratio"]
    groups = {}
    for run in results:
        groups.setdefault((run["model"], run["test"]), []).append(run)
    rows = [header + ["turns"], ["---", "---"] + ["--:"] * (2 * len(options.programs) + 1)]
    rows += [table_row(runs, options) for runs in groups.values()]
    return "".join("| " + " | ".join(cell.replace("|", "/") for cell in row) + " |\n" for row in rows)


def machine():
    """The processor, its number and the system, in a line."""
    name = os.uname().machine
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
        name = re.search(r"model name\s*: (.*)", cpuinfo)[1]
        isa = [flag for flag in ("avx2", "avx512_vnni", "avx512_bf16", "amx_int8") if f" {flag} " in cpuinfo]
        name += f" ({', '.join(isa)})"
    except (OSError, TypeError):
        pass
    return f"{name}, {os.cpu_count()} CPUs, {os.uname().sysname} {os.uname().release}"


def shown(word):
    """An argument without folders that are outside of the tree: they say nothing on another machine."""
    return re.sub(r"(^|(?<=[ =]))(/|~|\.\.)[^ ]*/", "", word)


def limits(results):
    """What the machine could do, as braise measured it in its runs."""
    said = []
    for field, what in (("limit_read_gbs", "GB/s read"), ("limit_int8_gops", "GOP/s in int8")):
        values = [run[field] for run in results if field in run]
        if values:
            said.append(f"{statistics.median(values):.4g} {what} ({min(values):.4g} to {max(values):.4g})")
    return [f"The machine's limits in the same runs, medians: {', '.join(said)}.", ""] if said else []


def report(results, options):
    """The record as Markdown."""
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    command = shlex.join(["benches/pairs.py", *map(shown, sys.argv[1:])])
    lines = [f"# {options.title}", "", f"{date}. {machine()}. {options.threads} threads.", ""]
    lines += [f"- {p.name}: {p.version or 'gave no result'}; `{shlex.join(map(shown, p.command))}`" for p in options.programs]
    lines += [f"- {path.name}: {path.stat().st_size} bytes" for path in options.model if path.is_file()]
    lines += ["", *limits(results)]
    lines += ["Tokens per second, medians; ratio: braise to the peer, the median of the turns' ratios.", ""]
    lines += [table(results, options)]
    lines += [f"- **unfair**: {text}" for text in options.unfair] + [""] * bool(options.unfair)
    lines += [
        f"Turns count in which other programs took at most {options.others:.0%} of the CPUs; where there was none, all "
        "do, and the row says disturbed.",
        "",
        "```sh",
        command,
        "```",
    ]
    return "\n".join(lines) + "\n"


def program(text):
    """`NAME=COMMAND`."""
    name, equals, command = text.partition("=")
    if not (name and equals and shlex.split(command)) or name == BRAISE:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=COMMAND with a name of its own")
    return Program(name, shlex.split(command))


def main():
    """Reads the command line, measures and reports."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--braise", required=True, help="the program, with flags if need be")
    parser.add_argument("--peer", type=program, action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--model", type=Path, action="append", required=True, help="a .gguf file")
    parser.add_argument("--test", type=Test, action="append", required=True, help="ppN or tgN, with @D at a depth")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--reps", type=int, default=1, help="repetitions in a run, after one to warm up")
    parser.add_argument("--timeout", type=int, default=900, help="seconds that a run may take")
    parser.add_argument("--others", type=float, default=0.05, help="share of the CPUs that others may take in a turn")
    parser.add_argument("--unfair", action="append", default=[], metavar="TEXT", help="what is not fair about a peer")
    parser.add_argument("--title", default="braise and its peers")
    parser.add_argument("--record", type=Path, help="where to write NAME.md and NAME.jsonl")
    options = parser.parse_args()
    if options.turns < 1 or options.reps < 1 or options.threads < 1:
        parser.error("--turns, --reps and --threads must be 1 or more")
    options.programs = [Program(BRAISE, shlex.split(options.braise)), *options.peer]
    if len({p.name for p in options.programs}) < len(options.programs):
        parser.error("two programs have the same name")
    results = list(measure(options))
    print(table(results, options), end="")
    if options.record:
        options.record.parent.mkdir(parents=True, exist_ok=True)
        # no suffix is cut: a name may have dots
        Path(f"{options.record}.md").write_text(report(results, options))
        Path(f"{options.record}.jsonl").write_text("".join(json.dumps(run) + "\n" for run in results))
    return 0 if any(run["program"] == BRAISE and "rate" in run for run in results) else 1


if __name__ == "__main__":
    sys.exit(main())
