"""How much memory this process may still use."""

from collections.abc import Iterable
from pathlib import Path

SHARE = 0.6  # of the memory that is free, for the clips; the rest is for the model and what else runs
_GROUPS = "/sys/fs/cgroup"


def available_memory(proc: Path = Path("/proc"), groups: Path = Path(_GROUPS)) -> int | None:
    """Returns the bytes of memory that are free, to this process's control group too; None if the system says nothing.

    Args:
        proc: where Linux describes processes and memory.
        groups: where it describes control groups, by which containers and batch systems limit memory.
    """
    found = [*_of_system(proc), *_of_groups(proc, groups)]
    return min(found, default=None)


def _of_system(proc: Path) -> Iterable[int]:
    try:
        for line in (proc / "meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                yield int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):  # another system
        return


def _of_groups(proc: Path, groups: Path) -> Iterable[int]:
    """Yields what the limits of this process's group, and of those that it is in, leave."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":  # version 2
            folder, limit, usage = groups, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            folder, limit, usage = groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = folder / name.strip("/")
        # In a container the group's own folder is the root that is seen, whatever its name outside.
        for place in {folder, group, *(parent for parent in group.parents if folder in parent.parents)}:
            try:
                most, used = int((place / limit).read_text()), int((place / usage).read_text())
                cached = _file_cache(place / "memory.stat")
            except (OSError, ValueError):  # "max": no limit
                continue
            yield max(0, most - used + cached)


def _file_cache(stat: Path) -> int:
    """Returns the bytes of files in memory, which count as used but make room when it is needed."""
    try:
        values = dict(line.split() for line in stat.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(values.get("inactive_file", values.get("total_inactive_file", 0)))
