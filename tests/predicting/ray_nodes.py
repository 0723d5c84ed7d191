"""A Ray cluster on the loopback interface, for tests: python ray_nodes.py PORT FOLDER CPUS...

The head has no CPUs; each of CPUS is the number of those of another node. It prints a line of JSON: the process ids of
the nodes, the head's first. The cluster ends with its standard input. The environment must hold `ray_environment`.
"""

import json
import socket
import sys
import time
from contextlib import suppress

if __name__ == "__main__":
    from ray.cluster_utils import Cluster  # here, because pytest collects this file also without Ray

    port, folder, *cpus = sys.argv[1:]
    store = {"object_store_memory": 80 << 20, "include_dashboard": False}
    head = {"num_cpus": 0, "ray_client_server_port": int(port), "node_ip_address": "127.0.0.1"}
    cluster = Cluster(initialize_head=True, head_node_args={**head, **store, "temp_dir": folder})
    nodes = [cluster.head_node, *(cluster.add_node(num_cpus=int(count), **store) for count in cpus)]
    pids = [node.all_processes["raylet"][0].process.pid for node in nodes]
    for _ in range(300):  # the client server starts after the head
        with suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), 1):
            break
        time.sleep(0.1)
    print(json.dumps(pids), flush=True)  # noqa: T201
    sys.stdin.read()
    cluster.shutdown()
