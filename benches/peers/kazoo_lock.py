"""kazoo's Lock in the workloads. Arguments: hosts, then the arguments of `workload.py`."""

import sys

import workload
from kazoo.client import KazooClient


def connect(name):
    client = KazooClient(hosts=sys.argv[1])
    client.start()
    return client.Lock("/" + name)


workload.main(connect)
