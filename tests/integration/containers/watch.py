"""Runs inside a container: what passes on the command topic and of chunks within some seconds, as JSON."""

import json
import sys
import threading
import time

from inference_service.transport import create_node

seconds = float(sys.argv[1])
counts = {"chunks": 0, "commands": 0}
lock = threading.Lock()


def counter(key):
    def count(_message):
        with lock:
            counts[key] += 1

    return count


node = create_node("watch")
node.create_subscription("/actions/act", "ibrobot_msgs/msg/VariantsList", counter("chunks"))
node.create_subscription("/arm_position_controller/commands", "std_msgs/msg/Float64MultiArray", counter("commands"))
time.sleep(seconds)
node.close()
sys.stdout.write(json.dumps(counts) + "\n")
