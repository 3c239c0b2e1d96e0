"""python -m benchmarks.peers.folio_ray: Folio on Ray Serve, as `serve run service.ray_serve:app` has it on one machine."""

import argparse
import os
import signal
import sys
import tempfile

import ray
from ray import serve

from service.ray_serve import Replicas, app


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.folio_ray")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--queue-limit", type=int, required=True, help="of each replica")
    options = parser.parse_args()
    os.environ["SERVICE_QUEUE_LIMIT"] = str(options.queue_limit)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is sent from here
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        try:
            ray.init(num_cpus=options.replicas, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
            signal.signal(signal.SIGTERM, lambda *_: sys.exit())
            serve.start(http_options={"host": "127.0.0.1", "port": options.port})
            serve.run(app(Replicas(min_replicas=options.replicas, max_replicas=options.replicas)))
            signal.pause()
        finally:
            ray.shutdown()


if __name__ == "__main__":
    main()
