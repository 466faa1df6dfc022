"""LeRobot's asynchronous inference: its own gRPC server, its own messages, a model that costs nothing.

The client does what its ``RobotClient`` does for one observation, on one thread: pickle and send it, ask for the
actions, unpickle them. Its server runs as it is; the floor under its latency (``inference_latency``) is a setting of
its own.
Both sides unpickle what the other sends: run it on loopback or between namespaces only.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Mapping
from concurrent import futures
from typing import Any

import grpc
from lerobot.async_inference.configs import PolicyServerConfig
from lerobot.async_inference.helpers import TimedObservation
from lerobot.async_inference.policy_server import PolicyServer
from lerobot.transport import services_pb2, services_pb2_grpc
from lerobot.transport.utils import grpc_channel_options, send_bytes_in_chunks
from lerobot.utils.constants import OBS_STR
from lerobot.utils.feature_utils import hw_to_dataset_features

from benchmarks.folders import CAMERAS, CHUNK, STATE_DIM, make_observation
from benchmarks.peers.lerobot_policy import load
from benchmarks.worker import Server, Side, serve, timed

TIMEOUT_S = 30.0


class Client(Side):
    def __init__(self, config: Mapping[str, Any]) -> None:
        self._channel = grpc.insecure_channel(f"{config['host']}:{config['port']}", grpc_channel_options())
        self._stub = services_pb2_grpc.AsyncInferenceStub(self._channel)
        self._stub.Ready(services_pb2.Empty(), timeout=TIMEOUT_S)
        observation = make_observation(config["height"], config["width"])
        state = observation["observation.state"]
        self._raw: dict[str, Any] = {f"{joint + 1}.pos": float(state[joint]) for joint in range(STATE_DIM)}
        self._raw.update({camera: observation[f"observation.images.{camera}"] for camera in CAMERAS})
        self._raw["task"] = ""
        self._step = 0
        super().__init__({"bytes_there": len(pickle.dumps(self._timed())), "bytes_back": self._exchange()})

    def _timed(self) -> TimedObservation:
        self._step += 1
        return TimedObservation(timestamp=time.time(), timestep=self._step, observation=self._raw, must_go=True)

    def _exchange(self) -> int:
        data = pickle.dumps(self._timed())
        self._stub.SendObservations(
            send_bytes_in_chunks(data, services_pb2.Observation, silent=True), timeout=TIMEOUT_S
        )
        answer = self._stub.GetActions(services_pb2.Empty(), timeout=TIMEOUT_S)
        assert len(pickle.loads(answer.data)) == CHUNK
        return len(answer.data)

    def round(self) -> Mapping[str, float]:
        return timed(self._exchange)

    def close(self) -> None:
        self._channel.close()


def listen(config: Mapping[str, Any]) -> Server:
    """``floor_s``: its ``inference_latency``; None leaves what LeRobot ships."""
    floor = {} if config.get("floor_s") is None else {"inference_latency": config["floor_s"]}
    policy_server = PolicyServer(PolicyServerConfig(host=config["host"], **floor))
    policy_server.policy, policy_server.preprocessor, policy_server.postprocessor = load(config["folder"])
    policy_server.policy_type, policy_server.device, policy_server.actions_per_chunk = "act", "cpu", CHUNK
    picture = (config["height"], config["width"], 3)
    features: dict[str, Any] = {f"{joint + 1}.pos": float for joint in range(STATE_DIM)}
    policy_server.lerobot_features = hw_to_dataset_features(
        features | dict.fromkeys(CAMERAS, picture), OBS_STR, use_video=False
    )
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    services_pb2_grpc.add_AsyncInferenceServicer_to_server(policy_server, server)
    port = server.add_insecure_port(f"{config['host']}:0")
    server.start()
    return Server({"port": port}, lambda: server.stop(0))


def make(config: dict[str, Any]) -> Side:
    return listen(config) if config["role"] == "server" else Client(config)


if __name__ == "__main__":
    sys.exit(serve(make))
