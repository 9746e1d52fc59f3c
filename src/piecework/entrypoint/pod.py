"""The first process of a pod: what piecework's launcher, `launcher.pyz`, does once it is unpacked.

Enters: $PIECEWORK_ORDER, one object of JSON, and the attempt's variables in the environment:

    {"launch": {...}, "environ": {...}, "code": {...} | null, "gang": {...} | absent,
     "store": "s3://bucket/piecework" | absent, "grace_seconds": 25, "message_bytes": 4096}

`gang` says which of an attempt's pods this is, and where the first is (piecework.entrypoint.gang);
with `meets`: true, the program starts when all of them are there. `followers` is what the program's
engine makes pods from (piecework.entrypoint.spark_kubernetes). An order without `launch` has no
program: it is the meeting of a gang alone, before a container in which there is no launcher.

Leaves: an exit code as the program's, and the termination message, in which the rest is told:

    {"result": ... , "use": {...}, "failed": "why it was not started" | null,
     "out_of_memory": bool, "artifacts": {"files": 3, "bytes": 1024}, "lost": "what, and why"}

A result that is too long for the message is packed: `packed` is then base64 of the zlib of its
JSON, and `result` null. One that is too long even then is put into the store, where there is one,
and `kept` tells its SHA-256 and its size; artifacts are put there, too. SIGTERM ends the program's
whole tree, with its grace; a program that was ended so is no success, whatever its exit code.
Standard library only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from piecework.entrypoint import keep
from piecework.entrypoint.__main__ import Entrypoint, Message
from piecework.entrypoint.data import settle
from piecework.entrypoint.fetch import fetch_code
from piecework.entrypoint.gang import Gang, GangError, meet
from piecework.entrypoint.measure import ROOT, Container, merge
from piecework.entrypoint.start import CannotStart, own_folder
from piecework.entrypoint.use import UNKNOWN, Use

#: What the kubelet reads of a container's message at most, and where it reads it from.
MESSAGE_BYTES = 4096
MESSAGE_FILE = "/dev/termination-log"
#: Kubernetes kills a pod 30 s after SIGTERM; the launcher must have told its end by then.
GRACE_SECONDS = 25.0
_LONGEST_WHY = 1500
#: The exit code of a launcher that could not start a program, or not keep its result.
_FAILED = 1
#: What is the launcher's own, and no business of the program's.
_OWN = ("PIECEWORK_ORDER", "PIECEWORK_MESSAGE", "PIECEWORK_CGROUP")


class Pod:
    """One program, from the order in the environment to the message that is left behind."""

    def __init__(self, environ: Mapping[str, str], work: Path) -> None:
        self.order: dict[str, Any] = json.loads(environ["PIECEWORK_ORDER"])
        self.message_file = Path(environ.get("PIECEWORK_MESSAGE") or MESSAGE_FILE)
        self.container = Container(Path(environ.get("PIECEWORK_CGROUP") or ROOT))
        self.work = work
        self.own = work / ".piecework"
        self.result = self.own / "result.json"
        self.told: Message = {}
        self.environ = {name: text for name, text in environ.items() if name not in _OWN}

    def run(self) -> int:
        """Fetches the code, runs the program, leaves the message; returns the pod's exit code."""
        self.container.start()
        entrypoint = Entrypoint(None, self.told.update)
        try:
            order = self._prepare()
        except (CannotStart, OSError) as error:
            message = str(error) if isinstance(error, CannotStart) else f"cannot start: {error}"
            print(f"piecework: {message}", file=sys.stderr, flush=True)
            self.told["failed"] = message
        else:
            entrypoint.run(order)
        code = self._exit_code(ended=entrypoint.is_ending)
        return self._leave_message(code, ended=entrypoint.is_ending)

    def _prepare(self) -> dict[str, Any]:
        """Lays out the working folder; returns the entrypoint's order."""
        code, artifacts = self.own / "code", self.own / "artifacts"
        for folder in (code, artifacts):
            folder.mkdir(parents=True, exist_ok=True)
        launch = dict(self.order["launch"])
        if launch.get("data"):  # the code may be where the data is
            os.environ.update(settle(launch["data"], own_folder(self.work) / "hadoop"))
        if self.order.get("code"):
            fetch_code(self.order["code"], code)
            launch["code"] = str(code)
        for known in ("gang", "followers"):
            if self.order.get(known):
                launch[known] = self.order[known]
        environ = {
            **self.environ,
            **self.order.get("environ", {}),
            "PIECEWORK_CODE": str(launch.get("code") or ""),
            "PIECEWORK_FOLDER": str(self.own),
            "PIECEWORK_ARTIFACTS": str(artifacts),
            "PIECEWORK_RESULT": str(self.result),
            "PIECEWORK_PYTHON": sys.executable,
        }
        os.environ["PIECEWORK_FOLDER"] = str(self.own)
        if self.order.get("meets"):
            _meet(self.order["gang"])
        grace = float(self.order.get("grace_seconds", GRACE_SECONDS))
        work = str(self.work)
        return {"launch": launch, "environ": environ, "work": work, "grace_seconds": grace}

    def _exit_code(self, *, ended: bool) -> int:
        """The program's exit code as a shell would tell it; that of SIGTERM where it was ended."""
        status = self.told.get("exited")
        if status is None:
            return _FAILED
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            return 128 - code
        return 128 + signal.SIGTERM if ended and code == 0 else code

    def _leave_message(self, code: int, *, ended: bool) -> int:
        """Writes the termination message; returns the exit code that goes with it.

        Artifacts are kept after that: whoever is killed meanwhile has told the rest.
        """
        kills = self.container.out_of_memory_kills()
        processes: Use = self.told.get("use", UNKNOWN)
        message: Message = {
            "result": None,
            "use": merge(self.container.use(), processes),
            "failed": self.told.get("failed"),
            "out_of_memory": bool(self.told.get("out_of_memory")) or kills > 0,
        }
        if message["failed"]:
            message["failed"] = message["failed"][:_LONGEST_WHY]
        limit = int(self.order.get("message_bytes", MESSAGE_BYTES))
        if code == 0:
            wrong = _add_result(message, self.result, limit, self._keep_result)
            if wrong:
                print(f"piecework: {wrong}", file=sys.stderr, flush=True)
                message["failed"], code = wrong, _FAILED
        self._write_message(message)
        seconds = keep.ENDING_SECONDS if ended else keep.LONGEST_SECONDS
        if self._keep_artifacts(message, limit, seconds):
            self._write_message(message)
        return code

    def _keep_result(self, data: bytes) -> str | None:
        """Puts the result into the store; returns why that cannot be, "" where there is none."""
        store = self.order.get("store")
        if not store:
            return ""
        try:
            keep.keep_result(store, self.environ["PIECEWORK_ATTEMPT"], data)
        except keep.CannotKeep as error:
            return str(error)
        return None

    def _keep_artifacts(self, message: Message, limit: int, seconds: float) -> bool:
        """Puts the artifacts into the store, and into the message what became of them."""
        store = self.order.get("store")
        if not store:
            return False
        kept = keep.keep_artifacts(store, self.environ, self.own / "artifacts", seconds)
        if kept is None:
            return False
        message["artifacts"] = {"files": kept.files, "bytes": kept.bytes}
        if kept.lost:
            print(f"piecework: {kept.lost}", file=sys.stderr, flush=True)
            message["lost"] = kept.lost
        for name in ("lost", "artifacts"):  # the result comes first
            if len(_encode(message)) > limit:
                message.pop(name, None)
        return True

    def _write_message(self, message: Message) -> None:
        try:
            self.message_file.write_bytes(_encode(message))
        except OSError as error:
            print(f"piecework: the end cannot be told: {error}", file=sys.stderr, flush=True)


