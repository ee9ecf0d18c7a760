#!/usr/bin/env bash
# A run under Slurm that goes on by itself: sbatch recipes/slurm.sh recipe.yaml --output /shared/runs/mine
#
# Two minutes before its time is up, or when it is preempted, the job saves its state and joins the queue again; the
# next start resumes. The number of nodes and GPUs may change in between (scontrol update JobId=… NumNodes=1).
#SBATCH --job-name=whispertune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -u

# The launcher kills what has not stopped by then; an update and the saved state must fit in.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=100
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}"

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
start="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" # each start meets anew
srun --kill-on-bad-exit=1 torchrun \
  --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node "${SLURM_GPUS_ON_NODE:-1}" \
  --rdzv_backend c10d --rdzv_id "$start" --rdzv_endpoint "$head:$((20000 + SLURM_JOB_ID % 10000))" \
  -m whispertune train "$@" &
run=$!

# USR1 comes from --signal: the job asks to be queued again. TERM comes when it is preempted, where Slurm queues it again
# itself, or from scancel. srun passes a signal on to torchrun, and torchrun to all processes.
again=no
trap 'again=yes; kill -TERM "$run"' USR1
trap 'kill -TERM "$run"' TERM

while kill -0 "$run" 2>/dev/null; do # a signal interrupts `wait`
  wait "$run"
done
wait "$run"
status=$?
if [ "$again" = yes ] && [ "$status" -ne 0 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
