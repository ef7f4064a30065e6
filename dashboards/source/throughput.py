"""Where the time goes: one run, from the shards to the device."""

from parts import (
    BLOCKED,
    BLUE,
    GREEN,
    GREY,
    LIMITING,
    ORANGE,
    POOL,
    RED,
    SKY,
    STAGE_COLOURS,
    STARVED,
    dashboard,
    limiting,
    lines,
    of_one,
    rate,
    stat,
    states,
    steps,
    target,
    waiting,
)

FLOW = "read|decode|augment|mask|batch|upload|train"


def spent(kind, stages):
    return rate(f"saccade_stage_{kind}_seconds_total", f'stage=~"{stages}"')


def shares(stages, idle=("starved", "blocked")):
    """Busy time by stage, and waiting, as shares of all the time that the stages' workers account for."""
    whole = " + ".join(f"sum by (instance, job) ({spent(kind, stages)})" for kind in ("busy", *idle))
    targets = [
        target(of_one(f"{spent('busy', stages)} / on (instance, job) group_left () ({whole}) >= 0"), "{{stage}}")
    ]
    for kind, legend in zip(idle, ("waits for input", "waits for room")):
        targets.append(target(of_one(f"sum by (instance, job) ({spent(kind, stages)}) / ({whole}) >= 0"), legend))
    return targets


def time_of(title, description, stages, idle=("starved", "blocked")):
    colours = STAGE_COLOURS | {"waits for input": STARVED, "waits for room": BLOCKED}
    return lines(title, description, shares(stages, idle), "percentunit", high=1, stacked=True, colours=colours)


def ranks():
    """Each rank's time in a step."""
    steps = rate("saccade_step_seconds_count")
    return f"{rate('saccade_rank_seconds_total')} / ignoring (rank) group_left () {steps} >= 0"


def quantile(share, metric, labels, by):
    buckets = f"sum by ({by}) ({rate(f'{metric}_bucket', labels)})"
    return of_one(f"histogram_quantile({share}, {buckets}) >= 0")


NUMBERS = (
    4,
    [
        (
            4,
            stat(
                "Samples per second",
                "Samples trained per second. When it falls, look at what limits, to the right. During a score it is 0.",
                of_one(rate("saccade_stage_samples_total", 'stage="train"')),
            ),
        ),
        (
            4,
            stat(
                "Limited by",
                "The stage that is neither starved nor blocked: making any other one faster changes nothing. On a "
                "GPU it should be train. decode: more stream.workers. read: more stream.reads, or a faster disk. fetch: the "
                "network.",
                of_one(limiting()),
                mappings=LIMITING,
            ),
        ),
        (
            4,
            stat(
                "Device waits for data",
                "Share of its time in which the trainer waits for a batch. Above 10 % the device is paid "
                "for and idle: see the row on waiting below, and the tuning guide in dashboards/README.md.",
                of_one(waiting()),
                "percentunit",
                decimals=1,
                thresholds=steps((None, SKY), (0.1, ORANGE), (0.3, RED)),
            ),
        ),
        (
            4,
            stat(
                "Step, median",
                "Time of one optimizer step, without the wait for data. When it grows while nothing else does, the "
                "device is shared or clocks down.",
                quantile(0.5, "saccade_step_seconds", "", "instance, job, le"),
                "s",
            ),
        ),
        (
            4,
            stat(
                "Done",
                "Share of the planned steps that are done. When it stands still, look at what limits; eval is a score,"
                " and passes.",
                of_one("saccade_step / (saccade_steps_planned > 0)"),
                "percentunit",
                decimals=1,
            ),
        ),
        (
            4,
            stat(
                "Time left",
                "At the pace of the last two minutes, without scores and checkpoints. Longer than planned: raise what "
                "limits, or lower train.epochs in the next run.",
                of_one(
                    f"(saccade_steps_planned - saccade_step) / {rate('saccade_step_seconds_count', window='2m')} >= 0"
                ),
                "s",
            ),
        ),
    ],
)

