# What the scripts need of the machine; sourced by them from the root of the repository.
# Installs only what is missing, so a second run changes nothing. Everything that is not a package
# or the test user lies under target/.

NPYFS_PYTHON="$PWD/target/venv/bin/python"
NPYFS_TEST_USER=npyfs-test
export NPYFS_PYTHON

say() { printf '== %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" -eq 0 ]; }

install_packages() {
    is_root || { say "not root, so not installed: $*"; return 0; }
    say "installing $*"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# The Debian package of each program that is not there; of these programs only, if any are named.
setup_packages() {
    local wanted=() program package
    while read -r program package; do
        [[ $# -eq 0 || " $* " == *" $program "* ]] || continue
        have "$program" || wanted+=("$package")
    done <<'LIST'
fusermount3 fuse3
rsync rsync
gcc gcc
mkfs.ext4 e2fsprogs
mkfs.xfs xfsprogs
strace strace
mkfs.btrfs btrfs-progs
unshare util-linux
mount mount
bash bash
dash dash
zsh zsh
busybox busybox
flock util-linux
make make
ruby ruby
stress-ng stress-ng
python3 python3
unzip unzip
zip zip
cpio cpio
curl curl
ssh openssh-client
sshd openssh-server
inotifywait inotify-tools
automount autofs
smbd samba
smbclient smbclient
sshfs sshfs
gio libglib2.0-bin
g++ g++
gfortran gfortran
perl perl
javac default-jdk-headless
node nodejs
npm npm
LIST
    # Samba's own library for Python, which smbd needs anyway.
    [[ $# -gt 0 || -e /usr/lib/python3/dist-packages/samba ]] || wanted+=(python3-samba)
    # gcc alone brings no headers.
    [ -e /usr/include/stdio.h ] || wanted+=(libc6-dev)
    # Large, and only for the long mode.
    if [ -n "${NPYFS_LONG:-}" ]; then
        while read -r program package; do
            have "$program" || wanted+=("$package")
        done <<'LIST'
go golang-go
octave octave
Rscript r-base-core
LIST
    fi
    if ((${#wanted[@]})); then
        install_packages "${wanted[@]}"
    fi
}

setup_rust() {
    local part
    have cargo || { say "cargo is missing: install Rust (see rust-version in Cargo.toml)"; return 1; }
    for part in fmt clippy; do
        cargo "$part" --version >/dev/null 2>&1 || { say "cargo $part is missing"; return 1; }
    done
}

# What checks the dependencies; without the features that fetch by itself.
setup_deny() {
    PATH="$PWD/target/tools/bin:$PATH"
    cargo deny --version >/dev/null 2>&1 && return 0
    say "building cargo-deny into target/tools"
    cargo install cargo-deny --version ^0.20 --locked --no-default-features --quiet --root target/tools
}

# Licences, sources, and whether any dependency asks for a newer Rust than we do; known
# vulnerabilities where the list of them can be had.
check_dependencies() {
    cargo deny --log-level error check licenses bans sources
    if git ls-remote --quiet https://github.com/RustSec/advisory-db HEAD >/dev/null 2>&1; then
        cargo deny --log-level error check advisories
    else
        say "the list of advisories is out of reach: known vulnerabilities are not checked"
    fi
    cargo metadata --locked --format-version 1 | "$NPYFS_PYTHON" scripts/msrv.py
}

# numpy, and the program whose appends npyfs adopts, in a virtual environment of their own.
setup_venv() {
    if "$NPYFS_PYTHON" -c 'import numpy, npy_append_array' 2>/dev/null; then
        return 0
    fi
    say "making target/venv"
    rm -rf target/venv
    mkdir -p target
    if ! python3 -m venv target/venv >/dev/null 2>&1; then
        # Debian keeps venv in a package of its own.
        install_packages python3-venv
        rm -rf target/venv
        /usr/bin/python3 -m venv target/venv
    fi
    "$NPYFS_PYTHON" -m pip install --quiet numpy npy-append-array
}

# The npm packages of a test, in a place of their own.
setup_npm() {
    local place=target/producers/javascript from=tests/producers/javascript
    have npm || { say "npm is missing: no test of JavaScript"; return 0; }
    if cmp -s "$from/package-lock.json" "$place/package-lock.json" && [ -d "$place/node_modules" ]; then
        return 0
    fi
    say "making $place"
    mkdir -p "$place"
    cp "$from/package.json" "$from/package-lock.json" "$place"
    (cd "$place" && npm ci --silent --no-audit --no-fund) || { rm -rf "$place"; return 1; }
}

# The user that tests mount as, and a /dev/fuse open to it as udev makes it.
setup_user() {
    is_root || return 0
    if ! id "$NPYFS_TEST_USER" >/dev/null 2>&1; then
        say "making the user $NPYFS_TEST_USER"
        useradd --system --no-create-home --shell /usr/sbin/nologin "$NPYFS_TEST_USER"
    fi
    if [ -c /dev/fuse ] && [ "$(stat -c %a /dev/fuse)" != 666 ]; then
        say "opening /dev/fuse to all users"
        chmod 666 /dev/fuse
    fi
}
