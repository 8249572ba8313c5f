"""Windows' rules on another system, for the product's own code.

What Windows' Python lacks cannot be found, and files that are open or mapped can be neither replaced nor
deleted. Only what the product's files ask for is refused, by the caller's file. Libraries (torch, diffusers,
ComfyUI) have code for Windows of their own, which cannot run here, so they keep this system's modules.
"""

from __future__ import annotations

import builtins
import importlib
import os
import sys
import types
from pathlib import Path

UNIX_MODULES = """
    _curses _posixsubprocess crypt curses fcntl grp nis ossaudiodev posix pty pwd readline resource spwd
    syslog termios tty
"""
UNIX_ONLY = set(UNIX_MODULES.split())
MISSING_IN_OS = """
    chown chroot confstr copy_file_range ctermid eventfd fchdir fchown fdatasync fork forkpty fpathconf
    fstatvfs getegid geteuid getgid getgrouplist getgroups getloadavg getpgid getpgrp getpriority
    getresgid getresuid getsid getuid getxattr initgroups killpg lchown listxattr lockf major makedev
    memfd_create minor mkfifo mknod nice O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_SYNC openpty
    pathconf pipe2 posix_fadvise posix_fallocate posix_spawn posix_spawnp pread preadv pwrite pwritev
    readv register_at_fork removexattr sched_getaffinity sched_getparam sched_getscheduler
    sched_setaffinity sched_yield sendfile setegid seteuid setgid setgroups setpgid setpriority setsid
    setuid setxattr statvfs sync sysconf tcgetpgrp tcsetpgrp ttyname uname wait wait3 wait4 waitid
    WIFEXITED WIFSIGNALED WNOHANG writev
"""
MISSING_IN_SIGNAL = """
    alarm getitimer pause pthread_kill pthread_sigmask setitimer SIGALRM SIGCHLD SIGCONT SIGHUP
    siginterrupt SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 SIGWINCH sigwait
"""
MISSING = {
    "os": set(MISSING_IN_OS.split()),
    "select": {"epoll", "poll"},
    "signal": set(MISSING_IN_SIGNAL.split()),
    "socket": {"AF_UNIX"},
    "sys": set(),
    "time": {"clock_gettime", "clock_settime", "pthread_getcpuclockid", "tzset"},
}
INSTEAD = {("os", "name"): "nt", ("sys", "platform"): "win32"}
_real_import, _real_import_module = builtins.__import__, importlib.import_module


class AsOnWindows(types.ModuleType):
    """A module of the standard library without what it lacks on Windows."""

    def __init__(self, real: types.ModuleType):
        super().__init__(real.__name__)
        self.__dict__["_real"] = real

    def __getattr__(self, name: str):
        real = self.__dict__["_real"]
        if name in MISSING[real.__name__]:
            raise AttributeError(f"module {real.__name__!r} has no attribute {name!r} on Windows")
        return INSTEAD.get((real.__name__, name), getattr(real, name))

    def __setattr__(self, name: str, value) -> None:
        setattr(self.__dict__["_real"], name, value)


def install(root: Path, folder: Path | None = None) -> None:
    """Put the product's files below `root` under Windows' rules, and the files below `folder` too."""
    ours = tuple(
        os.path.realpath(root / part)
        for part in ("sage_core", "nodes", "__init__.py", "install.py", "start.py")
    )
    proxies = {name: AsOnWindows(_real_import_module(name)) for name in MISSING}

    def is_ours(names: dict | None) -> bool:
        file = (names or {}).get("__file__")
        return file is not None and os.path.realpath(file).startswith(ours)

    def refuse(name: str) -> None:
        if name.split(".")[0] in UNIX_ONLY:
            raise ModuleNotFoundError(f"No module named {name!r} on Windows", name=name)

    def import_(name, names=None, local=None, fromlist=(), level=0):
        if level or not is_ours(names):
            return _real_import(name, names, local, fromlist, level)
        refuse(name)
        return proxies.get(name) or _real_import(name, names, local, fromlist, level)

    def import_module(name, package=None):
        if is_ours(sys._getframe(1).f_globals):
            refuse(name)
            return proxies.get(name) or _real_import_module(name, package)
        return _real_import_module(name, package)

    builtins.__import__, importlib.import_module = import_, import_module
    if folder is not None and sys.platform == "linux":
        _guard_files(os.path.realpath(folder))


def mapped_or_open(path: str, process: str = "self") -> str | None:
    """How the process uses the file, or None."""
    with open(f"/proc/{process}/maps", encoding="utf-8") as f:
        if any(line.rstrip("\n").endswith(f" {path}") for line in f):
            return "mapped"
    for number in os.listdir(f"/proc/{process}/fd"):
        try:
            if os.readlink(f"/proc/{process}/fd/{number}") == path:
                return "open"
        except OSError:  # closed since it was listed
            continue
    return None


def _guard_files(folder: str) -> None:
    def guarded(real, paths: int):
        def action(*args, **options):
            for path in args[:paths]:
                where = os.path.realpath(path) if options.get("dir_fd") is None else ""
                if where.startswith(folder) and os.path.isfile(where) and (how := mapped_or_open(where)):
                    raise PermissionError(
                        13, f"Access is denied, since this process has the file {how}", str(path)
                    )
            return real(*args, **options)

        return action

    for name, paths in (("replace", 2), ("rename", 2), ("unlink", 1), ("remove", 1)):
        setattr(os, name, guarded(getattr(os, name), paths))
