"""python -m tests.end_to_end.ray_nodes PORT: a Ray cluster of two nodes on loopback, and two replicas of the service on it.

Settings are SERVICE_* variables, as of `serve run`. Says `ready` when both serve; ends, and all of the cluster with it, when its
standard input does. A process of its own, for Ray warns of much, and a warning is an error in the tests.
"""

import sys
from typing import Any

import ray
from ray import serve
from ray.cluster_utils import Cluster

from service.ray_serve import Replicas, app

NODE: dict[str, Any] = {
    "num_cpus": 1,  # what a replica takes: each node gets one
    "node_ip_address": "127.0.0.1",
    "object_store_memory": 80 * 2**20,  # the least that Ray takes
    "include_dashboard": False,
}


def main(port: int) -> None:
    cluster: Any = Cluster(initialize_head=True, head_node_args=NODE)  # partly typed
    cluster.add_node(**NODE)
    ray.init(address=cluster.address, log_to_driver=False)
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    serve.run(app(Replicas(min_replicas=2, max_replicas=2)))
    print("ready", flush=True)
    sys.stdin.read()
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
