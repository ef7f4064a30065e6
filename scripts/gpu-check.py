"""Checks and measures a GPU: called by gpu-check, whose head says what for."""

import argparse
import datetime
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

# Results of models against references; results of steps computed in other ways.
TESTS = ["references::", "convnext::", "energy::tokens_go", "energy::chosen_tokens", "energy::gradients_of"]
TESTS += ["fused::gelu_is_the", "fused::gelu_elsewhere", "fused::norm", "fused::attention_elsewhere", "uploaded::"]
TESTS += ["steps::precision::gradients", "steps::recompute::gradients", "steps::ranks::ranks_have", "steps::failures"]
# Some minutes of training.
TESTS += ["steps::precision::losses"]
# A name, a pipeline file, changes to it, and whether blocks are computed again to fit.
MODELS = [
    ("ViT-S/16 I-JEPA", "ijepa-vit-s16-in1k", ["train.batch=256"], False),
    ("ViT-B/16 I-JEPA", "ijepa-vit-s16-in1k", ["encoder.size=base", "train.batch=128"], False),
    ("ViT-L/16 I-JEPA", "ijepa-vit-s16-in1k", ["encoder.size=large", "train.batch=64"], False),
    ("ViT-H/14 I-JEPA", "ijepa-vit-h14-in1k", ["train.batch=32"], True),
    ("Energy Transformer I-JEPA", "ijepa-energy-in1k", ["train.batch=128"], False),
    ("ConvNeXt-T saccade", "saccade-convnext-t-in1k", ["train.batch=128"], False),
]
SMALL = [
    ("ViT I-JEPA, 28 pixels", "quickstart", [], True),
    ("Energy Transformer I-JEPA, 28 pixels", "fashion-energy", [], False),
    ("ConvNeXt saccade, 28 pixels", "fashion-saccade", [], False),
]
# The mean of so many losses at the end of a course differs by less between precisions: 0.002 on a CPU.
COURSE_STEPS, COURSE_WINDOW, COURSE_APART = 200, 50, 0.015
# Losses of a run that was taken up may differ where sums have no fixed order, on a GPU; by how much, none has told yet.
RESUMED_APART = 0.02
TRAIN_SHARDS, OTHER_SHARDS = "shards/fashion-train-{000000..000003}.tar", "shards/fashion-validation-{000000..000001}.tar"
TRAIN_SAMPLES, TRAIN_BATCH = 6000, 32


PARTS = ["references", "attention", "steps", "together", "precision", "resumed"]
# Of a GPU's memory a step may be expected to take; batches are halved until it does.
MOST_OF_MEMORY = 0.85
# What training is to have of the slower of data path and step, and the most that it may wait where the data path is faster.
LEAST_OF_THE_LESSER, MOST_WAITS = 0.95, 0.01


def arguments():
    parser = argparse.ArgumentParser(prog="gpu-check")
    for name in ("root", "saccade", "tests", "attention"):
        parser.add_argument(name)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--data")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--torch", metavar="PYTHON")
    parser.add_argument("--json", default="gpu-check.json", type=pathlib.Path)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--only", default=",".join(PARTS), type=lambda text: text.split(","))
    parser.add_argument("--model", default="")
    options = parser.parse_args()
    for part in options.only:
        if part not in PARTS:
            sys.exit(f"gpu-check: --only {part}: there are {', '.join(PARTS)}")
    return options


class Over(Exception):
    """There is no time left."""


def over(*_):
    raise Over


