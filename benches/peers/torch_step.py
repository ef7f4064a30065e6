"""Times one training step of a pipeline file's model in PyTorch, beside `saccade bench step`.

Usage: torch_step.py FILE [--set a.b=v]... [--seconds S] [--threads N] [--device cpu|cuda] [--compile]

A step is what ours is: target encoder forward, encoder and predictor forward and backward, AdamW, moving average. The
images are noise, the masks are drawn as ours are. Prints one JSON line with the keys of `saccade bench step --json`.
What ours computes beside that, the gradient norm and the targets' deviation, is left out. Needs the environment of
requirements-torch.txt, of which only torch is used. With train.precision = "bf16" the models run under autocast;
--compile has torch.compile make kernels of them. The loss is read back after each step, and on a GPU after
every 16th, as ours is.

Threads that share processors with other work wait for each other by spinning: then `--threads 1` is what to compare.
"""

import argparse
import copy
import json
import math
import random
import sys
import time
import tomllib

import torch
from torch.nn import functional

import torch_models as models

# As the other peers: fresh memory and caches settle in this time.
WARM_UP_SECONDS, WARM_UP_STEPS = 1.0, 4
# As ours on a GPU: steps between two looks at the loss, and the seconds after which it is looked at in any case.
READ_EVERY, LONGEST_UNREAD = 16, 0.5
# Draws of a batch's masks of which the one with the median number of tokens is used.
MASK_DRAWS = 101

# Width, depth, heads, hidden width.
SIZES = {
    "tiny": (192, 12, 3, 768),
    "small": (384, 12, 6, 1536),
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "huge": (1280, 32, 16, 5120),
    "giant": (1408, 40, 16, 6144),
}
CONVNEXT_SIZES = {
    "tiny": ([3, 3, 9, 3], [96, 192, 384, 768]),
    "small": ([3, 3, 27, 3], [96, 192, 384, 768]),
    "base": ([3, 3, 27, 3], [128, 256, 512, 1024]),
}


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=V")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


def configuration(path, overrides):
    with open(path, "rb") as file:
        config = tomllib.load(file)
    for change in overrides:
        key, _, value = change.partition("=")
        *tables, last = key.split(".")
        place = config
        for table in tables:
            place = place.setdefault(table, {})
        try:
            place[last] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            place[last] = value
    return config


# --- masks ---


def block_size(config, grid, scale, ratio, scale_draw, ratio_draw):
    between = lambda ends, draw: ends[0] + draw * (ends[1] - ends[0])
    keep, ratio = math.floor(grid * grid * between(scale, scale_draw)), between(ratio, ratio_draw)
    most = grid - 1 if config["mode"] == "shared-size" else grid
    return tuple(min(round(math.sqrt(side)), most) for side in (keep * ratio, keep / ratio))


def draw_sizes(config, grid, draw):
    """The size of the context block and of each target block."""
    context, target, ratio = config["context_scale"], config["target_scale"], config["target_ratio"]
    size = lambda *rest: block_size(config, grid, *rest)
    if config["mode"] == "shared-size":
        one, other = draw.random(), draw.random()
        return size(context, [1, 1], other, other), [size(target, ratio, one, one)] * config["target_blocks"]
    targets = [size(target, ratio, draw.random(), draw.random()) for _ in range(config["target_blocks"])]
    return size(context, [1, 1], draw.random(), 0.0), targets


def draw_sample(config, grid, sizes, draw):
    """The patches of one sample's context and of its target blocks."""
    last = 0 if config["mode"] == "shared-size" else 1

    def place(size):
        top, left = (draw.randrange(max(grid - side + last, 1)) for side in size)
        return [row * grid + column for row in range(top, top + size[0]) for column in range(left, left + size[1])]

    while True:
        targets = [place(size) for size in sizes[1]]
        taken = set().union(*targets)
        context = [patch for patch in place(sizes[0]) if patch not in taken]
        if len(context) > config["min_keep"]:
            return context, targets


def rows(lists, cut):
    """Indices `[rows, width]` and which are real: cut to the shortest row, or padded with patch 0 to the longest."""
    width = (min if cut else max)(map(len, lists))
    indices = torch.tensor([(row + [0] * width)[:width] for row in lists])
    real = torch.tensor([[place < len(row) for place in range(width)] for row in lists])
    return indices, None if real.all() else real


class Masks:
    """The masks of a batch; targets are `[blocks, batch, patches]`."""

    def __init__(self, config, grid, batch, draw):
        shared = draw_sizes(config, grid, draw)
        per_sample = config["mode"] == "per-sample"
        sizes = [draw_sizes(config, grid, draw) if per_sample else shared for _ in range(batch)]
        samples = [draw_sample(config, grid, each, draw) for each in sizes]
        self.blocks = config["target_blocks"]
        self.context, self.context_real = rows([context for context, _ in samples], not per_sample)
        blocks = [targets[block] for block in range(self.blocks) for _, targets in samples]
        self.targets, self.targets_real = rows(blocks, not per_sample)
        if self.context_real is not None or self.targets_real is not None:
            ones = lambda indices, real: torch.ones_like(indices, dtype=torch.bool) if real is None else real
            self.context_real = ones(self.context, self.context_real)
            self.targets_real = ones(self.targets, self.targets_real)

    def tokens(self):
        return self.context.numel() * (1 + self.blocks) + self.targets.numel()

    def part(self, start, end):
        part, batch = copy.copy(self), len(self.context)
        of_targets = lambda rows: rows.view(self.blocks, batch, -1)[:, start:end].flatten(0, 1)
        part.context, part.targets = self.context[start:end], of_targets(self.targets)
        if self.context_real is not None:
            part.context_real, part.targets_real = self.context_real[start:end], of_targets(self.targets_real)
        return part