def _add_result(
    message: Message, file: Path, limit: int, keep_result: Callable[[bytes], str | None]
) -> str | None:
    """Puts what the program wrote as its result into the message; returns why that cannot be.

    `keep_result` puts one that is too long elsewhere; it says why it cannot, or "" without a store.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        return f"its result cannot be read: {error}"
    try:
        message["result"] = json.loads(text)
    except ValueError as error:
        print(f"piecework: the result is not JSON, so it is not kept: {error}", flush=True)
        return None
    if len(_encode(message)) <= limit:
        return None
    dense = json.dumps(message["result"], separators=(",", ":")).encode()
    message["result"] = None
    message["packed"] = base64.b64encode(zlib.compress(dense, 9)).decode()
    if len(_encode(message)) <= limit:
        return None
    del message["packed"]
    wrong = keep_result(dense)
    if wrong is None:
        message["kept"] = {"sha256": hashlib.sha256(dense).hexdigest(), "bytes": len(dense)}
        return None
    return (
        f"its result has {len(dense):,} bytes, which do not fit into the {limit:,} that Kubernetes "
        f"keeps of a pod; {wrong or 'set `store` in piecework.toml, where it is then kept'}, or "
        "write it to PIECEWORK_DATA, and return where it is"
    )


def _encode(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def _meet(gang: Mapping[str, Any]) -> None:
    try:
        meet(Gang(**gang))
    except GangError as error:
        raise CannotStart(str(error)) from error


def _only_meet(gang: Mapping[str, Any], message_file: Path) -> int:
    """Returns the exit code of a container that does nothing else; its message says why it is 1."""
    try:
        _meet(gang)
    except (CannotStart, OSError) as error:
        print(f"piecework: {error}", file=sys.stderr, flush=True)
        message_file.write_text(str(error)[:_LONGEST_WHY])
        return _FAILED
    return 0


def _end_early(number: int, _frame: object) -> None:
    """Before there is a program to end. A pod's first process ignores what it does not take."""
    raise SystemExit(128 + number)


def main() -> int:
    """Reads the order from the environment; the working folder is the current one."""
    signal.signal(signal.SIGTERM, _end_early)
    pod = Pod(os.environ, Path.cwd())
    os.environ.pop("PIECEWORK_ORDER")
    if "launch" not in pod.order:
        return _only_meet(pod.order["gang"], pod.message_file)
    return pod.run()


if __name__ == "__main__":
    sys.exit(main())
