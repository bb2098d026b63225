"""Puts the program `globallock` into a wheel, from where pip installs it as a command.

    python scripts/command.py WHEEL PROGRAM

The command is the program itself, because what starts it must see the program's own signals and exit status:
no interpreter is in between. The program must need no newer C library than the wheel's tag promises.
"""

import base64
import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


def newest_glibc(program):
    """The newest version of the C library whose functions a program calls."""
    symbols = subprocess.run(
        ["objdump", "-T", program], stdout=subprocess.PIPE, check=True, text=True
    ).stdout
    return max(tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_([\d.]+)", symbols))


def promised_glibc(wheel):
    """The version that the tag of a wheel promises to be enough; none in a wheel for this host alone."""
    tags = re.findall(r"manylinux_(\d+)_(\d+)", wheel.name)
    return min((tuple(map(int, tag)) for tag in tags), default=None)


def entry(name, content):
    """A line of RECORD."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}\n"


def add(wheel, program):
    """Writes the wheel again, with the program and without its symbols."""
    with tempfile.TemporaryDirectory() as folder:
        stripped = Path(folder, "globallock")
        subprocess.run(["strip", "-o", stripped, program], check=True)
        content = stripped.read_bytes()
        needed, promised = newest_glibc(stripped), promised_glibc(wheel)
    if promised is not None and needed > promised:
        sys.exit(f"{program} needs glibc {needed}, but {wheel.name} promises that {promised} is enough")
    fresh = wheel.with_suffix(".fresh")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED) as new:
        [record] = [name for name in old.namelist() if name.endswith(".dist-info/RECORD")]
        information = zipfile.ZipInfo(record.replace(".dist-info/RECORD", ".data/scripts/globallock"))
        if information.filename in old.namelist():
            sys.exit(f"{wheel.name} has the program already")
        # pip takes over that it may be executed.
        information.external_attr = 0o100755 << 16
        information.compress_type = zipfile.ZIP_DEFLATED
        for item in old.infolist():
            if item.filename != record:
                new.writestr(item, old.read(item))
        new.writestr(information, content)
        lines = entry(information.filename, content) + old.read(record).decode()
        new.writestr(record, lines)
    fresh.replace(wheel)


if __name__ == "__main__":
    add(Path(sys.argv[1]), Path(sys.argv[2]))