def median_masks(config, grid, batch):
    draws = [Masks(config, grid, batch, random.Random(seed)) for seed in range(MASK_DRAWS)]
    return sorted(draws, key=Masks.tokens)[MASK_DRAWS // 2]


# --- objectives: models, and the loss of a part of the batch ---


class Ijepa:
    def __init__(self, config):
        image, patch, batch = config["augment"]["size"], config["encoder"]["patch"], config["train"]["batch"]
        energy = config["encoder"].get("kind", "vit") == "energy"
        trunk, (width, depth, heads, hidden) = energy_trunk if energy else vit_trunk, shape(config["encoder"])
        narrow = config["predictor"]
        narrow_heads, narrow_hidden = narrow.get("heads", heads), 4 * narrow["width"]
        encoder = trunk(config["encoder"], width, depth, heads, hidden)
        settings = {**config["encoder"], **narrow}
        narrow_trunk = trunk(settings, narrow["width"], depth_of(narrow), narrow_heads, narrow_hidden)
        self.encoder = models.PatchEncoder(image, patch, width, encoder, fixed=not energy)
        self.predictor = models.Predictor(image // patch, width, narrow["width"], narrow_trunk)
        self.images = torch.randn(batch, 3, image, image)
        self.masks = median_masks(config["mask"], image // patch, batch)

    def loss(self, target_encoder, start, end):
        images, masks = self.images[start:end], self.masks.part(start, end)
        with torch.no_grad():
            features = target_encoder(images)
            wanted = functional.layer_norm(features, features.shape[2:])
            wanted = models.take(wanted.repeat(masks.blocks, 1, 1), masks.targets)
        encoded = self.encoder(images, masks.context, masks.context_real)
        predicted = self.predictor(encoded, masks.context, masks.context_real, masks.targets, masks.targets_real)
        if masks.targets_real is None:
            return functional.smooth_l1_loss(predicted, wanted)
        loss = functional.smooth_l1_loss(predicted, wanted, reduction="none") * masks.targets_real[:, :, None]
        return loss.sum() / (masks.targets_real.sum() * wanted.shape[2])

    def about(self):
        mean = lambda indices, real: indices.shape[1] if real is None else real.sum(1).float().mean().item()
        context, targets = self.masks.context, self.masks.targets
        return {
            "context_patches": [mean(context, self.masks.context_real), context.shape[1]],
            "target_patches": [mean(targets, self.masks.targets_real), targets.shape[1]],
        }


def shape(encoder):
    if "size" in encoder:
        return SIZES[encoder["size"]]
    width = encoder["width"]
    return width, depth_of(encoder), encoder["heads"], encoder.get("memories", 4 * width)


def depth_of(settings):
    """Blocks, or iterations of the one block of an Energy Transformer."""
    return settings["depth"] if "depth" in settings else settings["iterations"]


def vit_trunk(_, width, depth, heads, hidden):
    return models.Transformer(width, depth, heads, hidden)


def energy_trunk(settings, width, depth, heads, hidden):
    """`depth` is the number of iterations."""
    alpha, memory = settings["step_size"], settings["memory"]
    return models.EnergyTransformer(width, depth, heads, settings.get("memories", hidden), alpha, memory)


class Saccade:
    # Which weights the terms have changes nothing about a step's time; these are LumenPallidium/jepa's.
    CYCLE, VARIANCE, COVARIANCE = 0.25, 25.0, 1.0

    def __init__(self, config):
        image, batch, encoder = config["augment"]["size"], config["train"]["batch"], config["encoder"]
        if encoder["kind"] == "convnext":
            sized = CONVNEXT_SIZES[encoder["size"]] if "size" in encoder else (encoder["depths"], encoder["widths"])
            depths, widths = ([number for number in numbers if number] for numbers in sized)
            scale = encoder.get("layer_scale", 1e-6)
            self.encoder, width = models.ConvNext(encoder.get("stem", 4), depths, widths, scale), widths[-1]
            self.encoder = self.encoder.to(memory_format=torch.channels_last)
        else:
            width, depth, heads, hidden = shape(encoder)
            trunk = vit_trunk(encoder, width, depth, heads, hidden)
            self.encoder = torch.nn.Sequential(models.PatchEncoder(image, encoder["patch"], width, trunk, True), Mean())
        predictor, projector = config["predictor"], config.get("projector")
        if projector:
            layers = models.mlp(width, *[projector["hidden"]] * (projector["layers"] - 1), projector["width"], norms=True)
            # Behind the encoder, so that it is trained, averaged and run as ours is.
            self.encoder, width = torch.nn.Sequential(self.encoder, layers), projector["width"]
        self.predictor = models.ShiftPredictor(width, predictor["hidden"], predictor["layers"])
        views = (torch.randn(batch, 3, image, image) for _ in range(2))
        self.views = [view.contiguous(memory_format=torch.channels_last) for view in views]
        self.shifts = torch.randn(batch, 3) * 0.1

    def loss(self, target_encoder, start, end):
        (first, second), shifts = (view[start:end] for view in self.views), self.shifts[start:end]
        with torch.no_grad():
            wanted = target_encoder(second)
        features = self.encoder(first)
        predicted = self.predictor(features, shifts)
        back = self.predictor(predicted, models.inverse(shifts))
        terms = self.VARIANCE * variance(features) + self.COVARIANCE * covariance(features)
        return functional.huber_loss(predicted, wanted) + self.CYCLE * functional.mse_loss(back, features) + terms

    def about(self):
        return {}


def moved(to_move, device):
    for name, value in list(vars(to_move).items()):
        if isinstance(value, (torch.Tensor, torch.nn.Module)):
            setattr(to_move, name, value.to(device))
        elif isinstance(value, list):
            setattr(to_move, name, [each.to(device) for each in value])
        elif isinstance(value, Masks):
            moved(value, device)
    return to_move


class Mean(torch.nn.Module):
    def forward(self, tokens):
        return tokens.mean(1)


def variance(features):
    """VICReg's (Bardes et al. 2022): gamma 1, epsilon 1e-4."""
    return (1 - (features.var(0) + 1e-4).sqrt()).relu().mean()


def covariance(features):
    centred = features - features.mean(0)
    matrix = centred.T @ centred / (len(features) - 1)
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / features.shape[1]


# --- the step and its clock ---


class Trainer:
    def __init__(self, config, device, compiles):
        kind = config.get("objective", {}).get("kind", "ijepa")
        self.objective = moved({"ijepa": Ijepa, "saccade": Saccade}[kind](config), device)
        train = config["train"]
        self.device, self.half = device, train.get("precision", "f32") == "bf16"
        self.batch, self.each = train["batch"], math.ceil(train["batch"] / train.get("accumulate", 1))
        self.decay = train["ema_decay"][0]
        self.target = copy.deepcopy(self.objective.encoder).requires_grad_(False)
        modules = [self.objective.encoder, self.objective.predictor]
        self.trained = [weight for module in modules for weight in module.parameters() if weight.requires_grad]
        matrices, vectors = ([weight for weight in self.trained if (weight.ndim > 1) == many] for many in (True, False))
        decay = train["weight_decay"][0]
        groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
        # The fastest of PyTorch's forms of AdamW.
        self.optimizer = torch.optim.AdamW(groups, lr=train["learning_rate"][0], fused=True)
        pairs = zip(self.target.parameters(), self.objective.encoder.parameters())
        self.averages, self.sources = zip(*((mean, weight) for mean, weight in pairs if weight.requires_grad))
        if compiles:
            self.target.compile()
            self.objective.encoder.compile()
            self.objective.predictor.compile()

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for start in range(0, self.batch, self.each):
            end = min(start + self.each, self.batch)
            with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.half):
                loss = self.objective.loss(self.target, start, end) * ((end - start) / self.batch)
            loss.backward()
            total += loss.detach()
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.sources, 1 - self.decay)
        return total

    def parameters(self):
        return sum(weight.numel() for weight in self.trained)


def measure(trainer, seconds):
    steps, start = 0, time.perf_counter()
    while steps < WARM_UP_STEPS or time.perf_counter() - start < WARM_UP_SECONDS:
        float(trainer.step())
        steps += 1
    # process_time is user and system time of all threads.
    every = 1 if trainer.device.startswith("cpu") else READ_EVERY
    steps, cpu, start = 0, time.process_time(), time.perf_counter()
    read = start
    while (now := time.perf_counter()) - start < seconds:
        loss, steps = trainer.step(), steps + 1
        if steps % every == 0 or now - read >= LONGEST_UNREAD:
            loss, read = float(loss), time.perf_counter()
    # Waits for the last of them.
    loss = float(loss)
    seconds, cpu, samples = time.perf_counter() - start, time.process_time() - cpu, steps * trainer.batch
    if not math.isfinite(loss):
        sys.exit(f"torch_step: loss is {loss}")
    return {
        "what": "step",
        "device": trainer.device,
        "seconds": seconds,
        "batches": steps,
        "samples": samples,
        "samples_per_second": samples / seconds,
        "cpu_milliseconds_per_sample": 1e3 * cpu / samples,
    }


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    # TF32 where there is such a thing, as ours may take it too.
    torch.set_float32_matmul_precision("high")
    trainer = Trainer(configuration(options.file, options.set), options.device, options.compile)
    about = {"trained_parameters": trainer.parameters(), **trainer.objective.about()}
    print(json.dumps({**measure(trainer, options.seconds), **about, "version": f"torch {torch.__version__}"}))


if __name__ == "__main__":
    main()
