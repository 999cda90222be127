# Shared by the scripts: where caches are, how stages are timed, how packages are installed. Sourced, not run.
# shellcheck shell=bash

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/kprov"
mkdir -p "$CACHE"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$CACHE/target}"
# KUBERNETES=v1.35.4 make bundle|oracle|up: another release than the pinned one, of those whose sums are in bundle/.
KUBERNETES="${KUBERNETES:-v1.36.3}"

# Checkouts share what is built of dependencies. Of our own packages cargo tells two checkouts apart by the times of
# their files alone, which may take one's objects for the other's: another checkout than the last one builds them anew.
if [ "$(cat "$CARGO_TARGET_DIR/checkout" 2>/dev/null)" != "$PWD" ]; then
    rm -rf "$CARGO_TARGET_DIR"/{debug,release,hostile,*/debug,*/release}/.fingerprint/kprov*
    mkdir -p "$CARGO_TARGET_DIR"
    echo "$PWD" >"$CARGO_TARGET_DIR/checkout"
fi

case "$(uname -m)" in
x86_64) ARCH=amd64 TARGET=x86_64-unknown-linux-musl ;;
aarch64) ARCH=arm64 TARGET=aarch64-unknown-linux-musl ;;
*)
    echo "error: kprov is built on x86_64 and aarch64, not on $(uname -m)" >&2
    exit 1
    ;;
esac
KPROV="$CARGO_TARGET_DIR/$TARGET/release/kprov"
PROBE="$CARGO_TARGET_DIR/$TARGET/release/probe"
BUNDLE="$CACHE/kprov-bundle-$KUBERNETES-$ARCH.tar.zst"

die() {
    echo "error: $1" >&2
    [ $# -lt 2 ] || echo "hint: $2" >&2
    exit 1
}

STAGES=()
# stage NAME COMMAND...: runs it, remembers how long it took.
stage() {
    local name=$1 start=$SECONDS
    shift
    echo "=== $name"
    "$@"
    STAGES+=("$(printf '%5d s  %s' $((SECONDS - start)) "$name")")
}

# Prints what each stage took.
stages() {
    echo "=== stages"
    printf '%s\n' "${STAGES[@]}"
    printf '%5d s  in all\n' "$SECONDS"
}

# packages NAME...: installs those Debian packages that are not there.
packages() {
    local missing=() name
    for name in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "these packages are missing: ${missing[*]}" "install them with the system's package manager"
    [ "$(id -u)" = 0 ] || die "these packages are missing: ${missing[*]}" "sudo apt-get install ${missing[*]}"
    echo "installing ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >"$CACHE/apt.log" 2>&1 ||
        { apt-get update -q >"$CACHE/apt.log" 2>&1 &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >>"$CACHE/apt.log" 2>&1; } ||
        { tail -n 20 "$CACHE/apt.log" >&2; die "cannot install ${missing[*]}" "apt-get install ${missing[*]}"; }
}

# unpacked NAME...: programs of Debian packages without installing these: as installed services they would start, and
# open ports on the user's machine.
unpacked() {
    local name to="$CACHE/tools/debian"
    command -v apt-get >/dev/null || return 0
    for name in "$@"; do
        [ ! -e "$to/.$name" ] || continue
        echo "unpacking $name"
        mkdir -p "$to"
        rm -rf "$CACHE/tools/debs"
        mkdir -p "$CACHE/tools/debs"
        (cd "$CACHE/tools/debs" && { apt-get download -q "$name" || { apt-get update -q && apt-get download -q "$name"; }; }) >"$CACHE/apt.log" 2>&1 ||
            { tail -n 20 "$CACHE/apt.log" >&2; die "cannot fetch the package $name" "apt-get download $name"; }
        dpkg-deb -x "$CACHE"/tools/debs/*.deb "$to"
        rm -rf "$CACHE/tools/debs"
        touch "$to/.$name"
    done
}

# A Go for what only tests need: the one that kprov fetched to build the bundle, else the host's, which fetches its successor.
golang() {
    local fetched=("$CACHE"/go-*/bin)
    PATH="$PATH:/usr/local/go/bin"
    if [ -x "${fetched[-1]}/go" ]; then PATH="${fetched[-1]}:$PATH"; fi
    command -v go >/dev/null || packages golang-go ca-certificates
    # Debian 12's cannot become another release.
    go version | grep -qE ' go1\.(2[1-9]|[3-9][0-9])' || die "$(go version) cannot fetch a newer Go" "make bundle, which brings one"
}

# The Rust toolchain of rust-toolchain.toml: the user's, else the distribution's rustup package.
rust() {
    if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
        PATH="$HOME/.cargo/bin:$PATH"
    fi
    if ! command -v rustup >/dev/null; then
        if command -v cargo >/dev/null; then
            have=$(cargo --version | cut -d' ' -f2)
            want=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
            [ "$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)" = "$want" ] ||
                die "cargo $have is too old, $want is needed" "apt-get install rustup (Debian 13, Ubuntu 24.04), else as https://rustup.rs says"
            [ -d "$(rustc --print sysroot)/lib/rustlib/$TARGET" ] ||
                die "this Rust has no standard library for $TARGET" "apt-get install rustup (Debian 13, Ubuntu 24.04), else as https://rustup.rs says"
            return
        fi
        apt-cache show rustup >/dev/null 2>&1 || apt-get update -q >/dev/null 2>&1 || true
        apt-cache show rustup >/dev/null 2>&1 ||
            die "no Rust toolchain, and this distribution has no package rustup (Debian 13 and Ubuntu 24.04 have it)" \
                "get rustup as https://rustup.rs says (curl … | sh), then run this again"
        packages rustup
    fi
    # Names the toolchain, its components and its targets; does nothing when they are there.
    rustup show active-toolchain >/dev/null 2>&1 || rustup toolchain install >/dev/null
    rustup target list --installed | grep -qx "$TARGET" || rustup target add "$TARGET"
}
