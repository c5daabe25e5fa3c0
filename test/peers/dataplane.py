#!/usr/bin/python3
"""The data path of a peer whose IKE daemon runs on xfrmnull: ESP by scapy.

dataplane.py LOG LOCAL serve              answer ICMP echo under ESP
dataplane.py LOG LOCAL ping REMOTE COUNT  send echo requests under ESP, count
                                          the answers that come under ESP

LOG is xfrmnull's: the keys are those the daemon would have given its kernel.
"""
import logging
import select
import socket
import struct
import sys
import warnings

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)
from scapy.all import ICMP, IP, Raw  # noqa: E402
from scapy.layers.ipsec import ESP, SecurityAssociation  # noqa: E402

NEWSA, UPDSA = 0x10, 0x1A
XFRMA_AUTH, XFRMA_CRYPT, XFRMA_AEAD, XFRMA_AUTH_TRUNC = 1, 2, 18, 20
ATTRIBUTES = 224  # length of struct xfrm_usersa_info
CIPHERS = {"cbc(aes)": "AES-CBC", "cbc(des3_ede)": "3DES", "rfc4106(gcm(aes))": "AES-GCM",
           "ecb(cipher_null)": "NULL", "aes": "AES-CBC", "des3_ede": "3DES"}
MACS = {"hmac(sha1)": "HMAC-SHA1-96", "hmac(sha256)": "SHA2-256-128", "hmac(md5)": "HMAC-MD5-96",
        "sha1": "HMAC-SHA1-96", "sha256": "SHA2-256-128", "md5": "HMAC-MD5-96"}


def algorithm(attr, kind):
    """Name and key of an algorithm attribute: name[64], key bits, [ICV bits], key."""
    name = attr[:64].split(b"\0")[0].decode()
    bits, = struct.unpack_from("=I", attr, 64)
    start = 72 if kind in (XFRMA_AEAD, XFRMA_AUTH_TRUNC) else 68
    return name, attr[start:start + bits // 8]


def association(body):
    """(source, destination, SPI) and scapy's association for a state message."""
    dst = socket.inet_ntoa(body[56:60])
    spi, = struct.unpack_from(">I", body, 72)
    src = socket.inet_ntoa(body[80:84])
    args, at = {}, ATTRIBUTES
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        if length < 4:
            break
        attr = body[at + 4:at + length]
        if kind in (XFRMA_CRYPT, XFRMA_AEAD):
            name, args["crypt_key"] = algorithm(attr, kind)
            args["crypt_algo"] = CIPHERS[name]
        elif kind in (XFRMA_AUTH, XFRMA_AUTH_TRUNC):
            name, args["auth_key"] = algorithm(attr, kind)
            args["auth_algo"] = MACS[name]
        at += (length + 3) & ~3
    return (src, dst, spi), SecurityAssociation(ESP, spi=spi, **args)


class Plane:
    def __init__(self, log, local):
        self.log, self.local = log, local
        self.known = {}  # in the order of the log; each counts its own sequence
        self.raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ESP)
        self.raw.bind((local, 0))
        self.out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)

    def load(self):
        with open(self.log) as log:
            for line in log:
                kind, _, body = line.partition(" ")
                if int(kind) in (NEWSA, UPDSA):
                    key, sa = association(bytes.fromhex(body))
                    self.known.setdefault(key, sa)

    def send(self, remote, packet):
        self.load()
        newest = [sa for (src, dst, _), sa in self.known.items() if (src, dst) == (self.local, remote)]
        self.out.sendto(bytes(newest[-1].encrypt(packet)), (remote, 0))

    def receive(self, timeout):
        """The next packet that opens under a known association, or None."""
        while select.select([self.raw], [], [], timeout)[0]:
            packet = IP(self.raw.recv(65535))
            self.load()
            sa = self.known.get((packet.src, packet.dst, packet[ESP].spi))
            if sa is not None:
                return IP(bytes(sa.decrypt(packet, verify=True)))
        return None


def serve(plane):
    while True:
        p = plane.receive(None)
        if ICMP in p and p[ICMP].type == 8:
            answer = IP(src=plane.local, dst=p.src) / ICMP(type=0, id=p[ICMP].id, seq=p[ICMP].seq)
            plane.send(p.src, answer / p[ICMP].payload)


def ping(plane, remote, count):
    answers = 0
    for seq in range(count):
        plane.send(remote, IP(src=plane.local, dst=remote) / ICMP(id=77, seq=seq) / Raw(b"x" * 64))
        p = plane.receive(3)
        if p is not None and ICMP in p and (p[ICMP].type, p[ICMP].seq) == (0, seq):
            answers += 1
    print("answers: %d" % answers)
    return 0 if answers == count else 1


def main():
    log, local, what = sys.argv[1:4]
    plane = Plane(log, local)
    print("ready", flush=True)
    if what == "serve":
        serve(plane)
    sys.exit(ping(plane, sys.argv[4], int(sys.argv[5])))


main()
