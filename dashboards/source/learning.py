"""What is learnt: one run's loss, features, scores and schedules."""

from parts import (
    BLUE,
    COLLAPSED,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    RED,
    SKY,
    YELLOW,
    dashboard,
    lines,
    of_one,
    override,
    probe,
    stat,
    states,
    steps,
    target,
)

OUTPUTS = {"encoder": SKY, "target": ORANGE, "predictor": PINK}
SHARES = "knn|knn_before_training|knn_raw_pixels|probe_top1|probe_top5"

NUMBERS = (
    4,
    [
        (
            4,
            stat(
                "Loss",
                "Of the newest step that was read. Alone it says little: it also falls when features get simpler. Judge"
                " by the probe and the scores.",
                of_one("saccade_loss"),
                decimals=4,
            ),
        ),
        (
            4,
            stat(
                "Online probe",
                "Accuracy of a linear classifier that learns beside the training, on samples it never learns from. "
                "It should rise. Falling while the loss falls: look at the measures of collapse.",
                of_one(probe("5m")),
                "percentunit",
                decimals=1,
                empty="no labels",
            ),
        ),
        (
            4,
            stat(
                "kNN",
                "Newest score on the validation shards. Below the same encoder before training: nothing useful is"
                " learnt; see the scores below.",
                of_one('saccade_score{score="knn"}'),
                "percentunit",
                decimals=1,
                empty="no score yet",
            ),
        ),
        (
            4,
            stat(
                "RankMe of the target",
                "Directions that the features use. It falls in the first steps and should rise later. Near 1 "
                "for long is collapse: see the row below.",
                of_one('saccade_feature_rankme{output="target"}'),
                decimals=1,
            ),
        ),
        (
            4,
            stat(
                "Collapsed outputs",
                "Collapses found, of encoder, target and predictor. Above 0 for more than some minutes: stop, "
                "and set train.ema_decay nearer to 1 or a lower train.learning_rate.",
                of_one("sum by (instance, job) (saccade_collapse)"),
                decimals=0,
                thresholds=steps((None, SKY), (1, RED)),
            ),
        ),
        (
            4,
            stat(
                "Epoch",
                "Passes over the shards that are done. Scores that no longer rise after many: more images help more"
                " than more epochs.",
                of_one("saccade_epoch"),
                decimals=0,
            ),
        ),
    ],
)

LEARNING = (
    9,
    [
        (
            12,
            lines(
                "Loss and its terms",
                "Terms as weighted in the sum. A rise of a few per cent early on is usual: features get richer. "
                "Twice its least: a lower train.learning_rate. One term that swallows the others: change its weight.",
                [target(of_one("saccade_loss"), "loss"), target(of_one("saccade_loss_term"), "{{term}}")],
                low=None,
                dashed=True,
                overrides=[
                    override(
                        "loss",
                        ("custom.lineStyle", {"fill": "solid"}),
                        ("color", {"mode": "fixed", "fixedColor": BLUE}),
                    )
                ],
            ),
        ),
        (
            6,
            lines(
                "Online probe, accuracy",
                "Mean of five minutes, on training samples that it never learns from. It should rise all "
                "along. Level from the start: the features tell labels nothing; look at rank and deviation.",
                [target(of_one(probe("5m")), "accuracy")],
                "percentunit",
                colours={"accuracy": GREEN},
            ),
        ),
        (
            6,
            lines(
                "Scores in per cent",
                "knn should rise above knn_before_training; raw pixels are the mark of simple images. Below "
                "both: judge the features by rank, lengthen the training, or try another learning rate.",
                [target(of_one(f'saccade_score{{score=~"{SHARES}"}}'), "{{score}}")],
                "percentunit",
                colours={
                    "knn": BLUE,
                    "knn_before_training": GREY,
                    "knn_raw_pixels": YELLOW,
                    "probe_top1": GREEN,
                    "probe_top5": SKY,
                },
            ),
        ),
    ],
)

