"""Refuses the interpreters on which locks would not be safe. The package imports it first, for that alone."""

import sys

# The bookkeeping of who holds what relies on CPython's global lock: single steps of dicts and lists, also
# where a signal handler interrupts. Nothing of it was tested without.
if "t" in getattr(sys, "abiflags", ""):
    raise ImportError(
        "globallock needs CPython's global lock, and this CPython is a free-threaded build: use the ordinary "
        f"build of CPython {sys.version_info[0]}.{sys.version_info[1]}"
    )

try:
    from . import _rust as _rust
except ImportError as error:
    if "subinterpreters" not in str(error):
        raise
    # One runtime and one thread that logs serve the whole process. They would call into the interpreter that
    # came first, also after its end.
    raise ImportError(
        "globallock cannot be used in a subinterpreter: import it in the main interpreter "
        "(with mod_wsgi: WSGIApplicationGroup %{GLOBAL})"
    ) from None
