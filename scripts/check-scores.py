"""Compares what a run says with what others make of it: `saccade eval` with scikit-learn's scores of the same features,
`saccade umap` with umap-learn's plane of them, and the run's lines with what TensorBoard reads in its event files.

Called by check-scores. Every deviation ends it with a message.
"""

import io
import json
import pathlib
import subprocess
import sys
from xml.etree import ElementTree

import numpy
import umap
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import trustworthiness
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.preprocessing import normalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# Products and sums in another order put a neighbour or two in another place.
KNN_SAMPLES_APART = 4
PROBE_SHARE_APART = 0.005
# Over 20 seeds, both planes' trustworthiness deviates by 0.0003 or less, and both means are equal to four digits.
TRUST_APART = 0.005
# The share of points whose nearest one has their label deviates by 0.011 from seed to seed, umap-learn's as much as
# ours: a plane would be this much worse by chance in every tenth run, a mean over five in one of some hundreds.
NEAREST_SHARE_APART = 0.02
SEEDS = range(5)
# What both take for the graph, and what trustworthiness looks at.
NEIGHBOURS = 15

failures = []


def call(saccade, *arguments):
    return subprocess.run([saccade, *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def embedded(saccade, run, split, folder):
    out = folder / split
    call(saccade, "embed", run, "--split", split, "--out", out)
    features = numpy.load(out / "features.npy")
    labels = numpy.load(out / "labels.npy")
    keys = json.loads((out / "keys.json").read_text())
    assert features.dtype == numpy.float32 and features.shape[0] == len(labels) == len(set(keys)), split
    return features.astype(numpy.float64), labels


def compare(name, ours, theirs, most, whose="scikit-learn", may_be_more=False):
    apart = theirs - ours if may_be_more else abs(ours - theirs)
    print(f"{name:<34} ours {ours:.4f}  {whose} {theirs:.4f}  apart {apart:.4f}, at most {most:.4f}")
    if not apart <= most:
        failures.append(name)


def check_scores(saccade, run, train, train_labels, held_out, labels):
    scores = json.loads(call(saccade, "eval", run, "--k", "1,20", "--json"))
    assert scores["train"]["samples"] == len(train) and scores["held_out"]["samples"] == len(held_out)
    shares = numpy.linalg.svd(held_out, compute_uv=False)
    shares = shares / shares.sum() + 1e-7
    compare("RankMe / 100", scores["rankme"] / 100, numpy.exp(-(shares * numpy.log(shares)).sum()) / 100, 1e-4)

    mean, deviation = train.mean(0), train.std(0)
    deviation[deviation < 1e-8] = 1.0
    train, held_out = (train - mean) / deviation, (held_out - mean) / deviation
    for score in scores["knn"]:
        cosine, weighted = score["nearness"] == "cosine", score["votes"] == "weighted"
        known, asked = (normalize(train), normalize(held_out)) if cosine else (train, held_out)
        # Of unit vectors |a - b|² = 2 - 2 cos.
        by_cosine = lambda distances: numpy.exp((1 - distances**2 / 2) / 0.07)
        weights = "uniform" if not weighted else by_cosine if cosine else "distance"
        theirs = KNeighborsClassifier(score["k"], weights=weights, algorithm="brute").fit(known, train_labels)
        name = f"kNN {score['nearness']} k={score['k']} {score['votes']}"
        compare(name, score["accuracy"], theirs.score(asked, labels), KNN_SAMPLES_APART / len(labels))

    # By the default solver, the same minimum takes ten times as long.
    theirs = LogisticRegression(solver="newton-cg", max_iter=5000, tol=1e-6).fit(train, train_labels)
    compare("linear probe", scores["probe"]["top1"], theirs.score(held_out, labels), PROBE_SHARE_APART)


def drawn(saccade, run, labels, seed, folder):
    """The points of `saccade umap`, as the drawing has them: to a tenth of a pixel of 800."""
    out = folder / f"plane-{seed}.svg"
    call(saccade, "umap", run, "--neighbours", NEIGHBOURS, "--seed", seed, "--out", out)
    circles = [circle.attrib for circle in ElementTree.parse(out).iter("{http://www.w3.org/2000/svg}circle")]
    # Those behind the points are the legend's.
    points, legend = circles[: len(labels)], circles[len(labels) :]
    colours = {(label, point["fill"]) for label, point in zip(labels, points)}
    assert len(points) == len(labels) and len(colours) == len(legend) == len(set(labels)), "points in another order"
    return numpy.array([(float(point["cx"]), float(point["cy"])) for point in points])


def nearest_share(points, labels):
    nearest = NearestNeighbors(n_neighbors=1).fit(points).kneighbors(return_distance=False)[:, 0]
    return (labels[nearest] == labels).mean()


def check_plane(saccade, run, features, labels, folder):
    ours = [drawn(saccade, run, labels, seed, folder) for seed in SEEDS]
    laid_out = lambda seed: umap.UMAP(n_neighbors=NEIGHBOURS, random_state=seed, n_jobs=1).fit_transform(features)
    theirs = [laid_out(seed) for seed in SEEDS]
    trust = lambda planes: numpy.mean([trustworthiness(features, plane, n_neighbors=NEIGHBOURS) for plane in planes])
    share = lambda planes: numpy.mean([nearest_share(plane, labels) for plane in planes])
    compare("UMAP trustworthiness", trust(ours), trust(theirs), TRUST_APART, "umap-learn")
    compare("UMAP nearest has the same label", share(ours), share(theirs), NEAREST_SHARE_APART, "umap-learn", True)


def check_events(run):
    assert any((run / "tensorboard").glob("events.out.tfevents.*")), "the run left no event files"
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()
    tags = events.Tags()

    def same(name, expected):
        points = [(point.step, point.value) for point in events.Scalars(name)] if name in tags["scalars"] else []
        # An event file keeps the digits of float32.
        is_same = len(points) > 0 and points == [(step, float(numpy.float32(value))) for step, value in expected]
        print(f"{'TensorBoard ' + name:<34} {len(points)} points, {'the same' if is_same else 'others'}")
        if not is_same:
            failures.append(f"event file's {name}")

    lines = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    same("loss/total", [(line["step"], line["loss"]) for line in lines])
    for term in lines[0]["terms"]:
        same(f"loss/{term}", [(line["step"], line["terms"][term]) for line in lines])
    same("schedule/learning_rate", [(line["step"], line["learning_rate"]) for line in lines])
    # After so many steps, so at the step before.
    scores = json.loads((run / "scores.json").read_text())
    same("scores/knn", [(score["step"] - 1, score["knn"]) for score in scores])
    for name in ["batch", "attention"]:
        images = events.Images(name) if name in tags["images"] else []
        for image in images:
            size = Image.open(io.BytesIO(image.encoded_image_string), formats=["PNG"]).convert("RGB").size
            assert size == (image.width, image.height), f"{name}: {size} is said to be {image.width} x {image.height}"
        print(f"{'TensorBoard ' + name:<34} {len(images)} images")
        if not images:
            failures.append(f"event file's {name}")


def main(saccade, run, folder):
    run, folder = pathlib.Path(run), pathlib.Path(folder)
    check_events(run)
    (train, train_labels), (held_out, labels) = (embedded(saccade, run, split, folder) for split in ("train", "validation"))
    check_scores(saccade, run, train, train_labels, held_out, labels)
    check_plane(saccade, run, held_out, labels, folder)
    if failures:
        sys.exit(f"check-scores: differs: {', '.join(failures)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
