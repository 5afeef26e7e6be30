"""A Slurm of one node, started for a test and stopped after it; its daemons are children, in a folder of their own."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
# Debian keeps daemons where a user's PATH does not look.
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
SETTINGS = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={port}
SlurmdPort={next_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
MpiDefault=none
ReturnToService=2
KillWait=20
JobRequeue=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """The programs of Slurm that are not installed."""
    return [name for name in (*DAEMONS, "sbatch", "srun") if shutil.which(name, path=PATH) is None]


@contextmanager
def cluster(folder: Path) -> Iterator[Path]:
    """A running Slurm; yields its configuration, which SLURM_CONF has to name. Fails where a daemon does not start."""
    # A folder of a test is open to its user alone, and munge wants a socket that others reach.
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(parents=True, mode=0o755)
    (key := folder / "munge/key").write_bytes(os.urandom(1024))
    key.chmod(0o400)
    port = _free_port()
    values = {
        "host": socket.gethostname().split(".")[0],
        "user": getpass.getuser(),
        "cores": len(os.sched_getaffinity(0)),
    }
    conf = folder / "slurm.conf"
    conf.write_text(SETTINGS.format(folder=folder, port=port, next_port=port + 1, **values))
    settings = {"key-file": key, "socket": folder / "munge/socket", "pid-file": folder / "munge/pid",
                "log-file": folder / "munge/log", "seed-file": folder / "munge/seed"}  # fmt: skip
    munged = ["munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in settings.items())]
    with ExitStack() as daemons:
        for command, ready in (
            (munged, ["munge", "-n", f"--socket={folder}/munge/socket"]),
            (["slurmctld", "-D", "-c", "-f", str(conf)], ["scontrol", "ping"]),
            (["slurmd", "-D", "-f", str(conf)], ["sh", "-c", "sinfo -h -o %T | grep -q idle"]),
        ):
            daemons.enter_context(_daemon(command, ready, conf))
        yield conf


@contextmanager
def _daemon(command: Sequence[str], ready: Sequence[str], conf: Path) -> Iterator[None]:
    environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(conf)}
    log = conf.with_name(f"{command[0]}.out")
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        wait(lambda: process.poll() is None and _answers(ready, environment), 60, lambda: log.read_text()[-2000:])
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait(true: Callable[[], bool], seconds: float, told: Callable[[], str] = str) -> None:
    """Waits until something is true. Raises TimeoutError, with what is told then, where it never is."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s; {told()}")
        time.sleep(0.2)


def _answers(command: Sequence[str], environment: dict[str, str]) -> bool:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    # scontrol ping succeeds when the controller is down, and says so.
    return done.returncode == 0 and "DOWN" not in done.stdout


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
