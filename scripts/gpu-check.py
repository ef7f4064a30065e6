"""Checks and measures a GPU: called by gpu-check, whose head says what for."""

import argparse
import datetime
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time

# Results of models against references; results of steps computed in other ways.
TESTS = ["references::", "convnext::", "energy::tokens_go", "energy::chosen_tokens", "energy::gradients_of"]
TESTS += ["steps::precision::gradients", "steps::precision::losses", "steps::recompute::gradients", "steps::failures"]
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


def arguments():
    parser = argparse.ArgumentParser(prog="gpu-check")
    for name in ("root", "saccade", "tests", "attention"):
        parser.add_argument(name)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--data")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--torch", metavar="PYTHON")
    parser.add_argument("--json", default="gpu-check.json", type=pathlib.Path)
    return parser.parse_args()


class Check:
    def __init__(self, options):
        self.options, self.failures, self.began = options, [], time.monotonic()
        self.is_cpu = options.device.startswith("cpu")
        self.shards = [f"data.train={options.data or TRAIN_SHARDS}", f"data.validation={OTHER_SHARDS}", "data.window=4"]

    def call(self, *command, seconds=300, **environment):
        """What a command prints, and its line of complaint where it fails."""
        environment = {**os.environ, **environment}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment)
        except subprocess.TimeoutExpired:
            return None, f"not done after {seconds} s"
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
        said, why = self.call(self.options.tests, "--test-threads=1", *TESTS, SACCADE_DEVICE=self.options.device)
        found = {line.split()[1]: line.split()[-1] == "ok" for line in (said or "").splitlines() if line.startswith("test ") and " ... " in line}
        for name in (name for name, is_right in found.items() if not is_right):
            self.failed("test", name)
        if not found or (why and all(found.values())):
            self.failed("tests", why or "none was run")
        return found

    def attention(self):
        if not os.access(self.options.attention, os.X_OK):
            return None
        said, why = self.call(self.options.attention, self.options.device)
        if why:
            self.failed("benchmark of attention", why)
        return (said or "").splitlines()

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

    def steps(self):
        found = []
        for title, name, changes, again in SMALL if self.is_cpu else MODELS:
            changes = ["train.accumulate=1", *changes]
            ways = {"f32": [], "bf16": ["train.precision=bf16"]}
            if again:
                ways["bf16, blocks again"] = ["train.precision=bf16", "train.recompute=true"]
            for way, more in ways.items():
                ours, theirs = self.bench("step", name, changes + more), None
                if way != "bf16, blocks again":
                    theirs = self.torch_step(name, changes + more)
                found.append({"model": title, "way": way, "ours": ours, "pytorch": theirs})
                rate = ours["samples_per_second"] if ours else float("nan")
                print(f"   {title}, {way}: {rate:.1f} images/s", flush=True)
        return found

    def together(self):
        """The data path and the step, alone and together, by the number of workers."""
        name, changes = (SMALL if self.is_cpu else MODELS)[0][1:3]
        changes = ["train.accumulate=1", "train.precision=" + ("f32" if self.is_cpu else "bf16"), *changes]
        step, found = self.bench("step", name, changes), []
        cores = len(os.sched_getaffinity(0))
        for workers in [1, 2] if self.is_cpu else [4, 8, 16]:
            here = [*changes, f"stream.workers={workers}"]
            alone, both = self.bench("data", name, here), self.bench("train", name, here)
            if not (step and alone and both):
                continue
            least = min(step["samples_per_second"], alone["samples_per_second"])
            waits = sum(stage["starved_seconds"] for stage in both["stages"] if stage["stage"] == "train")
            found.append({
                "workers": workers, "cores": cores, "data": alone["samples_per_second"], "step": step["samples_per_second"],
                "together": both["samples_per_second"], "of_the_lesser": both["samples_per_second"] / least,
                "waits": waits / both["seconds"], "bottleneck": both["bottleneck"],
            })
        return found

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
                return None
            last = self.losses(folder / precision)[-COURSE_WINDOW:]
            means[precision] = sum(last) / len(last)
        apart = abs(means["bf16"] / means["f32"] - 1)
        if not apart < COURSE_APART:
            self.failed("bfloat16", f"losses end {apart:.1%} apart: {means}")
        return {**means, "apart": apart}

    def resumed(self, folder):
        """Whether a run that was taken up at its first checkpoint ends as one that was not, to the bit."""
        whole, cut = folder / "whole", folder / "cut"
        if not (self.train(whole, 40) and self.train(cut, 40)):
            return None
        repeats = self.losses(whole) == self.losses(cut)
        checkpoints = sorted((cut / "checkpoints").iterdir())
        for newer in checkpoints[1:]:
            shutil.rmtree(newer) if newer.is_dir() else newer.unlink()
        if not self.train(cut, 40, resume=True):
            return None
        begun = [json.loads(line)["step"] for line in open(cut / "sessions.jsonl")]
        if begun != [0, 20]:
            self.failed("resuming", f"the run was begun at steps {begun}, not at 0 and 20")
        apart = max(abs(one / other - 1) for one, other in zip(self.losses(whole), self.losses(cut)))
        if not apart <= (0 if self.is_cpu else RESUMED_APART):
            self.failed("resuming", f"losses differ by up to {apart:.1e}")
        return {"two runs are equal": repeats, "resumed apart": apart}


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
    mib = lambda figures: f"{figures['gpu_mib']:>8}" if figures and figures["gpu_mib"] else f"{'-':>8}"
    print(f"{'step, images/s':<58}{'ours':>10}{'PyTorch':>10}{'MiB':>8}")
    for step in found["steps"]:
        name = f"{step['model']}, {step['way']}"
        print(f"{name:<58}{rate(step['ours'])}{rate(step['pytorch'])}{mib(step['ours'])}")
    print(f"{'images/s by workers':<22}{'data':>10}{'step':>10}{'together':>10}{'of lesser':>10}{'waits':>8}  limited by")
    for line in found["together"]:
        print(
            f"{line['workers']:<22}{line['data']:>10.1f}{line['step']:>10.1f}{line['together']:>10.1f}"
            f"{line['of_the_lesser']:>10.1%}{line['waits']:>8.1%}  {line['bottleneck']}"
        )
    right = sum(found["references"].values())
    print(f"tests right: {right} of {len(found['references'])}; precision: {found['precision']}; resuming: {found['resumed']}")


def main():
    options = arguments()
    options.json = options.json.absolute()
    # Before anything is measured: a place that cannot be written is found now.
    try:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.touch()
    except OSError as error:
        sys.exit(f"gpu-check: --json {options.json}: {error.strerror}")
    os.chdir(options.root)
    check, found = Check(options), {}
    check.ready()
    found["machine"] = check.machine()
    print(found["machine"])
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
        for name, part in parts.items():
            print(f"== {name}", flush=True)
            found[name] = part()
            found["seconds"] = time.monotonic() - check.began
            # What was found stays found, whatever becomes of the rest.
            options.json.write_text(json.dumps({**found, "failures": check.failures}, indent=1) + "\n")
    table(found)
    print(f"{found['seconds']:.0f} s; all figures are in {options.json}")
    if check.failures:
        sys.exit("gpu-check: " + "; ".join(check.failures))


main()
