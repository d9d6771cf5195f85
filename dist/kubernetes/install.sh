#!/bin/sh
# Puts Pontoon on a host, or takes it off again: programs, systemd units, the drop-in for containerd. What runs there runs
# under the host's own systemd, never in a pod: containers need it for as long as they live. It checks first and changes
# nothing when it refuses. It restarts nothing that containers depend on unless it is told to.
#
#   install.sh install     install or upgrade; a second run changes nothing
#   install.sh uninstall   take off what was installed; data stays
#   install.sh run         install, then keep the file of other nodes' addresses up to date
#
# docs/kubernetes.md explains the variables:
HOST=${PONTOON_HOST:-/host}                       # where the host's / is
FILES=${PONTOON_FILES:-/pontoon}                  # what is installed: bin, systemd, in it
PLUGIN=${PONTOON_PLUGIN:-nydus}                   # nydus, stargz or overlayfs
PREFIX=${PONTOON_PREFIX:-/usr/local}              # programs go to bin in it
CONTAINERD_CONFIG=${PONTOON_CONTAINERD_CONFIG:-/etc/containerd/config.toml}
DROP_INS=${PONTOON_DROP_INS:-/etc/containerd/conf.d}
IMPORTS=${PONTOON_IMPORTS:-refuse}                # add: may add the drop-ins to config.toml
RESTART=${PONTOON_RESTART:-}                      # what may be restarted: pontoon, containerd
OVERWRITE=${PONTOON_OVERWRITE:-no}                # yes: files that are not ours may be replaced
CONFIG=${PONTOON_CONFIG:-/config}                 # the daemon's configuration is PLUGIN.toml in it, if anything
PEERS_SERVICE=${PONTOON_PEERS_SERVICE:-}          # the headless Service that has an address for each node
PEERS_PORT=${PONTOON_PEERS_PORT:-7001}
PEERS_SECONDS=${PONTOON_PEERS_SECONDS:-30}
READY=${PONTOON_READY:-/tmp/ready}                  # made when all is installed

set -eu
umask 022

UNITS=/etc/systemd/system
NOTES=/var/lib/pontoon/installed
PENDING=/var/lib/pontoon/pending-$PLUGIN           # what changed and was not restarted since
STAGING=$PREFIX/lib/pontoon-staging
PEERS=/etc/pontoon/bootstrap                     # for [peer] bootstrap = ["file:/etc/pontoon/bootstrap"]
DAEMON=pontoon-$PLUGIN
changed=""

say() { echo "pontoon: $*"; }

# What is wrong, and what to do.
refuse() {
    echo "pontoon: REFUSED: $1. $2" >&2
    exit 78
}

# Whether $HOST is where the first process of this machine lives. In a pod that takes `hostPID`.
is_live() { [ "$(stat -Lc %d:%i "$HOST")" = "$(stat -Lc %d:%i /proc/1/root 2>/dev/null)" ]; }

# Commands of the host, on its files. Not by chroot where that can be helped: user namespaces cannot be made in one, so the
# daemon could not tell what this kernel can do with them.
on_host() {
    if is_live; then
        nsenter --mount=/proc/1/ns/mnt -- "$@"
    else
        chroot "$HOST" "$@"
    fi
}

sum() { sha256sum "$1" | cut -d ' ' -f 1; }

told_to_restart() { case " $RESTART " in *" $1 "*) true ;; *) false ;; esac; }

systemd_runs() { [ -d "$HOST/run/systemd/system" ]; }

# systemctl would take a chroot for a system that is being built.
control() { SYSTEMD_IGNORE_CHROOT=1 on_host systemctl "$@"; }

