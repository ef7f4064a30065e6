"""Scores the features of a run by scikit-learn, and compares with what `saccade eval` says of them.

Called by check-scores. Every deviation ends it with a message.
"""

import json
import pathlib
import subprocess
import sys

import numpy
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

# Products and sums in another order put a neighbour or two in another place.
KNN_SAMPLES_APART = 4
PROBE_SHARE_APART = 0.005


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


def main(saccade, run, folder):
    folder = pathlib.Path(folder)
    scores = json.loads(call(saccade, "eval", run, "--k", "1,20", "--json"))
    (train, train_labels), (held_out, labels) = (embedded(saccade, run, split, folder) for split in ("train", "validation"))
    assert scores["train"]["samples"] == len(train) and scores["held_out"]["samples"] == len(held_out)
    mean, deviation = train.mean(0), train.std(0)
    deviation[deviation < 1e-8] = 1.0
    train, held_out = (train - mean) / deviation, (held_out - mean) / deviation

    failures = []

    def compare(name, ours, theirs, most):
        apart = abs(ours - theirs)
        print(f"{name:<34} ours {ours:.4f}  scikit-learn {theirs:.4f}  apart {apart:.4f}, at most {most:.4f}")
        if not apart <= most:
            failures.append(name)

    for score in scores["knn"]:
        cosine, weighted = score["nearness"] == "cosine", score["votes"] == "weighted"
        known, asked = (normalize(train), normalize(held_out)) if cosine else (train, held_out)
        # Of unit vectors |a - b|² = 2 - 2 cos.
        by_cosine = lambda distances: numpy.exp((1 - distances**2 / 2) / 0.07)
        weights = "uniform" if not weighted else by_cosine if cosine else "distance"
        theirs = KNeighborsClassifier(score["k"], weights=weights, algorithm="brute").fit(known, train_labels)
        name = f"kNN {score['nearness']} k={score['k']} {score['votes']}"
        compare(name, score["accuracy"], theirs.score(asked, labels), KNN_SAMPLES_APART / len(labels))

    theirs = LogisticRegression(max_iter=5000, tol=1e-6).fit(train, train_labels)
    compare("linear probe", scores["probe"]["top1"], theirs.score(held_out, labels), PROBE_SHARE_APART)

    raw = numpy.load(folder / "validation" / "features.npy").astype(numpy.float64)
    shares = numpy.linalg.svd(raw, compute_uv=False)
    shares = shares / shares.sum() + 1e-7
    compare("RankMe / 100", scores["rankme"] / 100, numpy.exp(-(shares * numpy.log(shares)).sum()) / 100, 1e-4)
    if failures:
        sys.exit(f"check-scores: differs from scikit-learn: {', '.join(failures)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
