"""A stand-in for the SD3403's worker: speaks its protocol, computes with ONNX Runtime, and misbehaves on demand.

``worker.py --sim DIR --model FILE``. FILE is an ONNX model, or for tests of the protocol alone a stub: ``STUB``
and JSON ``{"sizes": [elements per input], "rows": N, "width": N}``, answered without ONNX Runtime (and without
numpy, so that it starts in milliseconds). DIR holds

* ``sim.json``: ``padded`` (rows padded to 8), ``output`` (index of the action, 1), ``greeting`` (vendor chatter at
  the start), ``start`` (a fault at the start), ``faults`` ({request id: fault}); see :data:`FAULTS`;
* ``journal.jsonl``, written here: every broken rule of the protocol, see :class:`Rules`; a file in
  ``SIMULATOR_JOURNAL`` gets the same;
* ``pids``, written here: one line per start;
* ``hanging``, made here when the fault ``hang`` begins.
"""

from __future__ import annotations

import array
import fcntl
import io
import json
import math
import os
import signal
import struct
import sys
import termios
import time
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = 0x53565031
REQUEST, INPUT = struct.Struct("<IHHII"), struct.Struct("<III")
REPLY, OUTPUT = struct.Struct("<IHHIIIiI"), struct.Struct("<IIIIII")
START_FAULTS = ("exit", "mute", "deaf", "stubborn", "junk", "log")
FAULTS = (
    *(
        "chatter",
        "half a magic",
        "trickle",
        "junk",
        "log",
        "wrong id",
        "wrong version",
        "refuse",
        "hang",
        "die",
        "die in reply",
    ),
    *("half a reply", "nan", "no outputs", "integers", "unknown type", "twice", "wrong size", "wrong dims"),
    *("many outputs", "many dims", "many bytes", "much text", "short"),
)


RULES = {
    "environment": "no SVP_ variable reaches the worker",
    "header": "magic, version 1, reserved words 0",
    "input count": "as many inputs as the model has",
    "request id": "from 1 on, one more each time",
    "input entry": "indices in order, reserved words 0",
    "input size": "float32 for every element of the input",
    "finite": "no NaN, no infinity",
    "truncated": "requests are sent whole",
    "in flight": "the next request comes after the reply",
}
"""What the journal names; from the sections C.1 and C.5."""


