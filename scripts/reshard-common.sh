# What the scripts that make shards share: the program, clear failures, room on the disk, sets that are there already.
# Sourced, never called; `script` is the caller's name, `out` the folder of shards.

fail() {
    echo "$script: $1" >&2
    exit 1
}

# Prints the caller's head up to its first line of code.
usage() {
    awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
}

saccade=${SACCADE:-$(dirname "${BASH_SOURCE[0]}")/../target/release/saccade}
[ -x "$saccade" ] || saccade=$(command -v saccade) || fail "saccade is not built: cargo build --release, or set SACCADE"

# Fails unless the disk of the folder has room for what the files and folders take.
room() {
    local folder=$1 needed free
    shift
    needed=$(du -sckL "$@" | tail -n 1 | cut -f1)
    mkdir -p "$folder" || fail "$folder: cannot be made"
    needed=$((needed - $(du -sk "$folder" | cut -f1)))
    free=$(df -Pk "$folder" | awk 'NR == 2 { print $4 }')
    [ "$free" -ge "$needed" ] || fail "$folder: $((free / 1024)) MiB free, needs about $((needed / 1024 + 1)): make room"
}

# A set is whole when its list is there; an unfinished one goes on when the same import is called again.
whole() {
    [ -f "$out/$1.json" ] && [ ! -e "$out/$1.unfinished.jsonl" ]
}

# What `import` could not call sound; the caller ends with `exit "$unsound"`.
unsound=0

# Imports a set unless it is whole, and verifies it: NAME, then the arguments of `saccade shards import`. A set that is not
# sound is told of, and hides no other.
import() {
    local name=$1 classes=()
    shift
    if whole "$name" && [[ " $* " != *" --force "* ]]; then
        echo "$script: $out/$name-*.tar: there already"
    else
        "$saccade" shards import "$@" --out "$out" --name "$name"
    fi
    # Where classes have names, every sample has one of them; but test splits of parquet have the names and no labels.
    if [ -s "$out/$name-classes.txt" ] \
        && "$saccade" shards list "$out/$name-??????.tar" | grep ' [1-9][0-9]* labels$' >/dev/null; then
        classes=(--classes "$(wc -l <"$out/$name-classes.txt")")
    fi
    "$saccade" shards verify "${classes[@]}" "$out/$name-??????.tar" || {
        echo "$script: $name: is not sound, see above; if images cannot be decoded, --check-images --force leaves them out" >&2
        unsound=1
    }
}

# A request's name, short: of all that the outcome depends on.
request() {
    printf '%s\0' "$@" | sha256sum | cut -c1-16
}

# Reshards tars into those of the same names, as `options` says: LIST, then all TARS. LIST is of this request alone and tells
# what the last call was asked for, so that a call that was killed is repeated word for word, and goes on.
each() {
    local list=$1 tar state known=yes mine=()
    shift
    # Of what is made in several calls none knows the keys of the others.
    [[ " ${options[*]} " != *" --duplicates"* ]] || fail "--duplicates: is for one call of 'saccade shards reshard'"
    state=$out/$(basename "$(head -n 1 "$list" 2>/dev/null)" .tar).unfinished.jsonl
    if [ ! -e "$list" ]; then
        known='' mine=("$@")
        [ -e "$out/$(basename "$1" .tar).unfinished.jsonl" ] || for tar; do
            [ ! -e "$out/$(basename "$tar")" ] \
                || fail "$out/$(basename "$tar"): is there, but of another call: name another folder, or delete it"
        done
    elif [ -e "$state" ]; then
        mapfile -t mine <"$list"
    else
        for tar; do [ -e "$out/$(basename "$tar")" ] || mine+=("$tar"); done
    fi
    [ ${#mine[@]} -gt 0 ] || return 0
    printf '%s\n' "${mine[@]}" >"$list.new"
    mv "$list.new" "$list"
    # What was refused is not asked for.
    "$saccade" shards reshard "${options[@]}" --out "$out" "${mine[@]}" || { [ "$known" ] || rm "$list"; exit 1; }
}
