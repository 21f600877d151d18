# Sourced by the scripts beside it: installs what is missing from Debian's packages where that is possible, that is on
# Debian as root; elsewhere it names what is missing and ends with exit status 69.

# Debian installs servers and network tools where only an administrator's PATH leads.
export PATH=$PATH:/usr/sbin:/sbin

missing=()
# need PACKAGE COMMAND...: the package, unless the command can be run.
need() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}

# Of its own process, so that whatever it leaves goes with it.
install_missing() (
    echo "${0##*/}: installing ${missing[*]}" >&2
    # Packages of servers start them; a test run must not leave any behind.
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

# Whatever was needed and is missing is there from now on.
have_all() {
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ] || ! grep -qx 'ID=debian' /etc/os-release; then
        echo "${0##*/}: not installed on this machine: ${missing[*]}" >&2
        echo "On Debian:   sudo apt-get update && sudo apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 69
    fi
    install_missing
}