# A link with an absolute target leads out of the host's / and into this container's.
stays_on_host() {
    directory=$1
    while [ ! -d "$HOST$directory" ]; do directory=$(dirname "$directory"); done
    real=$(readlink -f "$HOST$directory")
    case $real/ in
        "$(readlink -f "$HOST")"/*) ;;
        *) refuse "$directory is a link out of the host's file system" "Name its target instead ($2)" ;;
    esac
    [ ! -L "$HOST$1" ] || refuse "$1 is a link" "Name its target instead ($2)"
}

units() {
    echo "$DAEMON.service"
    [ "$PLUGIN" = overlayfs ] || echo "$DAEMON-holder.service"
}

programs() {
    echo "$DAEMON"
    echo pontoon
    [ "$PLUGIN" = overlayfs ] || echo pontoon-holder
}

check_arguments() {
    case $PLUGIN in
        nydus | stargz | overlayfs) ;;
        *) refuse "there is no plugin \"$PLUGIN\"" "Set PONTOON_PLUGIN to nydus, stargz or overlayfs" ;;
    esac
    for word in $RESTART; do
        case $word in
            pontoon | containerd) ;;
            *) refuse "\"$word\" cannot be restarted" "PONTOON_RESTART takes pontoon and containerd" ;;
        esac
    done
    [ -d "$HOST/etc" ] && [ -d "$HOST/usr" ] ||
        refuse "$HOST is not the / of a host" "Mount the node's / there, or set PONTOON_HOST"
    stays_on_host "$UNITS" "systemd reads it"
    stays_on_host "$(dirname "$NOTES")" "PONTOON_HOST"
}

# Bytes 18 and 19 of an ELF file say what machine it is for.
machine_of() {
    case $(od -An -tx1 -j18 -N2 "$1" | tr -d ' \n') in
        3e00) echo x86_64 ;;
        b700) echo aarch64 ;;
        f300) echo riscv64 ;;
        *) echo "another machine" ;;
    esac
}

check_machine() {
    for name in $(programs); do
        [ -f "$FILES/bin/$name" ] || refuse "$FILES/bin/$name is missing" "The image was not built as dist/kubernetes/Containerfile says"
        for_machine=$(machine_of "$FILES/bin/$name")
        [ "$for_machine" = "$(uname -m)" ] ||
            refuse "$name is for $for_machine and this node is $(uname -m)" "Use the image for this machine, or keep the DaemonSet off this node with a nodeSelector for kubernetes.io/arch"
    done
    for unit in $(units); do
        [ -f "$FILES/systemd/$unit" ] || refuse "$FILES/systemd/$unit is missing" "The image was not built as dist/kubernetes/Containerfile says"
    done
}

containerd_program() {
    for directory in /usr/local/bin /usr/bin /usr/local/sbin /opt/bin; do
        if [ -x "$HOST$directory/containerd" ]; then
            echo "$directory/containerd"
            return
        fi
    done
}

# Sets `version` to that of the configuration's form: 3 for containerd 2, 2 for 1.7.
check_containerd() {
    program=$(containerd_program)
    [ -n "$program" ] || refuse "there is no containerd on this node" "Install containerd 1.7 or later. A containerd that another program brings (k3s, rke2, microk8s) is not supported by this installer: set it up as docs/containerd.md says"
    release=$(on_host "$program" --version | sed -n 's/.* v\{0,1\}\([0-9][0-9]*\.[0-9][0-9]*\)\..*/\1/p')
    case $release in
        1.[0-6]) refuse "containerd $release is too old" "Upgrade it to 1.7 or later" ;;
        1.*) version=2 ;;
        [2-9]*) version=3 ;;
        *) refuse "\"$program --version\" told no version" "See whether containerd runs on this node" ;;
    esac
    stays_on_host "$CONTAINERD_CONFIG" PONTOON_CONTAINERD_CONFIG
    stays_on_host "$DROP_INS" PONTOON_DROP_INS
    if [ -f "$HOST$CONTAINERD_CONFIG" ]; then
        written=$(sed -n 's/^ *version *= *\([0-9][0-9]*\).*/\1/p;/^ *\[/q' "$HOST$CONTAINERD_CONFIG")
        case ${written:-1} in
            2 | 3) version=$written ;;
            *) refuse "$CONTAINERD_CONFIG has version ${written:-1}" "Bring it up to date with \"containerd config migrate\"" ;;
        esac
    fi
}

