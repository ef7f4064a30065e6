#!/usr/bin/env bash
# Measures other image loaders and this one on the same JPEG shards, in turns, and prints the medians as a table.
#
# Usage: benches/peers/run.sh CORPUS [--rounds N] [--seconds S] [--only NAME,...] [--json FILE]
#
# CORPUS holds WebDataset shards named photos-*.tar. SACCADE names the binary; otherwise it is target/release/saccade.
# Everything else is made under target/, which the first run fills with 8 GB of packages; see README.md beside this.
set -euo pipefail

here=$(realpath "$(dirname "${BASH_SOURCE[0]}")")
root=$(realpath "$here/../..")
target=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}")
saccade=${SACCADE:-$target/release/saccade}
# Whose crops all loaders draw.
crops=$root/pipelines/ijepa-vit-s16-in1k.toml
workers=2 batch=128
# What compiling, a first conversion and a busy machine may add to the measured seconds.
patience=600

# Ours: name|section|pipeline, more --set values. The first of a section is what its other rows are compared with.
ours=(
    "saccade|jpeg|ijepa-vit-s16-in1k"
    "saccade-two-views|jpeg|saccade-convnext-t-in1k --set saccade.moved=second"
    "saccade-turbo|jpeg|ijepa-vit-s16-in1k --set decode.jpeg=turbo"
    "saccade-zune|jpeg|ijepa-vit-s16-in1k --set decode.jpeg=zune"
    "saccade-decoded|decoded|ijepa-vit-s16-in1k"
)
# Theirs: name|section|packages (a requirements file)|script and its own arguments.
rivals=(
    "pillow-simd|jpeg|pillow|pillow_simd.py"
    "dali-fastest|jpeg|dali|dali_pipeline.py --variant fastest"
    "dali-antialias|jpeg|dali|dali_pipeline.py --variant antialias"
    "ffcv-jpeg|jpeg|torch+ffcv|ffcv_loader.py --variant jpeg"
    "torch-simplejpeg|jpeg|torch|torch_webdataset.py --variant simplejpeg"
    "torch-torchvision|jpeg|torch|torch_webdataset.py --variant torchvision"
    "torch-pil|jpeg|torch|torch_webdataset.py --variant pil"
    "kornia-rs|jpeg|kornia|kornia_processes.py"
    "spdl|jpeg|spdl|spdl_pipeline.py"
    "ffcv-raw|decoded|torch+ffcv|ffcv_loader.py --variant raw"
)

fail() {
    echo "peers: $1" >&2
    exit 1
}

usage() {
    sed -n 's/^# \{0,1\}//; 2,7p' "${BASH_SOURCE[0]}"
}

# The last line that names an error, or else the last that says anything; progress bars end with \r.
last_words() {
    local lines
    lines=$(tr '\r' '\n' <"$1" | sed 's/^[[:space:]|]*//; /^[-+[:space:]]*$/d')
    grep -E '^[A-Za-z_.]*(Error|Exception)\b' <<<"$lines" | tail -n 1 | grep . || tail -n 1 <<<"$lines"
}

read_arguments() {
    corpus='' rounds=5 seconds=8 only='' json=''
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help) usage && exit ;;
            --rounds | --seconds | --only | --json)
                [ $# -ge 2 ] || fail "$1: needs a value"
                printf -v "${1#--}" %s "$2"
                shift
                ;;
            -*) fail "$1: no such option; see --help" ;;
            *) corpus=$1 ;;
        esac
        shift
    done
    [ -n "$corpus" ] || { usage >&2; exit 2; }
    [[ $rounds =~ ^[1-9][0-9]*$ ]] || fail "--rounds $rounds: must be a whole number, at least 1"
    [[ $seconds =~ ^[0-9]*\.?[0-9]+$ ]] || fail "--seconds $seconds: must be a number"
}