FLOWS = (
    9,
    [
        (
            12,
            lines(
                "Samples per second by stage",
                "All stages should lie on one line: what one finishes the next one takes. A stage "
                "above the others fills a queue; gaps in train are scores and checkpoints.",
                [target(of_one(rate("saccade_stage_samples_total", f'stage=~"{FLOW}"')), "{{stage}}")],
                colours=STAGE_COLOURS,
            ),
        ),
        (
            12,
            states(
                "Limited by, over time",
                "The stage that limits, by name. It should be train nearly always. Changes to and fro mean "
                "that two stages are about as fast: deeper queues (stream.batches_ahead) smooth that out.",
                [target(of_one(limiting()), "limited by")],
                LIMITING,
                rows=0.6,
            ),
        ),
    ],
)

WAITING = (
    8,
    [
        (
            6,
            time_of(
                "Time of readers",
                "What the read tasks (stream.reads) do. Mostly waiting for room is good: reading is ahead. Mostly "
                "busy, with the trainer waiting: raise stream.reads, or move the shards to a faster disk.",
                "read",
            ),
        ),
        (
            6,
            time_of(
                "Time of workers",
                "What the pool of stream.workers does, by stage. Waiting for room is good. All busy, with the trainer"
                " waiting: more stream.workers while cores are idle; then decoded shards, if decode is the widest"
                " band.",
                POOL,
            ),
        ),
        (
            6,
            time_of(
                "Time of upload",
                "What the thread does that copies batches to the device. Mostly waiting for room is good. Busy for "
                "long, with the trainer waiting: a smaller augment.size or batch, or a faster bus.",
                "upload",
            ),
        ),
        (
            6,
            time_of(
                "Time of the trainer",
                "What the training thread does. Waiting for input is the idle device: look at the panels to "
                "the left. Wide bands of checkpoint or eval: raise checkpoint.every_steps or score.every_epochs.",
                "train|checkpoint|eval",
                idle=("starved",),
            ),
        ),
    ],
)

QUEUES = (
    8,
    [
        (
            6,
            lines(
                "Queues, how full",
                "batches full is good: the data path is ahead, and read is then empty, for no batch is begun without"
                " room. batches empty: the stage that limits comes before. To and fro: raise stream.batches_ahead.",
                [target(of_one("saccade_queue_depth / (saccade_queue_capacity > 0)"), "{{queue}}")],
                "percentunit",
                high=1,
                colours={"fetched": GREY, "read": SKY, "batches": ORANGE, "uploaded": BLUE},
            ),
        ),
        (
            6,
            lines(
                "Time per sample, 95 % are faster",
                "By stage, from the histogram's bounds, so in coarse steps. decode in "
                "milliseconds is usual for photographs. read that leaps: the disk's cache no longer holds the shards.",
                [
                    target(
                        quantile(
                            0.95,
                            "saccade_stage_sample_seconds",
                            'stage=~"read|decode|augment|mask"',
                            "instance, job, stage, le",
                        ),
                        "{{stage}}",
                    )
                ],
                "s",
                log=True,
                colours=STAGE_COLOURS,
            ),
        ),
        (
            6,
            lines(
                "Waits for uploads",
                "Share of the time in which the trainer waits while the upload thread hands over a batch. Near 0 is "
                "good: that goes on behind steps. High, with batches full: it limits. A GPU copies on after that; see "
                "its bytes over PCIe.",
                [target(of_one(rate("saccade_upload_exposed_seconds_total")), "waits")],
                "percentunit",
                colours={"waits": BLUE},
            ),
        ),
        (
            6,
            lines(
                "Time per step",
                "Half, and 95 %, of the steps are faster than this. Both higher: the device is slower, or shared. "
                "Only the slow ones higher: something else takes the processor now and then. Of several ranks each one's "
                "share of a step, too: all wait for the slowest.",
                [
                    target(quantile(share, "saccade_step_seconds", "", "instance, job, le"), legend)
                    for share, legend in ((0.5, "median"), (0.95, "95 %"))
                ]
                + [target(of_one(ranks()), "rank {{rank}}")],
                "s",
                colours={"median": BLUE, "95 %": ORANGE},
            ),
        ),
    ],
)