FEATURES = (
    8,
    [
        (
            6,
            lines(
                "RankMe: directions in use",
                "Of the pooled features of 128 samples, at most the width. A dip in the first steps is usual. Down to a"
                " few and level: dimensional collapse; raise train.ema_decay, lower train.learning_rate.",
                [target(of_one("saccade_feature_rankme"), "{{output}}")],
                colours=OUTPUTS,
            ),
        ),
        (
            6,
            lines(
                "Deviation between samples",
                "0 is complete collapse: every image gets the same features. Falling steadily towards "
                "it: stop early; train.ema_decay nearer to 1, or more weight on the variance term.",
                [target(of_one("saccade_feature_deviation"), "{{output}}")],
                colours=OUTPUTS,
            ),
        ),
        (
            6,
            lines(
                "Alpha-ReQ: how fast variances fall",
                "About 1 is rich, 3 and more means that a few directions hold nearly all. Rising "
                "all along: as for RankMe. It is absent with too few directions left.",
                [target(of_one("saccade_feature_alpha"), "{{output}}")],
                colours=OUTPUTS,
            ),
        ),
        (
            6,
            states(
                "Collapse, by output and kind",
                "The trainer's own verdict, every 50 steps. Short spells at the start pass. If one "
                "stays: stop, and change train.ema_decay, train.learning_rate or train.first_weights.",
                [target(of_one("saccade_collapse"), "{{output}}, {{kind}}")],
                COLLAPSED,
            ),
        ),
    ],
)

OPTIMIZER = (
    7,
    [
        (
            6,
            lines(
                "Gradient norm",
                "Before clipping. Level or falling is good. Growing tenfold: lower train.learning_rate, or set "
                "train.clip_norm. Single peaks: a strange batch, no harm if the loss comes back.",
                [target(of_one("saccade_gradient_norm > 0"), "norm")],
                log=True,
                decimals=2,
                colours={"norm": RED},
            ),
        ),
        (
            6,
            lines(
                "Learning rate",
                "As planned: up in the warm-up, then down. If the loss rises at its peak, lower the middle number of "
                "train.learning_rate or lengthen train.warmup_epochs.",
                [target(of_one("saccade_learning_rate"), "rate")],
                "sci",
                colours={"rate": BLUE},
            ),
        ),
        (
            6,
            lines(
                "Weight decay",
                "As planned. If the deviation between samples falls towards 0, this may be too high: lower "
                "train.weight_decay.",
                [target(of_one("saccade_weight_decay"), "decay")],
                colours={"decay": BLUE},
            ),
        ),
        (
            6,
            lines(
                "EMA decay of the target",
                "Share of itself that the target encoder keeps in each step. If features collapse, raise "
                "train.ema_decay. At exactly 1 it stands still and teaches nothing new.",
                [target(of_one("saccade_ema_decay"), "decay")],
                low=None,
                colours={"decay": BLUE},
            ),
        ),
    ],
)

MORE = (
    8,
    [
        (
            12,
            lines(
                "Energy along the iterations",
                "Of an Energy Transformer only: energy per token after so many iterations. It must fall "
                "from line to line. Lines that coincide: a larger step_size. Rising: a smaller one.",
                [target(of_one("saccade_energy"), "{{iterations}} iterations")],
                low=None,
                palette="continuous-BlPu",
                legend="table",
            ),
        ),
        (
            12,
            lines(
                "Other scores",
                "RankMe, LiDAR, alpha and correlation dimension of held-out features. The first two should rise, alpha "
                "should fall. None yet: the first score comes after score.every_epochs.",
                [target(of_one(f'saccade_score{{score!~"{SHARES}"}}'), "{{score}}")],
                legend="table",
                colours={"rankme": BLUE, "lidar": ORANGE, "alpha": GREEN, "correlation_dimension": PINK},
            ),
        ),
    ],
)

DASHBOARD = dashboard(
    "learning",
    "Saccade: learning",
    "What one run learns: loss, features, scores and schedules.",
    [NUMBERS, "Does it learn?", LEARNING, "Do the features collapse?", FEATURES, "Optimizer", OPTIMIZER, "More", MORE],
    several=False,
)
