#!/usr/bin/env bash
# Starts and stops a real Slurm with several virtual nodes on this machine: no systemd, loopback only, as root.
# Usage: hpc/devcluster/devcluster.sh start|stop|status [-n NODES] [-c CPUS_PER_NODE] [-d FOLDER]
# FOLDER (default /tmp/voxtal-devcluster) holds all of its state; each folder is a cluster of its own.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
usage() { sed -n '2,4s/^# //p' "$0"; }
stop() { printf 'devcluster: %s\n' "$*" >&2; exit 2; }

action=${1:-}
shift || true
nodes=2 cpus=2 folder=/tmp/voxtal-devcluster
while getopts n:c:d: option; do
    case $option in
        n) nodes=$OPTARG ;;
        c) cpus=$OPTARG ;;
        d) folder=$OPTARG ;;
        *) usage >&2; exit 2 ;;
    esac
done
[[ $nodes =~ ^[1-9][0-9]*$ && $cpus =~ ^[1-9][0-9]*$ ]] || stop "-n and -c take numbers from 1 on"
folder=$(realpath -m "$folder")
[[ $folder =~ ^[A-Za-z0-9/._-]{2,60}$ ]] || # Slurm's sockets lie in it, and their paths end at 108 characters
    stop "$folder cannot be used: name a folder of at most 60 characters, without blanks"
export SLURM_CONF=$folder/slurm.conf

# Every daemon lives in a mount namespace with this tmpfs in it, and so does all that it ever starts: that is how
# `stop` finds the processes of this cluster and no others, and the mounts go with the last of them.
marker="devcluster:$folder"
processes() { # prints the ids of all processes of this cluster
    { grep -lF " tmpfs $marker " /proc/[0-9]*/mountinfo || true; } 2>/dev/null | cut -d/ -f3
}
end_all() {
    local left
    while left=$(processes) && [ -n "$left" ]; do
        # shellcheck disable=SC2086
        kill -9 $left 2>/dev/null || true
        sleep 0.1
    done
    if [ -f "$SLURM_CONF" ]; then rm -rf "$folder"; fi
}
on_node() { # NAME COMMAND...: on a virtual node, with its own name, /dev/shm and list of hosts
    # shellcheck disable=SC2016
    unshare --uts --mount --propagation private bash -c '
        hostname "$1" && mount -t tmpfs -o size=2g "$2" /dev/shm && mount --bind "$3" /etc/hosts
        shift 3 && exec "$@"' - "$1" "$marker" "$folder/hosts" "${@:2}" </dev/null
}
free_ports() { # COUNT: prints the first of COUNT neighbouring ports on which nothing listens
    local first port
    while first=$((10000 + RANDOM % 9000)); do # jobs take ports from 20000 on (MASTER_PORT), the kernel higher ones
        for ((port = first; port < first + $1; port++)); do
            if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then continue 2; fi
        done
        echo "$first"
        return
    done
}
check_machine() {
    local missing="" need
    local needs=(munged:munge slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client unshare:util-linux hostname:hostname)
    [ "$(id -u)" = 0 ] || stop "only root can start Slurm's daemons; run it as root or in a container"
    for need in "${needs[@]}"; do
        command -v "${need%:*}" >/dev/null || missing+=" ${need#*:}"
    done
    [ -z "$missing" ] || stop "missing packages; on Debian or Ubuntu: apt-get install --no-install-recommends$missing"
    unshare --uts --mount true 2>/dev/null ||
        stop "this container may not make namespaces; start it with the capability SYS_ADMIN"
}
write_configuration() {
    local port memory
    port=$(free_ports $((nodes + 1)))
    memory=$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
    mkdir -p "$folder"/{state,spool,tmp,log}
    chmod 755 "$folder"
    cp "$here/task-prolog.sh" "$folder"
    (umask 077 && head -c 128 /dev/urandom >"$folder/munge.key")
    {
        cat /etc/hosts
        for ((k = 1; k <= nodes; k++)); do echo "127.0.0.1 n$k"; done
    } >"$folder/hosts"
    {
        sed "s|@FOLDER@|$folder|; s|@CONTROLLER@|$(uname -n)|; s|@PORT@|$port|" "$here/slurm.conf.in"
        for ((k = 1; k <= nodes; k++)); do
            mkdir "$folder/spool/n$k" "$folder/tmp/n$k"
            echo "NodeName=n$k NodeAddr=127.0.0.1 Port=$((port + k)) CPUs=$cpus RealMemory=$memory State=UNKNOWN"
        done
        echo "PartitionName=main Nodes=n[1-$nodes] Default=YES MaxTime=INFINITE State=UP"
    } >"$SLURM_CONF"
}

case $action in
    start)
        check_machine
        [ ! -f "$folder/ready" ] || [ -z "$(processes)" ] ||
            stop "already running in $folder: use it with \"export SLURM_CONF=$SLURM_CONF\", or stop it first"
        end_all # what a start that was killed has left
        [ ! -e "$folder" ] || rmdir "$folder" 2>/dev/null ||
            stop "$folder is there and holds no cluster; name another: -d FOLDER"
        write_configuration
        on_node "$(uname -n)" munged --key-file="$folder/munge.key" --socket="$folder/munge.sock" \
            --pid-file="$folder/munged.pid" --log-file="$folder/log/munged.log" --seed-file="$folder/munge.seed"
        on_node "$(uname -n)" slurmctld
        for ((k = 1; k <= nodes; k++)); do on_node "n$k" slurmd -N "n$k"; done
        for _ in {1..300}; do
            if [ "$(sinfo -h -N -t idle -o %N 2>/dev/null | wc -l)" = "$nodes" ]; then
                touch "$folder/ready"
                echo "export SLURM_CONF=$SLURM_CONF"
                exit 0
            fi
            sleep 0.1
        done
        tail -n 20 "$folder"/log/*.log >&2
        end_all
        stop "the nodes did not come up within 30 s; their logs are above"
        ;;
    stop)
        end_all
        ;;
    status)
        [ -f "$folder/ready" ] && [ -n "$(processes)" ] || stop "no cluster is running in $folder"
        echo "export SLURM_CONF=$SLURM_CONF"
        sinfo -N -l
        squeue
        ;;
    -h | --help) usage ;;
    *) usage >&2; exit 2 ;;
esac