BYTES = (
    8,
    [
        (
            8,
            lines(
                "Bytes per second by stage",
                "read and decode: encoded bytes. augment to upload: pixels. read near what the disk "
                "can: it will limit, whatever else is changed.",
                [
                    target(
                        of_one(rate("saccade_stage_bytes_total", 'stage=~"read|decode|augment|batch|upload"')),
                        "{{stage}}",
                    )
                ],
                "Bps",
                log=True,
                colours=STAGE_COLOURS,
            ),
        ),
        (
            8,
            lines(
                "Quarantined samples",
                "Samples left out since the start, by reason; none is best. The run ends when their share passes"
                " stream.max_bad_share. `saccade shards verify` finds what is damaged; quarantine.jsonl has the keys.",
                [
                    target(of_one("sum by (instance, job, reason) (saccade_stage_skipped_total)"), "{{reason}}"),
                    target(of_one('sum by (instance, job) (saccade_stage_samples_total{stage="read"}) * 0'), "none"),
                ],
                decimals=0,
                colours={"none": GREY},
            ),
        ),
        (
            8,
            lines(
                "Disk of the run's folder",
                "Free, and what the rest of the run may write at most, as of the newest checkpoint. When "
                "the lines meet, the run ends for lack of room: remove old runs, or lower checkpoint.keep.",
                [
                    target(of_one("saccade_disk_free_bytes < Inf"), "free"),
                    target(of_one("saccade_disk_needed_bytes"), "may be written"),
                ],
                "decbytes",
                log=True,
                colours={"free": SKY, "may be written": RED},
            ),
        ),
    ],
)

PROCESS = (
    7,
    [
        (
            6,
            lines(
                "Processor cores in use",
                "All threads. At the number of cores, with the workers busy: more workers will not help, "
                "decoded shards will. Far below it, with the workers busy: somebody else uses the cores.",
                [target(of_one(rate("process_cpu_seconds_total")), "cores")],
                colours={"cores": BLUE},
            ),
        ),
        (
            6,
            lines(
                "Memory",
                "Resident, and at most in the pipeline's queues and buffers. Pages of mapped shards count as resident;"
                " the system takes them back. Steady growth that ends in a kill: lower stream.batches_ahead or"
                " train.batch.",
                [
                    target(of_one("process_resident_memory_bytes"), "resident"),
                    target(of_one("saccade_bytes_in_flight_limit"), "queues, at most"),
                ],
                "bytes",
                colours={"resident": BLUE, "queues, at most": ORANGE},
            ),
        ),
        (
            6,
            lines(
                "Threads and open files",
                "Both are level in a healthy run. Growth is a fault of the program: please report it, with "
                "this picture.",
                [target(of_one("process_threads"), "threads"), target(of_one("process_open_fds"), "open files")],
                decimals=0,
                colours={"threads": BLUE, "open files": ORANGE},
            ),
        ),
        (
            6,
            lines(
                "Age of the newest checkpoint",
                "What a crash would cost now. Teeth of one height are good. Higher than you would "
                "like to lose: lower checkpoint.every_steps.",
                [target(of_one("time() - (saccade_checkpoint_time_seconds > 0)"), "age")],
                "s",
                colours={"age": GREEN},
            ),
        ),
    ],
)

