"""python-etcd3's Lock in the workloads. Arguments: one endpoint, then the arguments of `workload.py`."""

import sys
from urllib.parse import urlparse

import etcd3
import workload


def connect(name):
    endpoint = urlparse(sys.argv[1])
    return etcd3.client(host=endpoint.hostname, port=endpoint.port).lock(name, ttl=10)


workload.main(connect)