# The entries of `imports` above the first table of containerd's configuration.
imports() {
    [ -f "$HOST$CONTAINERD_CONFIG" ] || return 0
    awk '
        { sub(/#.*/, "") }
        !inside && /^[ \t]*\[/ { exit }
        !inside && /^[ \t]*imports[ \t]*=/ { inside = 1; sub(/^[^[]*\[/, "") }
        inside { ends = index($0, "]"); if (ends) $0 = substr($0, 1, ends - 1); gsub(/[",\047]/, " "); print; if (ends) exit }
    ' "$HOST$CONTAINERD_CONFIG"
}

is_imported() {
    set -f
    for entry in $(imports); do
        case $entry in /*) ;; *) entry=$(dirname "$CONTAINERD_CONFIG")/$entry ;; esac
        [ "$(dirname "$entry")" = "$DROP_INS" ] || continue
        # The last part of the entry is a pattern.
        case $DAEMON.toml in $(basename "$entry"))
            set +f
            return 0 ;;
        esac
    done
    set +f
    return 1
}

check_imports() {
    is_imported && return
    [ "$IMPORTS" = add ] ||
        refuse "$CONTAINERD_CONFIG does not import $DROP_INS/$DAEMON.toml" "Write imports = [\"$DROP_INS/*.toml\"] above its first table, or set PONTOON_IMPORTS=add"
}

add_imports() {
    is_imported && return
    target=$HOST$CONTAINERD_CONFIG
    mkdir -p "$(dirname "$target")"
    [ -f "$target" ] || echo "version = $version" >"$target"
    [ -f "$target.before-pontoon" ] || cp -p "$target" "$target.before-pontoon"
    cp -p "$target" "$target.new"
    awk -v entry="\"$DROP_INS/*.toml\"" '
        !done && /^[ \t]*imports[ \t]*=/ { sub(/\[/, "[" entry ", "); done = 1 }
        !done && /^[ \t]*\[/ { print "imports = [" entry "]"; done = 1 }
        { print }
        END { if (!done) print "imports = [" entry "]" }
    ' "$target" >"$target.new"
    mv -f "$target.new" "$target"
    changed="$changed containerd"
    say "$CONTAINERD_CONFIG imports $DROP_INS now; as it was: $CONTAINERD_CONFIG.before-pontoon"
}

# Whether the file may be replaced: it is ours, as we left it, or already what it shall be.
check_owner() {
    [ -e "$HOST$1" ] && [ "$OVERWRITE" != yes ] || return 0
    cmp -s "$2" "$HOST$1" && return
    noted=$(sed -n "s|^\([0-9a-f]*\)  $1\$|\1|p" "$HOST$NOTES/"* 2>/dev/null | tr '\n' ' ')
    case " $noted" in *" $(sum "$HOST$1") "*) return ;; esac
    refuse "$1 was not installed by this, or was changed since" "Move it away, or set PONTOON_OVERWRITE=yes"
}

# Puts what is to be installed beside the place where it goes, and tries it there.
stage() {
    stays_on_host "$PREFIX" PONTOON_PREFIX
    staged=$HOST$STAGING
    mkdir -p "$staged" 2>/dev/null || refuse "$PREFIX cannot be written" "Set PONTOON_PREFIX to a directory that can, such as /opt/pontoon"
    trap 'rm -rf "$staged"' EXIT
    for name in $(programs); do
        cp "$FILES/bin/$name" "$staged/$name"
        chmod 0755 "$staged/$name"
    done
    for name in $(programs); do
        # The holder has nothing to say.
        [ "$name" != pontoon-holder ] || continue
        reason=$(on_host "$STAGING/$name" --version 2>&1) ||
            refuse "$name does not run on this node: $reason" "Its C library may be older than the image's: build the image on the oldest system that you have. Or $PREFIX is mounted noexec: set PONTOON_PREFIX"
    done
    # Units name the programs where they are.
    for unit in $(units); do
        sed "s|/usr/local/bin/|$PREFIX/bin/|" "$FILES/systemd/$unit" >"$staged/$unit"
    done
    set --
    if [ -f "$CONFIG/$PLUGIN.toml" ]; then
        cp "$CONFIG/$PLUGIN.toml" "$staged/$PLUGIN.toml"
        set -- --config "$STAGING/$PLUGIN.toml"
        reason=$(on_host "$STAGING/$DAEMON" "$@" check-config 2>&1) ||
            refuse "$CONFIG/$PLUGIN.toml is not a configuration of $DAEMON: $reason" "Correct it"
    elif [ -f "$HOST/etc/pontoon/$PLUGIN.toml" ]; then
        set -- --config "/etc/pontoon/$PLUGIN.toml"
    fi
    case $version in 2) release=1.7 ;; *) release=2 ;; esac
    on_host "$STAGING/$DAEMON" "$@" print-containerd-config --containerd-version "$release" >"$staged/$DAEMON.toml" ||
        refuse "$DAEMON cannot say how containerd finds it" "See above"
}

# Each line: what it is, where it is staged, where it goes.
list() {
    for name in $(programs); do echo "program $name $PREFIX/bin/$name"; done
    for unit in $(units); do echo "unit $unit $UNITS/$unit"; done
    [ ! -f "$staged/$PLUGIN.toml" ] || echo "configuration $PLUGIN.toml /etc/pontoon/$PLUGIN.toml"
    echo "containerd $DAEMON.toml $DROP_INS/$DAEMON.toml"
}

# Replaces a file in one step, so that there is always a whole one.
place() {
    cmp -s "$1" "$HOST$2" && return
    mkdir -p "$(dirname "$HOST$2")"
    cp -p "$1" "$HOST$2.new"
    mv -f "$HOST$2.new" "$HOST$2"
    changed="$changed $3"
    say "$2 is new"
}

wanted_by() { echo "$UNITS/multi-user.target.wants/$1"; }

# Changes the host. Everything was checked before.
put() {
    list >"$staged/list"
    while read -r what from to; do place "$staged/$from" "$to" "$what"; done <"$staged/list"
    for unit in $(units); do
        link=$HOST$(wanted_by "$unit")
        mkdir -p "$(dirname "$link")"
        [ -L "$link" ] || changed="$changed unit"
        ln -sfn "$UNITS/$unit" "$link"
    done
    mkdir -p "$HOST$NOTES"
    while read -r what from to; do echo "$(sum "$HOST$to")  $to"; done <"$staged/list" >"$staged/notes"
    # What an older version had and this one has not.
    [ ! -f "$HOST$NOTES/$PLUGIN" ] || while read -r was path; do
        grep -q "  $path\$" "$staged/notes" || take_off "$was" "$path"
    done <"$HOST$NOTES/$PLUGIN"
    cp "$staged/notes" "$HOST$NOTES/$PLUGIN.new"
    mv -f "$HOST$NOTES/$PLUGIN.new" "$HOST$NOTES/$PLUGIN"
    add_imports
}

# Removes a file that is as we left it and that no other plugin needs.
take_off() {
    [ -e "$HOST$2" ] || return 0
    for other in "$HOST$NOTES"/*; do
        case $other in */"$PLUGIN") continue ;; esac
        ! grep -q "  $2\$" "$other" || return 0
    done
    if [ "$(sum "$HOST$2")" = "$1" ]; then
        rm -f "$HOST$2"
        say "$2 is gone"
    else
        say "$2 was changed and stays"
    fi
}

active() { control is-active --quiet "$1"; }

# Whether unit $1 was restarted by hand since $PENDING was written.
restarted_since() {
    then=$(control show --property ActiveEnterTimestamp --value --timestamp=unix "$1" 2>/dev/null) || return 1
    case $then in
        @[0-9]*) [ "${then#@}" -gt "$(stat -c %Y "$HOST$PENDING")" ] ;;
        *) false ;;
    esac
}

# What has to be restarted: what this run changed, and what an earlier one did.
pending() {
    for what in $changed; do
        case $what in containerd) echo containerd ;; *) echo pontoon ;; esac
    done
    [ -f "$HOST$PENDING" ] || return 0
    ! grep -q pontoon "$HOST$PENDING" || restarted_since "$DAEMON.service" || echo pontoon
    ! grep -q containerd "$HOST$PENDING" || restarted_since containerd.service || echo containerd
}

# Starts what does not run. Restarts what runs only if told.
start() {
    if ! systemd_runs; then
        say "systemd does not run here: nothing was started"
        return
    fi
    case $changed in *unit*) control daemon-reload ;; esac
    # The holder is never restarted: what it keeps, containers read.
    [ "$PLUGIN" = overlayfs ] || control start "$DAEMON-holder.service"
    left=""
    is_new=no
    active "$DAEMON.service" || is_new=yes
    for what in $(pending | sort -ru); do
        unit=$what.service
        [ "$what" = containerd ] || unit=$DAEMON.service
        if [ "$what $is_new" = "pontoon yes" ]; then
            continue
        elif told_to_restart "$what"; then
            control restart "$unit"
        else
            left="$left $what"
        fi
    done
    [ "$is_new" = no ] || control start "$DAEMON.service"
    tell "$left"
}

# Says what is left to be done, and remembers it.
tell() {
    if [ -z "$1" ]; then
        rm -f "$HOST$PENDING"
        return
    fi
    [ -f "$HOST$PENDING" ] && [ -z "$changed" ] || echo "$1" >"$HOST$PENDING"
    case $1 in
        *pontoon*) say "TO DO: the running $DAEMON is the old one. systemctl restart $DAEMON when it suits you: on Linux before 6.9 drain the node first (docs/operations.md)" ;;
    esac
    case $1 in
        *containerd*) say "TO DO: containerd does not know $DAEMON yet. Drain the node, systemctl restart containerd, uncordon it" ;;
    esac
}

