"""A Slurm of two nodes on this machine, which tests start for themselves and end again."""

from __future__ import annotations

import ctypes
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

PR_SET_PDEATHSIG = 1
DAEMONS = ("munged", "slurmctld", "slurmd")
NODES = ("n1", "n2")
CONF = """
ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A job that is queued again waits for as long as its credentials last: two minutes, if nothing is said.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
SlurmdTimeout=6
SlurmctldTimeout=6
InactiveLimit=0
KillWait=5
MinJobAge=600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={n1} CPUs=2 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={n2} CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=low Nodes=n1,n2 Default=YES MaxTime=60 State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=patient Nodes=n1,n2 MaxTime=60 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes=n1,n2 MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
"""


def is_installed() -> bool:
    """Whether Slurm's and munge's programs are here."""
    return all(shutil.which(name) for name in (*DAEMONS, "sbatch"))


def wait_until(holds: Callable[[], object], what: str, seconds: float = 90) -> None:
    """Wait for something that is certain to come, or fail and say what did not."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)


def _follow_parent() -> None:
    """In a child: be killed when the tests are, of which nothing is to be left then either."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Cluster:
    """Slurm's programs in a folder of their own, on ports that were free; ``environment`` is how to reach it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self.contained = subprocess.run([*self._inside("n1"), "true"], capture_output=True).returncode == 0
        """Whether each node has process numbers and a host name of its own, as other machines have."""
        self._programs: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        (self.folder / "munge").mkdir(mode=0o700)
        (self.folder / "state").mkdir()
        key = self.folder / "munge/key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        files = [f"--{name}={self.folder}/munge/{name.removesuffix('-file')}" for name in ("key-file", "pid-file")]
        files += [f"--{name}-file={self.folder}/munge/{name}" for name in ("log", "seed")]
        self._start("munged", "munged", "--foreground", "--force", f"--socket={self.folder}/munge/socket", *files)
        wait_until((self.folder / "munge/socket").exists, "munged")
        with ExitStack() as stack:
            held = [stack.enter_context(socket.socket()) for _ in range(3)]
            for one in held:
                one.bind(("127.0.0.1", 0))
            ports = [one.getsockname()[1] for one in held]
        text = CONF.format(
            folder=self.folder, user=getpass.getuser(), controller=ports[0], **dict(zip(NODES, ports[1:], strict=True))
        )
        (self.folder / "slurm.conf").write_text(text)
        self._start("slurmctld", "slurmctld", "-D")
        for node in NODES:
            self.start_node(node)
        self.wait_for_nodes()

    def stop(self) -> None:
        for name, program in reversed(self._programs.items()):
            if name in NODES:
                self._kill(program)
            program.terminate()
            with suppress(subprocess.TimeoutExpired):
                program.wait(10)
            program.kill()
            program.wait()

    def _start(self, name: str, *command: str) -> None:
        environment = {**os.environ, **self.environment}
        with open(self.folder / f"{name}.said", "ab") as said:
            program = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=environment,
                start_new_session=True,
                preexec_fn=_follow_parent,
            )
        self._programs[name] = program

    def _inside(self, node: str) -> list[str]:
        kinds = ("--pid", "--fork", "--kill-child", "--mount-proc", "--uts")
        return ["unshare", *kinds, "sh", "-c", f'hostname {node}; "$@" & wait', "sh"]

    def start_node(self, node: str) -> None:
        daemon = ["slurmd", "-D", "-N", node]
        self._start(node, *(self._inside(node) if self.contained else []), *daemon)
        self.ask("scontrol", "update", f"nodename={node}", "state=resume")

    def kill_node(self, node: str) -> None:
        """As if the machine had lost its power: everything on it is gone at once."""
        self._kill(self._programs[node])
        # What Slurm finds out by itself after a while.
        self.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def _kill(self, program: subprocess.Popen[bytes]) -> None:
        with suppress(psutil.NoSuchProcess):
            for process in (*psutil.Process(program.pid).children(recursive=True), psutil.Process(program.pid)):
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
        program.wait()

    def wait_for_nodes(self) -> None:
        def ready() -> bool:
            words = self.ask("sinfo", "-h", "-N", "-p", "low", "-o", "%t").split()
            return len(words) == len(NODES) and set(words) <= {"idle", "mix", "alloc"}

        wait_until(ready, "both nodes are up")

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands says."""
        done = subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, text=True)
        return done.stdout

    def queue(self, form: str = "%i %T") -> list[str]:
        """The jobs that have not ended, a line each."""
        return self.ask("squeue", "-h", "-o", form).splitlines()

    def empty(self) -> bool:
        return self.queue() == []
