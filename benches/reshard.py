#!/usr/bin/env python3
"""Measures re-sharding beside `cp`, `tar` and webdataset, and kills a shuffle ten times, on a set that it makes.

Usage: benches/reshard.py PHOTOS WORK [--samples 200000] [--shards 100] [--side 224] [--rounds 5] [--seed 1]

PHOTOS is a pattern of shards of photographs, which are shrunk and repeated until there are so many samples; WORK gets the
set (left there for the next call) and what is made of it. Rounds are in random order; before each measurement what was
written is removed and the disk caught up with. All is in the page cache if that has room. Prints medians, ranges and,
round by round, the rate beside the copy; processor time and peak memory of the process itself; the accounts; and whether
the shuffle that was killed gave the same bytes as the one that was not. SACCADE names the binary; webdataset is measured
by the python that runs this, where it has it.
"""

import argparse
import glob
import importlib.util
import io
import json
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SACCADE = os.environ.get("SACCADE", ROOT / "target/release/saccade")
KILLS = 10


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("work", type=pathlib.Path)
    for name, usual in {"samples": 200_000, "shards": 100, "side": 224, "rounds": 5, "seed": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    return parser.parse_args()


def make(options, to):
    """Shards of small photographs: every repetition has keys of its own, and a comment in each JPEG."""
    shrunk = options.work / "shrunk"
    call("shards", "reshard", "--jpeg", f"max-side={options.side}", options.photos, "--out", shrunk)
    pictures = []
    for path in sorted(shrunk.glob("*.tar")):
        with tarfile.open(path) as tar:
            pictures += [tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")]
    part = to.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    each = -(-options.samples // options.shards)
    for shard in range(options.shards):
        with tarfile.open(part / f"made-{shard:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(shard * each, min(options.samples, (shard + 1) * each)):
                picture = pictures[number % len(pictures)]
                comment = b"%08d" % number
                picture = picture[:2] + b"\xff\xfe" + (2 + len(comment)).to_bytes(2, "big") + comment + picture[2:]
                for ending, data in {"cls": b"%d" % (number % 1000), "jpg": picture}.items():
                    member = tarfile.TarInfo(f"{number:08d}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    shutil.rmtree(shrunk)
    part.rename(to)


def call(*words):
    done = subprocess.run([SACCADE, *words], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"reshard.py: saccade {' '.join(map(str, words))}: {done.stderr.strip()}")
    return done.stdout


def by_webdataset(shards, out):
    import webdataset

    with webdataset.ShardWriter(f"{out}/s-%06d.tar", maxcount=2000, verbose=0) as writer:
        for sample in webdataset.WebDataset(shards, shardshuffle=False):
            writer.write({name: data for name, data in sample.items() if name == "__key__" or name[0] != "_"})


def timed(command, out):
    """Seconds, processor seconds, and the most memory in MiB; what it printed."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    os.sync()
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = status
    if status != 0:
        sys.exit(f"reshard.py: {command} ended with {status}")
    return time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, said


def killed(words, out, shards):
    """How often the command was killed, and how long all calls took."""
    shutil.rmtree(out, ignore_errors=True)
    began, kills = time.monotonic(), 0
    # Twice in the first pass, then as more and more shards are in their places.
    aims = [0, 0] + [1 + shards * number // (KILLS - 2) * 9 // 10 for number in range(KILLS - 2)]
    while True:
        with subprocess.Popen([SACCADE, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            started = time.monotonic()
            while process.poll() is None and kills < KILLS:
                is_there = len(glob.glob(f"{out}/*.tar")) >= aims[kills] > 0
                if is_there or (aims[kills] == 0 and time.monotonic() - started > 1 + kills):
                    process.send_signal(signal.SIGKILL)
                    kills += 1
                    break
                time.sleep(0.01)
            if process.wait() == 0:
                return kills, time.monotonic() - began
            if process.returncode != -signal.SIGKILL:
                sys.exit(f"reshard.py: {words} ended with {process.returncode}")


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main():
    options = arguments()
    made = options.work / f"set-{options.samples}-{options.shards}-{options.side}"
    out = options.work / "out"
    options.work.mkdir(parents=True, exist_ok=True)
    if not made.exists():
        make(options, made)
    shards = sorted(made.glob("*.tar"))
    total = sum(path.stat().st_size for path in shards)
    call("shards", "index", *shards)
    subprocess.run(["cat", *shards], stdout=subprocess.DEVNULL, check=True)
    print(f"{len(shards)} shards, {total / 1e9:.2f} GB", flush=True)

    reshard = [SACCADE, "shards", "reshard", *shards, "--out", out, "--json"]
    ways = {
        "copy": [*reshard, "--name", "s"],
        "shuffle": [*reshard, "--shuffle", "1"],
        "shuffle in two passes": [*reshard, "--shuffle", "1", "--memory", "1GB"],
        "cp": ["cp", "-r", made, out / "x"],
        "cp and sync": ["sh", "-c", f"cp -r '{made}' '{out}/x' && sync"],
        "tar of the shards": ["tar", "-cf", out / "x.tar", "-C", made, "."],
    }
    if importlib.util.find_spec("webdataset"):
        code = f"import sys; sys.path[:0] = ['{ROOT}/benches']; import reshard; reshard.by_webdataset({[str(path) for path in shards]}, '{out}')"
        ways["webdataset"] = [sys.executable, "-c", code]
    found, accounts, draws = {name: [] for name in ways}, {}, random.Random(options.seed)
    for _ in range(options.rounds):
        for name in draws.sample(list(ways), len(ways)):
            *figures, said = timed(ways[name], out)
            found[name].append(figures)
            accounts.setdefault(name, said)
    for name, rounds in found.items():
        seconds, processor, memory = zip(*rounds)
        beside = [theirs / ours[0] for theirs, ours in zip(seconds, found["copy"])]
        print(f"{name}: {spread(seconds)} s, {spread(processor)} s of processor, {max(memory):.0f} MiB; "
              f"the copy has {spread(beside)} times its rate")
    for name in ("copy", "shuffle in two passes"):
        account = {key: value for key, value in json.loads(accounts[name]).items() if key not in ("sets", "seconds")}
        print(f"{name}: {json.dumps(account)}")

    words = ways["shuffle in two passes"][1:]
    timed([SACCADE, *words], out)
    expected = (out / "SHA256SUMS").read_text()
    kills, seconds = killed(words, out, len(shards))
    is_same = (out / "SHA256SUMS").read_text() == expected
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=out, check=True)
    print(f"killed {kills} times: {seconds:.1f} s, {'the same bytes' if is_same else 'OTHER BYTES'}")
    shutil.rmtree(out)
    sys.exit(0 if is_same and kills == KILLS else 1)


if __name__ == "__main__":
    main()
