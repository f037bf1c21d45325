"""A process that decodes needs no network and starts no programs: the kernel refuses them to it.

A filter of system calls (seccomp, Linux) is a short program of the kernel's packet filter machine.
Where the kernel or the processor is not one of those below, nothing is refused; memory, time and
files are limited all the same.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys

__all__ = ["refuse_network_and_programs"]

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2  # prctl(2)
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM  # seccomp(2)
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET = 0, 4  # struct seccomp_data

# By processor: AUDIT_ARCH, and the numbers of socket, connect, bind, listen, sendto, sendmsg,
# execve, execveat, ptrace, process_vm_writev, io_uring_setup; unlink, rename and their kin.
_SYSTEM_CALLS = {
    "x86_64": (
        0xC000003E,
        (41, 42, 49, 50, 44, 46, 59, 322, 101, 311, 425, 87, 263, 82, 264, 316),
    ),
    "aarch64": (0xC00000B7, (198, 203, 200, 201, 206, 211, 221, 281, 117, 271, 425, 35, 38, 276)),
}


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse_network_and_programs() -> bool:
    """Have the kernel answer EPERM to this process from now on; return whether it will."""
    machine = platform.machine()
    if not sys.platform.startswith("linux") or machine not in _SYSTEM_CALLS:
        return False
    code = _filter(*_SYSTEM_CALLS[machine])
    program = _Program(len(code) // 8, code)
    prctl = ctypes.CDLL(None).prctl
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program)) == 0)


def _filter(architecture: int, refused: tuple[int, ...]) -> bytes:
    """The filter: another architecture's calls and the `refused` numbers fail, the rest passes."""
    last = len(refused)  # jumps count the instructions between
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE_OFFSET),
        (_JUMP_IF_EQUAL, 0, last + 2, architecture),
        (_LOAD, 0, 0, _NUMBER_OFFSET),
        *((_JUMP_IF_EQUAL, last - place, 0, number) for place, number in enumerate(refused)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