check_names() {
    local name known
    known=$(printf '%s\n' "${ours[@]}" "${rivals[@]}" | cut -d'|' -f1)
    for name in ${only//,/ }; do
        grep -qxF -- "$name" <<<"$known" || fail "--only $name: no such row; the rows are ${known//$'\n'/, }"
    done
}

wanted() {
    [ -z "$only" ] || [[ ",$only," == *",$1,"* ]]
}

# Makes the packages of one requirements file available; `torch+ffcv` goes on top of `torch`. Says why where it fails.
install() {
    local packages=$1 requirements=$here/requirements-$1.txt
    local venv=$target/venvs/peers-${packages%%+*}
    local log=$venv.log stamp
    stamp=$venv/$packages-$(sha256sum <"$requirements" | cut -c1-12)
    [ ! -f "$stamp" ] || return 0
    if [ "$packages" != "${packages%%+*}" ]; then
        install "${packages%%+*}" || return 1
    else
        python3 -m venv --clear "$venv" >"$log" 2>&1 || return 1
    fi
    echo "peers: installing $packages" >&2
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements" >"$log" 2>&1 || return 1
    touch "$stamp"
}

# pip ends with advice; what a reader needs is the compiler's or the package's own error.
why_not_built() {
    local log=$target/venvs/peers-${1%%+*}.log
    grep -E 'Error|error: |ERROR: ' "$log" | grep -vE 'error: subprocess-exited|exit code|metadata-generation' \
        | head -n 1 | sed 's/^[[:space:]]*//' | grep . || last_words "$log"
}

# Decoded shards of the corpus, made once, where the binary can make them.
decode_shards() {
    [ ! -d "$scratch/decoded" ] || return 0
    "$saccade" shards reshard --help >/dev/null 2>&1 || { echo "this saccade has no 'shards reshard'" && return 1; }
    rm -rf "$scratch/decoded.part"
    "$saccade" shards reshard --decode max-side=256 "${shards[@]}" --out "$scratch/decoded.part" \
        >"$scratch/decoded.log" 2>&1 || { last_words "$scratch/decoded.log" && return 1; }
    mv "$scratch/decoded.part" "$scratch/decoded"
}

# A TOML list of strings.
toml_list() {
    printf '%s\0' "$@" | python3 -c 'import json, sys; print(json.dumps(sys.stdin.read().split("\0")[:-1]))'
}

measure_ours() {
    local section=$1 pipeline more list
    read -ra more <<<"$2"
    pipeline=$root/pipelines/${more[0]}.toml
    local tars=("${shards[@]}")
    [ "$section" = jpeg ] || tars=("$scratch"/decoded/*.tar)
    list=$(toml_list "${tars[@]}")
    "$saccade" bench data "$pipeline" --json --seconds "$seconds" \
        --set "data.train=$list" --set "data.validation=$list" --set "stream.workers=$workers" \
        --set stream.batches_ahead=4 --set "train.batch=$batch" --set train.accumulate=1 "${more[@]:1}"
}

measure_rival() {
    local name=$1 packages=$2 command
    read -ra command <<<"$3"
    exec env PYTHONDONTWRITEBYTECODE=1 timeout --kill-after=10 "$((${seconds%.*} + patience))" \
        "$target/venvs/peers-${packages%%+*}/bin/python" "$here/${command[0]}" "${command[@]:1}" \
        --name "$name" --shards "${shards[@]}" --seconds "$seconds" --workers "$workers" --batch "$batch" \
        "${augment[@]}" --scratch "$scratch"
}

# Runs one row once; its figures go to $results/NAME.ROUND.json, or its last words to $results/NAME.failed.
measure() {
    local round=$1 kind=$2 name section third fourth out
    IFS='|' read -r name section third fourth <<<"$3"
    out=$results/$name.$round
    [ ! -f "$results/$name.failed" ] || return 0
    echo "peers: round $round of $rounds, $name" >&2
    local status=0
    case $kind in
        ours) measure_ours "$section" "$third" >"$out.out" 2>"$out.err" || status=$? ;;
        theirs)
            measure_rival "$name" "$third" "$fourth" >"$out.out" 2>"$out.err" &
            wait $! || status=$?
            ;;
    esac
    if [ "$status" = 0 ]; then
        mv "$out.out" "$out.json"
    else
        [ "$status" != 124 ] || echo "not ready after $patience s" >"$out.err"
        [ "$status" -le 128 ] || echo "ended by signal $((status - 128))" >"$out.err"
        echo "failed: $(last_words "$out.err" | grep . || echo "exit status $status")" >"$results/$name.failed"
    fi
}

read_arguments "$@"
check_names
python3 -c 'import sys, tomllib' 2>/dev/null || fail "python3 3.11 or newer is needed, with venv"
[ -x "$saccade" ] || fail "$saccade: not found; run 'cargo build --release', or name the binary in SACCADE"
shopt -s nullglob
shards=("$(realpath "$corpus")"/photos-*.tar)
[ ${#shards[@]} -gt 0 ] || fail "$corpus: holds no photos-*.tar"
mapfile -t augment < <(python3 - "$crops" <<'PYTHON'
import sys, tomllib

augment = tomllib.load(open(sys.argv[1], "rb"))["augment"]
scale, ratio = augment["crop_scale"], augment["crop_ratio"]
print("--size", augment["size"], "--crop-scale", *scale, "--crop-ratio", *ratio, sep="\n")
PYTHON
)

# What is written from the shards belongs to these very files.
scratch=$target/peers/$(stat -c '%n %s %Y' "${shards[@]}" | sha256sum | cut -c1-16)
mkdir -p "$scratch" "$target/venvs"
results=$(mktemp -d)
# `timeout` has a process group of its own, which an interrupt does not reach; it passes on what it gets.
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$results"' EXIT
trap 'exit 130' INT TERM

rows=()
for row in "${ours[@]}"; do
    IFS='|' read -r name section more <<<"$row"
    wanted "$name" || continue
    rows+=("ours|$row")
    [ "$section" = jpeg ] || why=$(decode_shards) || echo "not built: $why" >"$results/$name.failed"
done
for row in "${rivals[@]}"; do
    IFS='|' read -r name section packages script <<<"$row"
    wanted "$name" || continue
    rows+=("theirs|$row")
    install "$packages" || echo "not built: $(why_not_built "$packages")" >"$results/$name.failed"
done

cat "${shards[@]}" >/dev/null
for round in $(seq "$rounds"); do
    for row in "${rows[@]}"; do
        measure "$round" "${row%%|*}" "${row#*|}"
    done
done

printf '%s\n' "${rows[@]}" | python3 "$here/report.py" "$results" --rounds "$rounds" --seconds "$seconds" \
    --workers "$workers" --batch "$batch" "${augment[@]}" --ours "$("$saccade" --version)" \
    --commit "$(git -C "$root" describe --always --dirty 2>/dev/null || echo unknown)" ${json:+--json "$json"}
