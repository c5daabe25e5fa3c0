#!/usr/bin/python3
"""Tries to send in every way a program can, until SECONDS are over.

traffic.py SECONDS DEVICE ADDRESS...

To every address: small and large UDP (which must be fragmented), the same
from a socket bound to the device, TCP connections. Prints how many packets it
tried to send. What the kernel refuses counts: it was tried.
"""
import ipaddress
import socket
import sys
import time

seconds, device, addresses = float(sys.argv[1]), sys.argv[2], sys.argv[3:]


def family(address):
    return socket.AF_INET6 if ipaddress.ip_address(address.split("%")[0]).version == 6 else socket.AF_INET


def udp(address, bound):
    s = socket.socket(family(address), socket.SOCK_DGRAM)
    s.setblocking(False)
    if bound:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    return s


def target(address, port):
    return socket.getaddrinfo(address, port, family(address))[0][4]


def attempt(call):
    try:
        call()
    except OSError:
        pass


sockets = [(udp(a, bound), target(a, 4242)) for a in addresses for bound in (False, True)]
tried = 0
end = time.monotonic() + seconds
print("sending", flush=True)
while time.monotonic() < end:
    for s, to in sockets:
        attempt(lambda: s.sendto(b"leak-test-in-clear" * 4, to))
        attempt(lambda: s.sendto(b"leak-test-in-clear" * 250, to))
        tried += 2
    for a in addresses:
        s = socket.socket(family(a), socket.SOCK_STREAM)
        s.setblocking(False)
        attempt(lambda: s.connect(target(a, 4243)))
        s.close()
        tried += 1
    time.sleep(0.002)
print("tried %d" % tried, flush=True)
