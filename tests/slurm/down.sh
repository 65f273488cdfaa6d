#!/usr/bin/env bash
# End what up.sh FOLDER started, and nothing else: processes by their pid files, files by their first line.
set -uo pipefail
folder=${1:?usage: down.sh FOLDER}
if grep -q "temper's tests" /etc/slurm/slurm.conf 2>/dev/null; then
    scancel --user="$(id -un)" --signal=KILL --full 2>/dev/null
    scancel --user="$(id -un)" 2>/dev/null
fi
for file in "$folder"/slurmd.pid "$folder"/slurmctld.pid "$folder"/munge/munged.pid; do
    [ -f "$file" ] || continue
    pid=$(cat "$file")
    kill "$pid" 2>/dev/null
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null
done
if grep -q "temper's tests" /etc/slurm/slurm.conf 2>/dev/null; then
    rm -f /etc/slurm/slurm.conf /etc/slurm/gres.conf
fi
true
