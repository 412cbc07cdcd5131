"""A real Slurm of two nodes that listens on loopback only, for tests; started in a second where its programs are.

The daemons run from a folder of their own with a configuration of their own, and are ended by their process ids.
Facts that shaped the configuration: a requeued job waits until its credential expires (`cred_expire`, two minutes if
not set); without a default memory for a CPU one job takes a whole node; a GPU's file must be a device, of which only
the number is looked at, so that any two devices will do.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
PLACES = ("/usr/sbin", "/sbin", "/usr/local/sbin")  # not every user's PATH has them
NODES = ("alpha", "beta")
DEVICES = ("/dev/null", "/dev/zero")
PATIENCE = 20.0  # seconds that the nodes may take to answer

CONFIGURATION = """\
ClusterName=loopback
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=200
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
KillWait=2
ReturnToService=2
GresTypes=gpu
{nodes}
PartitionName=tests Nodes={names} Default=YES MaxTime=30 State=UP
"""


def missing() -> str:
    """Why no Slurm can be started here; "" if one can."""
    absent = [name for name in PROGRAMS if _program(name) is None]
    if absent:
        return f"no Slurm here: {', '.join(absent)} not installed (Debian: slurm-wlm and munge)"
    return "" if os.geteuid() == 0 else "Slurm's daemons can be started by root only"


class NoClusterError(Exception):
    """Slurm is installed, and does not start here."""


class Cluster:
    """Two nodes with four CPUs and two GPUs each, in one partition.

    Attributes:
        folder: configuration, logs and state of the daemons.
    """

    def __init__(self) -> None:
        # Not below pytest's folder: munged wants every user to reach its socket, and a socket's path is short.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.folder.chmod(0o755)

    def __enter__(self) -> Cluster:
        """Starts it.

        Raises:
            NoClusterError: it does not start; the message says what went wrong.
        """
        try:
            self._configure()
            self._start()
        except BaseException as error:
            self.__exit__()
            if isinstance(error, (OSError, RuntimeError, subprocess.SubprocessError)):
                raise NoClusterError(str(error)) from error
            raise
        return self

    def __exit__(self, *unused: object) -> None:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            self.run("scancel", "--partition=tests", "--full", check=False)
            self.until(lambda: not self.run("squeue", "--noheader", check=False), 5)
        pids = [int(text) for path in self.folder.glob("*.pid") if (text := path.read_text().strip())]
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in filter(_alive, pids):
                os.kill(pid, number)
            if self.until(lambda: not any(map(_alive, pids)), 5):
                break
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which Slurm's commands speak to this cluster."""
        path = os.pathsep.join([os.environ["PATH"], *PLACES])
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def run(self, *words: str, check: bool = True) -> str:
        """What a command of Slurm prints."""
        environment = dict(os.environ, **self.environment)
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=30, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout.strip()

    @staticmethod
    def until(true: Callable[[], object], seconds: float) -> bool:
        """Waits for something to be true; whether it came true in time."""
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True

    def _configure(self) -> None:
        controller, *ports = _free_ports(1 + len(NODES))
        nodes = "\n".join(
            f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=4000 Gres=gpu:2"
            for name, port in zip(NODES, ports, strict=True)
        )
        text = CONFIGURATION.format(controller=controller, folder=self.folder, nodes=nodes, names=",".join(NODES))
        (self.folder / "slurm.conf").write_text(text)
        gpus = [f"NodeName={','.join(NODES)} Name=gpu File={device}\n" for device in DEVICES]
        (self.folder / "gres.conf").write_text("".join(gpus))
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        for name in ("controller", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir()

    def _start(self) -> None:
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid",
                 "log-file": "munged.log", "seed-file": "munge.seed"}  # fmt: skip
        self.run("munged", *(f"--{option}={self.folder / name}" for option, name in files.items()))
        self.run("slurmctld", "-c")
        for node in NODES:
            self.run("slurmd", "-N", node)
        if not self.until(
            lambda: self.run("sinfo", "-h", "-N", "-t", "idle", check=False).count("tests") == 2, PATIENCE
        ):
            raise RuntimeError(f"the nodes did not answer: {(self.folder / 'slurmctld.log').read_text()[-2000:]}")


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *PLACES]))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _alive(pid: int) -> bool:
    """Whether a process is there, and not only waits to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False