class Check:
    def __init__(self, options):
        self.options, self.failures, self.found, self.began = options, [], {}, time.monotonic()
        if options.only != PARTS and options.json.stat().st_size > 0:
            # What an earlier call found.
            try:
                found = json.loads(options.json.read_text())
                device = found["machine"]["device"]
            except (ValueError, KeyError, TypeError):
                sys.exit(f"gpu-check: --json {options.json}: holds no figures of an earlier call; name another file")
            if device != options.device:
                sys.exit(f"gpu-check: --json {options.json}: holds figures of {device}; name another file")
            self.found = {part: found[part] for part in PARTS if part in found}
        self.is_cpu = options.device.startswith("cpu")
        self.end = self.began + 60 * options.minutes
        self.shards = [f"data.train={options.data or TRAIN_SHARDS}", f"data.validation={OTHER_SHARDS}", "data.window=4"]

    def save(self, name, figures):
        """What was found stays found, whatever becomes of the rest."""
        self.found[name] = figures
        found = {**self.found, "seconds": time.monotonic() - self.began, "failures": self.failures}
        self.options.json.write_text(json.dumps(found, indent=1) + "\n")

    def call(self, *command, seconds=300, **environment):
        """What a command prints, and its line of complaint where it fails."""
        environment, left = {**os.environ, **environment}, self.end - time.monotonic()
        if left <= 0:
            raise Over
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=min(seconds, left), env=environment)
        except OSError as error:
            return None, f"{command[0]}: {error.strerror}"
        except subprocess.TimeoutExpired as late:
            said = (late.stdout or b"").decode(errors="replace") if not isinstance(late.stdout, str) else late.stdout
            return said, f"not done after {min(seconds, left):.0f} s"
        if done.returncode == 0:
            return done.stdout, None
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("error")] or said[-1:]
        return done.stdout, errors[0] if errors else f"exit code {done.returncode}"

    def failed(self, what, why):
        self.failures.append(f"{what}: {why}")
        print(f"   FAILED {what}: {why}", flush=True)

    def file(self, name, changes=()):
        sets = [f"device={self.options.device}", *self.shards, *changes]
        return [f"pipelines/{name}.toml", *(word for change in sets for word in ("--set", change))]

    def ready(self):
        """Ends with one line where nothing could be checked."""
        why = self.call(self.options.saccade, "bench", "step", *self.file("quickstart"), "--seconds", "0.1")[1]
        if why:
            sys.exit(f"gpu-check: --device {self.options.device}: {why}")

    def machine(self):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        gpu = self.call(*query)[0] if shutil.which("nvidia-smi") and not self.is_cpu else None
        models = [line for line in open("/proc/cpuinfo") if line.startswith("model name")] or [":unknown"]
        return {
            "date": datetime.date.today().isoformat(),
            "device": self.options.device,
            "gpu": gpu and gpu.strip(),
            "cpu": f"{len(os.sched_getaffinity(0))} cores, {models[0].split(':')[1].strip()}",
        }

    def references(self):
        """Each test is named with whether it passed."""
        # Where these tests were built there may be another folder than here.
        data = os.environ.get("SACCADE_REFERENCE", str(pathlib.Path("tests/data/reference").absolute()))
        found = {}
        for some in TESTS:
            command = [self.options.tests, "--test-threads=1", some]
            said, why = self.call(*command, SACCADE_DEVICE=self.options.device, SACCADE_REFERENCE=data)
            lines = [line for line in (said or "").splitlines() if line.startswith("test ") and " ... " in line]
            of_these = {line.split()[1]: line.split()[-1] == "ok" for line in lines}
            for name in (name for name, is_right in of_these.items() if not is_right):
                self.failed("test", name)
            if not of_these or (why and all(of_these.values())):
                self.failed(f"tests {some}", why or "none was run")
            found |= of_these
            self.save("references", found)

    def attention(self):
        if not os.access(self.options.attention, os.X_OK):
            if "attention" in self.options.only and self.options.only != PARTS:
                self.failed("benchmark of attention", "is not built")
            return
        said, why = self.call(self.options.attention, self.options.device)
        if why:
            self.failed("benchmark of attention", why)
        self.save("attention", (said or "").splitlines())

    def bench(self, what, name, changes):
        """The figures of a benchmark, with the most of the GPU's memory that was in use meanwhile."""
        command = [self.options.saccade, "bench", what, *self.file(name, changes), "--json"]
        with Memory(self.options.device) as memory:
            said, why = self.call(*command, "--seconds", str(self.options.seconds))
        if why:
            self.failed(f"bench {what} {name} {' '.join(changes)}", why)
            return None
        figures = json.loads(said)
        return {**figures, "gpu_mib": memory.most}

    def torch_step(self, name, changes):
        if not self.options.torch:
            return None
        device = ["--device", self.options.device, *([] if self.is_cpu else ["--compile"])]
        command = [self.options.torch, "benches/peers/torch_step.py", f"pipelines/{name}.toml", *device]
        command += [word for change in changes for word in ("--set", change)]
        said, why = self.call(*command, "--seconds", str(self.options.seconds))
        if why:
            self.failed(f"PyTorch's step of {name}", why)
            return None
        return json.loads(said)

    def fitting(self, name, changes):
        """The changes with a batch that is to fit the GPU, and the bytes that its step is expected to take."""
        mib = re.search(r"(\d+) MiB", self.found["machine"]["gpu"] or "")
        total = MOST_OF_MEMORY * int(mib[1]) * 2**20 if mib else float("inf")
        while True:
            said, why = self.call(self.options.saccade, "check", *self.file(name, changes), "--json")
            if why:
                self.failed(f"check {name} {' '.join(changes)}", why)
                return changes, None
            expected = json.loads(said)["step_memory_bytes"]
            batch = [change for change in changes if change.startswith("train.batch=")]
            if expected <= total or not batch or batch[0] == "train.batch=1":
                return changes, expected
            smaller = f"train.batch={int(batch[0].partition('=')[2]) // 2}"
            changes = [smaller if change in batch else change for change in changes]

    def steps(self):
        found = []
        chosen = [model for model in (SMALL if self.is_cpu else MODELS) if self.options.model in model[0]]
        if not chosen:
            self.failed("steps", f"no model's name holds {self.options.model}")
        for title, name, changes, again in chosen:
            changes = ["train.accumulate=1", *changes]
            ways = {"f32": [], "bf16": ["train.precision=bf16"]}
            if again:
                ways["bf16, blocks again"] = ["train.precision=bf16", "train.recompute=true"]
            for way, more in ways.items():
                settings, expected = self.fitting(name, changes + more)
                batch = [change for change in settings if change.startswith("train.batch=")]
                ours, theirs = self.bench("step", name, settings), None
                found.append({"model": title, "way": way, "changes": settings, "expected_bytes": expected, "ours": ours})
                rate = ours["samples_per_second"] if ours else float("nan")
                print(f"   {title}, {way} {' '.join(batch)}: {rate:.1f} images/s", flush=True)
                self.save("steps", found)
                if way != "bf16, blocks again":
                    found[-1]["pytorch"] = self.torch_step(name, settings)
                    self.save("steps", found)

    def together(self):
        """The data path and the step, alone and together, by the number of workers."""
        name, changes = (SMALL if self.is_cpu else MODELS)[0][1:3]
        changes = ["train.accumulate=1", "train.precision=" + ("f32" if self.is_cpu else "bf16"), *changes]
        changes = self.fitting(name, changes)[0]
        step, found = self.bench("step", name, changes), []
        cores = len(os.sched_getaffinity(0))
        for workers in [1, 2] if self.is_cpu else [4, 8, 16]:
            here = [*changes, f"stream.workers={workers}"]
            alone, both = self.bench("data", name, here), self.bench("train", name, here)
            if not (step and alone and both):
                return
            least = min(step["samples_per_second"], alone["samples_per_second"])
            waits = sum(stage["starved_seconds"] for stage in both["stages"] if stage["stage"] == "train")
            found.append({
                "workers": workers, "cores": cores, "data": alone["samples_per_second"], "step": step["samples_per_second"],
                "together": both["samples_per_second"], "of_the_lesser": both["samples_per_second"] / least,
                "waits": waits / both["seconds"], "bottleneck": both["bottleneck"],
            })
            self.save("together", found)
            # On a CPU both want the same processors.
            if not self.is_cpu and found[-1]["of_the_lesser"] < LEAST_OF_THE_LESSER:
                self.failed(f"together, {workers} workers", f"{found[-1]['of_the_lesser']:.1%} of the slower of the two")
            is_fed = alone["samples_per_second"] > step["samples_per_second"]
            if not self.is_cpu and is_fed and found[-1]["waits"] > MOST_WAITS:
                self.failed(f"together, {workers} workers", f"waits for {found[-1]['waits']:.1%} of the time")

    def losses(self, folder):
        return [json.loads(line)["loss"] for line in open(folder / "steps.jsonl")]

    def train(self, folder, steps, changes=(), resume=False):
        """Trains the smallest model on the small pictures, whatever the device and the shards."""
        epochs = (steps + 0.5) * TRAIN_BATCH / TRAIN_SAMPLES
        changes = [f"data.train={TRAIN_SHARDS}", f"train.batch={TRAIN_BATCH}", f"train.epochs={epochs}", "train.warmup_epochs=0.05", "checkpoint.every_steps=20", *changes]
        words = ["--resume", str(folder)] if resume else [*self.file("quickstart", changes), "--out", str(folder)]
        why = self.call(self.options.saccade, "train", *words)[1]
        made = len(self.losses(folder)) if why is None else 0
        if made != steps:
            self.failed(f"training {' '.join(changes)}", why or f"{made} steps in place of {steps}")
        return made == steps

    def precision(self, folder):
        """Losses of a course in 32 bits and in bfloat16."""
        means = {}
        for precision in ("f32", "bf16"):
            if not self.train(folder / precision, COURSE_STEPS, [f"train.precision={precision}"]):
                return
            last = self.losses(folder / precision)[-COURSE_WINDOW:]
            means[precision] = sum(last) / len(last)
        apart = abs(means["bf16"] / means["f32"] - 1)
        if not apart < COURSE_APART:
            self.failed("bfloat16", f"losses end {apart:.1%} apart: {means}")
        self.save("precision", {**means, "apart": apart})

    def resumed(self, folder):
        """Whether a run that was taken up at its first checkpoint ends as one that was not, to the bit."""
        whole, cut = folder / "whole", folder / "cut"
        if not (self.train(whole, 40) and self.train(cut, 40)):
            return
        repeats = self.losses(whole) == self.losses(cut)
        checkpoints = sorted((cut / "checkpoints").iterdir())
        for newer in checkpoints[1:]:
            shutil.rmtree(newer) if newer.is_dir() else newer.unlink()
        if not self.train(cut, 40, resume=True):
            return
        begun = [json.loads(line)["step"] for line in open(cut / "sessions.jsonl")]
        if begun != [0, 20]:
            self.failed("resuming", f"the run was begun at steps {begun}, not at 0 and 20")
        apart = max(abs(one / other - 1) for one, other in zip(self.losses(whole), self.losses(cut)))
        if not apart <= (0 if self.is_cpu else RESUMED_APART):
            self.failed("resuming", f"losses differ by up to {apart:.1e}")
        self.save("resumed", {"two runs are equal": repeats, "resumed apart": apart})


