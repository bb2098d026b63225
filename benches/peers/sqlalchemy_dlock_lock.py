"""sqlalchemy-dlock's lock in the workloads. Arguments: an address, then those of `workload.py`."""

import sys

import workload
from sqlalchemy import create_engine
from sqlalchemy_dlock import create_sadlock

engine = create_engine(f"postgresql+psycopg:{sys.argv[1].partition(':')[2]}")


def connect(name):
    # As its documentation has it: a connection in autocommit, so that no transaction stays open.
    return create_sadlock(engine.connect().execution_options(isolation_level="AUTOCOMMIT"), name)


workload.main(connect)