install_all() {
    check_arguments
    check_machine
    check_containerd
    check_imports
    stage
    list >"$staged/list"
    while read -r _ from to; do
        stays_on_host "$to" PONTOON_PREFIX
        check_owner "$to" "$staged/$from"
    done <"$staged/list"
    put
    start
    rm -rf "$staged"
    say "$DAEMON is installed$([ -n "$changed" ] || echo ", nothing changed")"
}

# Mounts of containers on Pontoon's snapshots, and of lazy layers.
in_use() {
    data=/var/lib/pontoon/$PLUGIN
    real=$(readlink -f "$HOST")
    process=self
    ! is_live || process=1
    awk -v data="$data" -v host="${real%/}" '
        index($5, host data "/") == 1 || index($5, data "/") == 1 { print $5 }
        index($0, "lowerdir=" data "/") || index($0, ":" data "/") || index($0, "upperdir=" data "/") { print $5 }
    ' /proc/$process/mountinfo | head -n 1
}

uninstall_all() {
    check_arguments
    if [ ! -f "$HOST$NOTES/$PLUGIN" ]; then
        say "$DAEMON was not installed by this: nothing changed"
        return
    fi
    used=$(in_use)
    [ -z "$used" ] || refuse "containers on this node use $DAEMON ($used)" "Drain the node and remove the images that were pulled with it, or let it be"
    if systemd_runs; then
        if active "$DAEMON.service" && ! told_to_restart pontoon; then
            refuse "$DAEMON runs" "systemctl stop $DAEMON $DAEMON-holder, or set PONTOON_RESTART=pontoon"
        fi
        # The holder last: the daemon leaves to it what is mounted.
        for unit in $(units); do control stop "$unit"; done
    fi
    for unit in $(units); do rm -f "$HOST$(wanted_by "$unit")"; done
    while read -r was path; do take_off "$was" "$path"; done <"$HOST$NOTES/$PLUGIN"
    rm -f "$HOST$NOTES/$PLUGIN" "$HOST$PENDING"
    if systemd_runs; then
        control daemon-reload
        say "TO DO: containerd knows $DAEMON until it is restarted"
    fi
    say "$DAEMON is not installed any more; its data stays in /var/lib/pontoon/$PLUGIN"
}