# Where all shards are here, the fetchers have no time and no wanted shards.
REMOTE = (
    8,
    [
        (
            6,
            time_of(
                "Time of fetchers",
                "What the threads do that fetch shards from other machines. Waiting for room is good: all that fits "
                "is here. Busy, with readers waiting for input: the network limits; put the shards nearer, or raise "
                "data.cache_gb until the whole set stays here.",
                "fetch",
            ),
        ),
        (
            6,
            lines(
                "Bytes fetched per second",
                "From other machines. Level at what the network can, with the trainer waiting: it limits. 0 once the "
                "whole set is here.",
                [target(of_one(rate("saccade_stage_bytes_total", 'stage="fetch"')), "fetched")],
                "Bps",
                colours={"fetched": SKY},
            ),
        ),
        (
            6,
            lines(
                "Shards fetched ahead",
                "Of those that fit into data.cache_gb in the order of reading, how many are here. All of them is good."
                " Few, and readers wait: see the time of fetchers.",
                [
                    target(of_one('saccade_queue_depth{queue="fetched"}'), "here"),
                    target(of_one('saccade_queue_capacity{queue="fetched"}'), "wanted"),
                ],
                decimals=0,
                colours={"here": BLUE, "wanted": ORANGE},
            ),
        ),
        (
            6,
            lines(
                "Servers asked again",
                "After failures, since the start, by reason. Some are usual on the internet. Steady growth: look at "
                "the log, which has the server's words; after five minutes without a byte the run ends.",
                [target(of_one("sum by (instance, job, reason) (saccade_fetch_retries_total)"), "{{reason}}")],
                decimals=0,
            ),
        ),
    ],
)

# Where there is no GPU, or the build has no feature `nvml`, these have no data.
GPU = (
    7,
    [
        (
            5,
            lines(
                "GPU in use",
                "Share of the time in which some kernel runs; near 100 % is good. Low while the device waits for "
                "data: see the row on waiting. Low while limited by train: kernels are too small, a larger "
                "train.batch helps.",
                [target(of_one("saccade_gpu_busy_ratio"), "GPU {{gpu}}")],
                "percentunit",
                high=1,
            ),
        ),
        (
            5,
            lines(
                "GPU memory",
                "In use, by all processes, and there is. Room left: a larger train.batch. Full: the next allocation "
                "ends the run, so train.accumulate for the same batch; or somebody else uses the GPU (nvidia-smi).",
                [
                    target(of_one("saccade_gpu_memory_used_bytes"), "GPU {{gpu}}"),
                    target(of_one("saccade_gpu_memory_bytes"), "GPU {{gpu}}, there is"),
                ],
                "bytes",
            ),
        ),
        (
            4,
            lines(
                "GPU power",
                "Near the card's limit (nvidia-smi tells it) the GPU works as hard as it may. Low at a high use: "
                "kernels wait for memory. Falling while the temperature is high: it clocks down.",
                [target(of_one("saccade_gpu_power_watts"), "GPU {{gpu}}")],
                "watt",
            ),
        ),
        (
            4,
            lines(
                "GPU temperature",
                "Of the chip. Level is good. High while power falls and steps take longer: it clocks down, see to its "
                "cooling.",
                [target(of_one("saccade_gpu_temperature_celsius"), "GPU {{gpu}}")],
                "celsius",
            ),
        ),
        (
            6,
            lines(
                "GPU, bytes over PCIe",
                "Batches on their way to the GPU, and little back. Near what its slot can, copies limit: look for "
                "another program on the GPU, or a card in a slot with too few lanes (nvidia-smi -q tells).",
                [target(of_one("saccade_gpu_pcie_bytes_per_second"), "GPU {{gpu}}, {{direction}}")],
                "Bps",
            ),
        ),
    ],
)

DASHBOARD = dashboard(
    "throughput",
    "Saccade: throughput",
    "Where the time of one run goes, from the shards to the device.",
    [
        NUMBERS,
        "What limits",
        FLOWS,
        "Who works and who waits",
        WAITING,
        "Queues, samples, steps",
        QUEUES,
        "Bytes, bad samples, disk",
        BYTES,
        "Shards of other machines",
        REMOTE,
        "Process",
        PROCESS,
        "GPU",
        GPU,
    ],
    several=False,
)
