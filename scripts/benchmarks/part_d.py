"""(d) A real link's rate and losses: two network namespaces with a virtual cable between them, made and removed here.

``tc tbf`` shapes both ends; packets are dropped at random before they are put together again, so that every fragment of
a large datagram is at risk, as on a wire. DDS sees nothing but the cable.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.bench import Bench, Result, constant
from benchmarks.folders import CHUNK, STATE_DIM, picture_bytes
from benchmarks.measure import Goal, Series, interleave
from benchmarks.processes import BenchError, Worker

ROBOT, ENGINE = "bench-robot", "bench-engine"
CABLE = {ROBOT: ("bench0", "10.87.87.1"), ENGINE: ("bench1", "10.87.87.2")}
RATES = {"1 Gbit/s": ("1gbit", 40), "100 Mbit/s": ("100mbit", 8)}
LOSSES = (0, 1, 5)
SIZE = (480, 640)
SMALL = (224, 224)
# UDP payload that a packet holds: a lost packet then costs itself, not the 45 fragments of a full datagram.
DDS_ON_A_CABLE = {"DDS_MAX_MESSAGE_SIZE": "1400B"}
PATIENCE_S = 25.0


def run(bench: Bench) -> Result:
    missing = _missing()
    if missing:
        note = f"Left out: {missing}."
        return Result({"left_out": note, "links": {}}, notes=[note])
    with _cable():
        workers = _start(bench)
        found = {rate: _measure(bench, workers, rate) for rate in RATES}
        control = _control(bench)
    data = {"links": found, "control": control}
    return Result(data, _tables(found, control), _goals(found), _notes(bench, control))


def _missing() -> str:
    if os.geteuid():
        return "making network namespaces needs root"
    tools = [tool for tool in ("ip", "tc", "iptables") if shutil.which(tool) is None]
    return f"{', '.join(tools)} not found (Debian: iproute2 iptables)" if tools else ""


def _sh(*words: str, must: bool = True) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    if must and done.returncode:
        raise BenchError(f"{' '.join(words)}: {done.stderr.strip()}")


def _inside(namespace: str) -> list[str]:
    return ["ip", "netns", "exec", namespace]


@contextmanager
def _cable() -> Iterator[None]:
    _remove()
    try:
        for namespace in CABLE:
            _sh("ip", "netns", "add", namespace)
        (robot, _), (engine, _) = CABLE[ROBOT], CABLE[ENGINE]
        _sh("ip", "link", "add", robot, "netns", ROBOT, "type", "veth", "peer", "name", engine, "netns", ENGINE)
        for namespace, (device, address) in CABLE.items():
            inside = _inside(namespace)
            _sh(*inside, "ip", "address", "add", f"{address}/24", "dev", device)
            _sh(*inside, "ip", "link", "set", device, "up")
            _sh(*inside, "ip", "link", "set", "lo", "up")
        yield
    finally:
        _remove()


def _remove() -> None:
    """A namespace takes its end of the cable with it."""
    for namespace in CABLE:
        _sh("ip", "netns", "delete", namespace, must=False)


def _shape(rate: str, loss: int) -> None:
    for namespace, (device, _) in CABLE.items():
        inside = _inside(namespace)
        _sh(*inside, "tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate", rate, "burst", "64kb", *_QUEUE)
        _sh(*inside, "iptables", "-t", "raw", "-F", "PREROUTING")
        if loss:
            chance = f"{loss / 100:g}"
            drop = ("-m", "statistic", "--mode", "random", "--probability", chance, "-j", "DROP")
            _sh(*inside, "iptables", "-t", "raw", "-A", "PREROUTING", "-i", device, *drop)


_QUEUE = ("latency", "400ms")


def _dds(bench: Bench, namespace: str, domain: int) -> dict[str, str]:
    return bench.environment(domain, **DDS_ON_A_CABLE, DDS_INTERFACE=CABLE[namespace][0])


def _start(bench: Bench) -> dict[str, tuple[Worker, str]]:
    _shape("10gbit", 0)
    workers: dict[str, tuple[Worker, str]] = {}
    for size, codecs in ((SIZE, ("u8", "jpeg:90")), (SMALL, ("u8",))):
        config = {"folder": str(bench.folder(*size)), "height": size[0], "width": size[1]}
        domain = bench.domain()
        bench.engine(bench.folder(*size), constant(False), _dds(bench, ENGINE, domain), _inside(ENGINE))
        device = bench.worker("device", config, _dds(bench, ROBOT, domain), prefix=_inside(ROBOT))
        device.ready()
        for codec in codecs:
            workers[f"ours, {codec} {size[0]}x{size[1]}"] = (device, codec)
    there = picture_bytes(*SIZE) + 4 * STATE_DIM
    workers["raw TCP, same bytes"] = (_pair(bench, "tcp", {"there": there, "back": CHUNK * STATE_DIM * 4}), "")
    if bench.peer_python:
        size_of = {"height": SIZE[0], "width": SIZE[1], "folder": str(bench.folder(*SIZE))}
        workers["openpi-style websocket"] = (_pair(bench, "websocket", size_of), "")
        workers["LeRobot async gRPC, floor off"] = (_pair(bench, "lerobot_async", {**size_of, "floor_s": 0.0}), "")
    return workers


def _pair(bench: Bench, module: str, config: dict[str, Any]) -> Worker:
    address = {"host": CABLE[ENGINE][1]}
    server = bench.peer(module, {"role": "server", **address, **config}, prefix=_inside(ENGINE))
    port = server.ready()["port"]
    client = bench.peer(module, {"role": "client", "port": port, **address, **config}, prefix=_inside(ROBOT))
    client.ready()
    return client


def _measure(bench: Bench, workers: dict[str, tuple[Worker, str]], rate: str) -> dict[str, dict[str, Any]]:
    speed, rounds = RATES[rate]
    found: dict[str, dict[str, Any]] = {system: {} for system in workers}
    for loss in LOSSES[:2] if bench.quick else LOSSES:
        _shape(speed, loss)
        for system, (worker, mode) in workers.items():
            found[system][str(loss)] = _rounds(worker, mode, bench.times(round(rounds * _share(system, loss))))
    return found


def _share(system: str, loss: int) -> float:
    """Peers over TCP crawl where packets are lost: fewer rounds keep to the time."""
    if system.startswith("ours, u8 480"):
        return 2.0
    return 1.0 if system.startswith("ours") or not loss else 0.35


def _rounds(worker: Worker, mode: str, rounds: int) -> dict[str, Any]:
    series: Series = interleave(
        {"": lambda count, _: worker.run(count, 0.0, mode, timeout_s=PATIENCE_S)}, 1, {"": max(2, rounds)}, warm=1
    )[""]
    return series.summary()


def _control(bench: Bench) -> dict[str, float]:
    """One robot at 20 Hz on the fast link with the greatest loss: holds, and the tick while packets are sent again."""
    with bench.fresh() as fresh:
        domain = fresh.domain()
        fresh.engine(fresh.folder(*SIZE), constant(False), _dds(fresh, ENGINE, domain), _inside(ENGINE))
        seconds = 2.0 if bench.quick else 8.0
        config = {"folder": str(fresh.folder(*SIZE)), "seconds": seconds, "chunk": 10}
        fleet = fresh.worker("fleet", config, _dds(fresh, ROBOT, domain), prefix=_inside(ROBOT))
        fleet.ready()
        _shape(RATES["1 Gbit/s"][0], LOSSES[-1])
        stages = fleet.run(1, 0.0, "1/1", timeout_s=seconds + 30)["stages"]
    return {name: round(values[0], 4) for name, values in stages.items()}


def _goals(found: dict[str, dict[str, dict[str, Any]]]) -> list[Goal]:
    ours = found["1 Gbit/s"]["ours, u8 480x640"]
    return [Goal("1 Gbit/s: p99 with 1 % loss / p99 without", ours["1"]["p99_ms"] / ours["0"]["p99_ms"], 3.0)]


def _tables(found: dict[str, dict[str, dict[str, Any]]], control: dict[str, float]) -> dict[str, list[list[str]]]:
    tables = {rate: _table(systems) for rate, systems in found.items()}
    names = ("latency_p50", "latency_p99", "hold_ratio", "unanswered", "tick_late_p99")
    tables["One robot, 20 Hz, chunks of 10, 1 Gbit/s with 5 % loss"] = [
        ["latency ms", "p99", "held ticks", "unanswered", "tick late by, p99 ms"],
        [f"{control[name]:.1%}" if name == "hold_ratio" else f"{control[name]:.2f}" for name in names],
    ]
    return tables


def _table(systems: dict[str, dict[str, Any]]) -> list[list[str]]:
    losses: Sequence[str] = list(next(iter(systems.values())))
    rows = [["2 cameras", *(f"{loss} % lost: median ms (p99)" for loss in losses)]]
    for system, by_loss in systems.items():
        rows.append([system, *(f"{by_loss[loss]['median_ms']:.1f} ({by_loss[loss]['p99_ms']:.1f})" for loss in losses)])
    return rows


def _notes(bench: Bench, control: dict[str, float]) -> list[str]:
    notes = [
        "Loss is per packet of 1500 bytes, in both directions; DDS sends datagrams of 1400 bytes here.",
        f"At 5 % loss a robot with chunks of 10 actions held {control['hold_ratio']:.1%} of its ticks.",
    ]
    return notes if bench.peer_python else [*notes, "LeRobot and the websocket server were left out: no --peers."]