# The daemon's own resolver does not know the cluster's names, a pod's does.
write_peers() {
    found=$(getent ahosts "$PEERS_SERVICE" | awk '{ print $1 }' | sort -u) || found=""
    # An answer without anybody is a resolver in trouble: what is known stays.
    [ -n "$found" ] || return 0
    new=$HOST$PEERS.new
    mkdir -p "$(dirname "$new")"
    {
        echo "# Nodes that run Pontoon, from the Service $PEERS_SERVICE. Written anew as they come and go."
        for address in $found; do
            case $address in
                *:*) echo "[$address]:$PEERS_PORT" ;;
                *) echo "$address:$PEERS_PORT" ;;
            esac
        done
    } >"$new"
    if cmp -s "$new" "$HOST$PEERS"; then rm -f "$new"; else mv -f "$new" "$HOST$PEERS"; fi
}

keep_going() {
    trap 'exit 0' TERM INT
    : >"$READY"
    while :; do
        [ -z "$PEERS_SERVICE" ] || write_peers
        sleep "$PEERS_SECONDS" &
        wait $!
    done
}

case ${1:-} in
    install) install_all ;;
    uninstall) uninstall_all ;;
    run)
        install_all
        keep_going ;;
    *)
        echo "usage: install.sh install | uninstall | run" >&2
        exit 64 ;;
esac
