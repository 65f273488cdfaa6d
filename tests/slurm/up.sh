#!/usr/bin/env bash
# Start a SLURM of one node for the tests, on loopback, as root: up.sh FOLDER (absolute, empty). down.sh FOLDER ends it.
# Needs Debian's packages slurm-wlm and munge; no systemd, no database. Exits 3, with the reason, where one is set up
# already. The configuration must lie in /etc/slurm: Snakemake's plugin strips SLURM_CONF from its jobs.
set -euo pipefail
PATH=$PATH:/usr/sbin
folder=${1:?usage: up.sh FOLDER}
etc=/etc/slurm
if [ -e $etc/slurm.conf ] && ! grep -q "temper's tests" $etc/slurm.conf; then
    echo "$etc/slurm.conf is there already: this machine has a SLURM of its own"
    exit 3
fi
if pgrep -x slurmctld >/dev/null; then
    echo "a slurmctld is running already"
    exit 3
fi
mkdir -p "$folder"/{ctld,d,log} $etc
chmod 755 "$folder"
# Not nproc, which says what OMP_NUM_THREADS says.
cpus=$(getconf _NPROCESSORS_ONLN)

# Own key and socket: a munge daemon that serves something else stays as it is.
install -m 700 -d "$folder/munge"
head -c 1024 /dev/urandom >"$folder/munge/key"
chmod 400 "$folder/munge/key"
install -m 755 -d "$folder/socket"
munged --force --key-file="$folder/munge/key" --socket="$folder/socket/munge" --pid-file="$folder/munge/munged.pid" \
    --log-file="$folder/munge/munged.log" --seed-file="$folder/munge/seed"

# pgid, not linuxproc, which loses a process whose parent has ended. Clusters have cgroup.
# cred_expire: a requeued job starts after that many seconds, by default after 120.
# OverMemoryKill: without cgroups, memory is polled, every other second.
# config_overrides: the node claims the memory that the shipped profile asks for; nothing here uses so much.
# Two files that do no harm stand for GPUs; nothing computes on them.
cat >$etc/slurm.conf <<CONF
# Written by temper's tests; their down.sh removes it.
ClusterName=temper
SlurmctldHost=localhost
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/socket/munge,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$folder/ctld
SlurmdSpoolDir=$folder/d
SlurmdParameters=config_overrides
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
MinJobAge=300
KillWait=10
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
MailProg=/bin/true
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
GresTypes=gpu
NodeName=localhost CPUs=$cpus RealMemory=131072 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefMemPerCPU=512 PriorityTier=1 State=UP
PartitionName=short Nodes=ALL MaxTime=5 DefMemPerCPU=512 PriorityTier=1 State=UP
PartitionName=urgent Nodes=ALL MaxTime=INFINITE DefMemPerCPU=512 PriorityTier=9 PreemptMode=OFF State=UP
CONF
printf 'NodeName=localhost Name=gpu File=/dev/null\nNodeName=localhost Name=gpu File=/dev/zero\n' >$etc/gres.conf
unset SLURM_CONF
slurmctld -c
slurmd
for _ in $(seq 100); do
    [ "$(sinfo --noheader --partition=main --format=%t 2>/dev/null)" = idle ] && exit 0
    sleep 0.2
done
echo "the node did not come up; see $folder/log" >&2
exit 1
