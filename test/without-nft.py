#!/usr/bin/python3
"""Runs a command as on a kernel without nftables: it cannot open netfilter
netlink sockets (a seccomp filter answers EPROTONOSUPPORT).

without-nft.py COMMAND...
"""
import ctypes
import errno
import os
import struct
import sys

AF_NETLINK, NETLINK_NETFILTER, SYS_SOCKET = 16, 12, 41
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF: load a word, jump if equal, return
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, FILTER = 22, 38, 2


def instruction(code, k, yes=0, no=0):
    return struct.pack("=HBBI", code, yes, no, k)


# struct seccomp_data: the number at 0, the arguments' low words at 16, 24, 32.
program = b"".join([
    instruction(LOAD, 0), instruction(EQUAL, SYS_SOCKET, 0, 5),
    instruction(LOAD, 16), instruction(EQUAL, AF_NETLINK, 0, 3),
    instruction(LOAD, 32), instruction(EQUAL, NETLINK_NETFILTER, 0, 1),
    instruction(RETURN, ERRNO | errno.EPROTONOSUPPORT),
    instruction(RETURN, ALLOW),
])
code = ctypes.create_string_buffer(program, len(program))
fprog = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
prctl = ctypes.CDLL(None, use_errno=True).prctl
for args in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, FILTER, fprog, 0, 0)):
    if prctl(*args) != 0:
        sys.exit("prctl: " + os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[1], sys.argv[1:])