class Rules:
    """What a request must keep to; each breach is journalled, and the request answered with status 2."""

    def __init__(self, directory: Path, sizes: list[int]) -> None:
        self.directory = directory
        self.sizes = sizes
        self.last_id: int | None = None
        self.asker = os.getppid()

    def cut_short(self, text: str) -> None:
        """A breach, unless who asked was killed and could not do better."""
        if os.getppid() == self.asker:
            self.breach("truncated", text)

    def breach(self, rule: str, text: str) -> None:
        assert rule in RULES
        with (self.directory / "journal.jsonl").open("a") as journal:
            journal.write(json.dumps({"pid": os.getpid(), "rule": rule, "text": text}) + "\n")
        if of_the_suite := os.environ.get("SIMULATOR_JOURNAL"):
            with Path(of_the_suite).open("a") as journal:
                journal.write(f"sd3403 {rule}\t{text} [{os.environ.get('PYTEST_CURRENT_TEST', 'no test')}]\n")

    def start(self, environment: dict[str, str]) -> None:
        if old := [name for name in environment if name.startswith("SVP_")]:
            self.breach("environment", f"{old} would override --model")

    def header(self, magic: int, version: int, count: int, request_id: int, reserved: int) -> None:
        if (magic, version, reserved) != (MAGIC, 1, 0):
            self.breach("header", f"magic {magic:#x}, version {version}, reserved {reserved}")
            sys.exit(3)
        if count != len(self.sizes):
            self.breach("input count", f"{count}, the model has {len(self.sizes)}")
        if request_id < 1 or (self.last_id is not None and request_id != self.last_id + 1):
            self.breach("request id", f"{request_id} after {self.last_id}")
        self.last_id = request_id

    def input(self, position: int, index: int, size: int, reserved: int) -> None:
        if index != position or reserved != 0:
            self.breach("input entry", f"index {index} at place {position}, reserved {reserved}")
        if position < len(self.sizes) and size != 4 * self.sizes[position]:
            self.breach("input size", f"{size} bytes for input {index}, the model has {4 * self.sizes[position]}")

    def payload(self, index: int, data: bytes) -> None:
        values = array.array("f")
        values.frombytes(data[: len(data) // 4 * 4])
        if not math.isfinite(math.fsum(values) if len(values) < 10_000 else sum(values)):
            self.breach("finite", f"input {index} holds NaN or infinity")


class StubModel:
    def __init__(self, text: str) -> None:
        self.sizes, self.rows, self.width = (json.loads(text)[key] for key in ("sizes", "rows", "width"))

    def run(self, payloads: list[bytes]) -> tuple[list[float], int, int]:
        """Element (r, c) is the sum of all input plus r + c / 10."""
        total = 0.0
        for payload in payloads:
            values = array.array("f")
            values.frombytes(payload)
            total += sum(values)
        return [total + row + column / 10 for row in range(self.rows) for column in range(self.width)], *self.shape

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.width


class OnnxModel:
    def __init__(self, file: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        # As a converter for a board does with the batch axis that an export leaves open.
        options.add_free_dimension_override_by_name("batch", 1)
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.sizes = [math.prod(node.shape) for node in self.session.get_inputs()]

    def run(self, payloads: list[bytes]) -> tuple[list[float], int, int]:
        import numpy as np

        feeds = {
            node.name: np.frombuffer(payload, np.float32).reshape(node.shape)
            for node, payload in zip(self.session.get_inputs(), payloads, strict=True)
        }
        action = self.session.run(None, feeds)[0]
        return action.reshape(-1).tolist(), action.shape[-2], action.shape[-1]


def padded(values: list[float], rows: int, width: int) -> tuple[list[float], int]:
    """Rows as the NPU writes them: multiples of 8 elements, filled with what lay there before."""
    row = -(-width // 8) * 8
    filler = [12345.0] * (row - width)
    return [x for r in range(rows) for x in (*values[r * width : (r + 1) * width], *filler)], row


def waiting(stream: BinaryIO) -> int:
    """Bytes that can be read from a pipe at once."""
    return int.from_bytes(fcntl.ioctl(stream.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)


def entry(index: int, dims: list[int], data: bytes, count: int, kind: int = 1, **wrong: Any) -> bytes:
    shape = wrong.get("false_dims", dims)
    size = wrong.get("size", len(data))
    head = OUTPUT.pack(index, kind, count, size, wrong.get("dim_count", len(shape)), 0)
    return head + struct.pack(f"<{len(shape)}Q", *shape) + data


class Simulator:
    def __init__(self, directory: Path, model: Path) -> None:
        self.settings = json.loads((directory / "sim.json").read_text())
        with (directory / "pids").open("a") as pids:
            pids.write(f"{os.getpid()}\n")
        self.out: BinaryIO = os.fdopen(os.dup(1), "wb", buffering=0)
        self.start(self.settings.get("start"))
        self.model = self.open(model)
        self.rules = Rules(directory, self.model.sizes)
        self.rules.start(dict(os.environ))
        sys.stderr.write("model_load_ms=12.5\n")
        sys.stderr.flush()

    def open(self, file: Path) -> StubModel | OnnxModel:
        content = file.read_bytes()
        if content.startswith(b"STUB"):
            return StubModel(content[4:].decode())
        try:
            return OnnxModel(file)
        except Exception as error:  # noqa: BLE001  whatever it says, a worker prints it and exits
            sys.stderr.write(f"svp_acl_mdl_load failed, ret=500002: {error}\n")
            sys.exit(1)

    def start(self, fault: str | None) -> None:
        if self.settings.get("greeting", True):
            self.out.write(b"load sys ....OK!\nload svp_npu ....OK!\n")
        if fault == "exit":
            sys.stderr.write("svp_acl_init failed, ret=507033\n")
            sys.exit(4)
        if fault in ("mute", "deaf"):
            while fault == "deaf" or sys.stdin.buffer.read(1 << 16):
                time.sleep(0.01)
        if fault == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if fault == "junk":
            self.flood(self.out)
        if fault == "log":
            self.flood(sys.stderr.buffer)

    def flood(self, stream: BinaryIO) -> None:
        for _ in range(40):
            stream.write(b"svp: dump of a register " * 2730)
            stream.flush()

    def serve(self) -> None:
        # Unbuffered, to see what follows.
        stdin = io.BufferedReader(sys.stdin.buffer.raw, 1)
        while head := stdin.read(REQUEST.size):
            if len(head) < REQUEST.size:
                return self.rules.cut_short(f"{len(head)} bytes of a header")
            magic, version, count, request_id, reserved = REQUEST.unpack(head)
            self.rules.header(magic, version, count, request_id, reserved)
            payloads = self.payloads(stdin, count)
            if payloads is None:
                return self.rules.cut_short("the request ended in an input")
            if waiting(stdin):
                self.rules.breach("in flight", f"{waiting(stdin)} bytes follow before request {request_id} is answered")
            self.answer(request_id, payloads, self.settings.get("faults", {}).get(str(request_id)))
        if self.settings.get("start") == "stubborn":
            time.sleep(3600)
        return None

    def payloads(self, stdin: BinaryIO, count: int) -> list[bytes] | None:
        payloads = []
        for position in range(count):
            head = stdin.read(INPUT.size)
            if len(head) < INPUT.size:
                return None
            index, size, reserved = INPUT.unpack(head)
            self.rules.input(position, index, size, reserved)
            data = stdin.read(size)
            if len(data) < size:
                return None
            self.rules.payload(index, data)
            payloads.append(data)
        return payloads

    def answer(self, request_id: int, payloads: list[bytes], fault: str | None) -> None:
        if [len(payload) for payload in payloads] != [4 * size for size in self.model.sizes]:
            return self.reply(request_id, [], status=2, text="inputs do not fit the model", code=145000)
        if fault is not None and fault not in FAULTS:
            raise ValueError(f"no fault {fault!r}")
        values, rows, width = self.model.run(payloads)
        if self.settings.get("padded"):
            values, width = padded(values, rows, width)
        if fault == "nan":
            values[1] = math.nan
        data = struct.pack(f"<{len(values)}f", *values)
        action = entry(self.settings.get("output", 1), [1, rows, width], data, len(values))
        others = [entry(i, [2], bytes(8), 2) for i in (0, 2, 3) if i != self.settings.get("output", 1)]
        self.misbehave(fault, request_id, [*others[:1], action, *others[1:]], data)
        return None

    def misbehave(self, fault: str | None, request_id: int, outputs: list[bytes], data: bytes) -> None:
        count = len(data) // 4
        if fault == "die":
            sys.stderr.write("svp_acl_mdl_execute: NPU hung, giving up\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault == "hang":
            (self.rules.directory / "hanging").touch()
            time.sleep(3600)
        elif fault in ("die in reply", "half a reply"):
            whole = self.packed(request_id, outputs)
            self.out.write(whole[: len(whole) // 2])
            if fault == "half a reply":
                time.sleep(3600)
            sys.exit(5)
        elif fault == "refuse":
            self.reply(request_id, [], status=1, text="svp_acl_mdl_execute failed: AI core timeout", code=507014)
        else:
            self.out.write(
                {"chatter": b"vpss: frame dropped\n" * 3000, "half a magic": b"1PV1P1PV"}.get(fault or "", b"")
            )
            if fault in ("junk", "log"):
                self.flood(self.out if fault == "junk" else sys.stderr.buffer)
            self.reply(request_id, self.mangled(fault, outputs, data, count), **self.wrong_header(fault, request_id))

    def mangled(self, fault: str | None, outputs: list[bytes], data: bytes, count: int) -> list[bytes]:
        index = self.settings.get("output", 1)
        return {
            "no outputs": [],
            "integers": [entry(index, [count], data, count, kind=5)],
            "unknown type": [entry(index, [count], data, count, kind=9)],
            "twice": [*outputs, outputs[0]],
            "short": [entry(index, [count - 1], data[:-4], count - 1)],
            "wrong size": [entry(index, [count], data, count, size=len(data) - 4)],
            "wrong dims": [entry(index, [count], data, count, false_dims=[count, 2])],
            "many dims": [entry(index, [count], data, count, false_dims=[1] * 9)],
            "many bytes": [entry(index, [], b"", (1 << 28) // 4 + 1, size=(1 << 28) + 4)],
        }.get(fault or "", outputs)

    def wrong_header(self, fault: str | None, request_id: int) -> dict[str, int]:
        return {
            "wrong id": {"answered": request_id - 1},
            "wrong version": {"version": 2},
            "many outputs": {"count": 33},
            "much text": {"text_size": (1 << 16) + 1},
        }.get(fault or "", {})

    def packed(
        self,
        request_id: int,
        outputs: list[bytes],
        *,
        status: int = 0,
        text: str = "",
        code: int = 0,
        version: int = 1,
        answered: int | None = None,
        count: int | None = None,
        text_size: int | None = None,
    ) -> bytes:
        said = text.encode()
        head = REPLY.pack(
            MAGIC,
            version,
            status,
            request_id if answered is None else answered,
            len(outputs) if count is None else count,
            1234,
            code,
            len(said) if text_size is None else text_size,
        )
        return head + b"".join(outputs) + said

    def reply(self, request_id: int, outputs: list[bytes], **header: Any) -> None:
        whole = memoryview(self.packed(request_id, outputs, **header))
        if self.settings.get("faults", {}).get(str(request_id)) == "trickle":
            for end in range(1, 40):
                whole = whole[self.out.write(whole[:1]) :]
                time.sleep(0.01 if end < 10 else 0)
        while whole:
            whole = whole[self.out.write(whole) :]


def main(arguments: list[str]) -> None:
    if len(arguments) != 4 or arguments[::2] != ["--sim", "--model"]:
        sys.exit(f"usage: worker.py --sim DIR --model FILE, got {arguments}")
    Simulator(Path(arguments[1]), Path(arguments[3])).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
