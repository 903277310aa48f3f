"""A clock of a program's own, which can be set back while it runs; the machine's clock is left alone. It needs a C compiler."""

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

VARIABLE = "HUBFLOW_TEST_CLOCK"
SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *ahead; /* seconds that the clock is off, in a file that processes share */
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("HUBFLOW_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *found = mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (found != MAP_FAILED)
        ahead = found;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(clock, now);
    if (!code && ahead && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *ahead;
    return code;
}

int gettimeofday(struct timeval *now, void *zone)
{
    struct timespec exact;
    int code = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return code;
}

time_t time(time_t *now)
{
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now)
        *now = exact.tv_sec;
    return exact.tv_sec;
}
"""


def compiler() -> str | None:
    """The C compiler, where there is one."""
    return shutil.which("cc")


def is_there() -> bool:
    """Whether this program has a clock of its own."""
    return VARIABLE in os.environ


def begin_again(folder: Path) -> None:
    """Start this program again, with the same arguments and a clock of its own in `folder`."""
    source, library, clock = folder / "clock.c", folder / "clock.so", folder / "clock"
    source.write_text(SOURCE, encoding="utf-8")
    clock.write_bytes(struct.pack("q", 0))
    subprocess.run([str(compiler()), "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    own = {VARIABLE: str(clock), "LD_PRELOAD": str(library)}
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **own})  # noqa: S606


def folder() -> Path:
    """The folder of this program's clock."""
    return Path(os.environ[VARIABLE]).parent


def seconds_ahead() -> int:
    """How far the clock is ahead of the machine's."""
    return int(struct.unpack("q", Path(os.environ[VARIABLE]).read_bytes())[0])


def set_clock(seconds: int) -> None:
    """Set how far the clock is ahead, for this program and the processes that it started."""
    with Path(os.environ[VARIABLE]).open("r+b") as stream:
        stream.write(struct.pack("q", seconds))