class Memory:
    """The most of a GPU's memory that is in use, in MiB."""

    def __init__(self, device):
        self.most, self.over, self.number = None, threading.Event(), device.partition(":")[2] or "0"
        is_there = not device.startswith("cpu") and shutil.which("nvidia-smi")
        self.thread = threading.Thread(target=self.watch) if is_there else None

    def watch(self):
        query = ["nvidia-smi", "-i", self.number, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while not self.over.wait(0.25):
            said = subprocess.run(query, capture_output=True, text=True).stdout.split()
            self.most = max(self.most or 0, int(said[0])) if said and said[0].isdigit() else self.most

    def __enter__(self):
        if self.thread:
            self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        if self.thread:
            self.thread.join()


def table(found):
    rate = lambda figures: f"{figures['samples_per_second']:>10.1f}" if figures else f"{'-':>10}"
    mib = lambda number: f"{number:>10.0f}" if number else f"{'-':>10}"
    for line in found.get("attention", []):
        print(line)
    if "steps" in found:
        print(f"{'step, images/s':<58}{'ours':>10}{'PyTorch':>10}{'MiB':>10}{'expected':>10}")
    for step in found.get("steps", []):
        ours, expected = step["ours"], (step["expected_bytes"] or 0) / 2**20
        figures = rate(ours) + rate(step.get("pytorch")) + mib(ours and ours["gpu_mib"]) + mib(expected)
        print(f"{step['model'] + ', ' + step['way']:<58}{figures}")
    if "together" in found:
        print(f"{'images/s by workers':<22}{'data':>10}{'step':>10}{'together':>10}{'of lesser':>10}{'waits':>8}  limited by")
    for line in found.get("together", []):
        print(
            f"{line['workers']:<22}{line['data']:>10.1f}{line['step']:>10.1f}{line['together']:>10.1f}"
            f"{line['of_the_lesser']:>10.1%}{line['waits']:>8.1%}  {line['bottleneck']}"
        )
    tests = found.get("references", {})
    print(f"tests right: {sum(tests.values())} of {len(tests)}; precision: {found.get('precision')}; resuming: {found.get('resumed')}")


def main():
    options = arguments()
    options.json = options.json.absolute()
    # Before anything is measured: a place that cannot be written is found now.
    try:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.touch()
    except OSError as error:
        sys.exit(f"gpu-check: --json {options.json}: {error.strerror}")
    options.torch = options.torch and os.path.abspath(options.torch)
    os.chdir(options.root)
    check, left = Check(options), list(options.only)
    check.ready()
    check.save("machine", check.machine())
    print(check.found["machine"])
    signal.signal(signal.SIGTERM, over)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        folder = pathlib.Path(folder)
        parts = {
            "references": check.references,
            "attention": check.attention,
            "steps": check.steps,
            "together": check.together,
            "precision": lambda: check.precision(folder),
            "resumed": lambda: check.resumed(folder),
        }
        try:
            for name in options.only:
                print(f"== {name}", flush=True)
                parts[name]()
                left.remove(name)
        except Over:
            check.failed("time", f"none was left for {', '.join(left)}: call again with --only {','.join(left)}")
    check.save("machine", check.found["machine"])
    table(check.found)
    print(f"{time.monotonic() - check.began:.0f} s; all figures are in {options.json}")
    if check.failures:
        sys.exit("gpu-check: " + "; ".join(check.failures))


main()
