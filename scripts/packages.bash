# Sourced by the other scripts. On Debian as root it installs missing packages; elsewhere it prints
# their names and exits with status 69.

# Debian installs servers and network tools into directories that only root's PATH contains.
export PATH=$PATH:/usr/sbin:/sbin

missing=()
# need PACKAGE COMMAND...: notes that the package is missing, unless the command succeeds.
need() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}

# In a subshell, so that its trap runs and its variables end with it.
install_missing() (
    echo "${0##*/}: installing ${missing[*]}" >&2
    # Another script may install at the same time, and apt-get does not wait for all of its locks.
    exec 9>"${TMPDIR:-/tmp}/sse-gateway-packages.lock"
    flock 9
    # Debian's server packages start their servers, which would still run after a test run.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f -- "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
)

# Installs the packages that `need` found missing.
have_all() {
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ] || ! grep -qx 'ID=debian' /etc/os-release; then
        echo "${0##*/}: not installed on this machine: ${missing[*]}" >&2
        echo "On Debian:   sudo apt-get update && sudo apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 69
    fi
    install_missing
}
