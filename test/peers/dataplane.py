#!/usr/bin/python3
"""The data path of a peer whose IKE daemon runs on xfrmnull: ESP and AH by scapy.

dataplane.py LOG LOCAL FROM TO COUNT [SECONDS]

Sends COUNT echo requests from FROM to TO under the newest association that
leaves LOCAL, one every SECONDS (0.05) or as each is answered, prints how many
came back under an association ("answers: N"), and then answers echo requests
until it is killed. FROM and TO are LOCAL and the other host in transport mode,
and inner addresses in tunnel mode.

LOG is xfrmnull's: the keys, modes and UDP ports are those the daemon would
have given its kernel.
"""
import logging
import select
import socket
import struct
import sys
import time
import warnings

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)
from scapy.all import ICMP, IP, UDP, ICMPv6EchoReply, ICMPv6EchoRequest, IPv6, Raw  # noqa: E402
from scapy.layers.ipsec import AH, ESP, SecurityAssociation  # noqa: E402

NEWSA, DELSA, UPDSA = 0x10, 0x11, 0x1A
XFRMA_AUTH, XFRMA_CRYPT, XFRMA_ENCAP, XFRMA_AEAD, XFRMA_AUTH_TRUNC = 1, 2, 4, 18, 20
ATTRIBUTES = 224  # length of struct xfrm_usersa_info
CIPHERS = {"cbc(aes)": "AES-CBC", "cbc(des3_ede)": "3DES", "rfc4106(gcm(aes))": "AES-GCM",
           "ecb(cipher_null)": "NULL", "cbc(des)": "DES", "cipher_null": "NULL",
           "aes": "AES-CBC", "des3_ede": "3DES", "des": "DES"}
MACS = {"hmac(sha1)": "HMAC-SHA1-96", "hmac(sha256)": "SHA2-256-128", "hmac(sha384)": "SHA2-384-192",
        "hmac(sha512)": "SHA2-512-256", "hmac(md5)": "HMAC-MD5-96", "sha1": "HMAC-SHA1-96",
        "sha256": "SHA2-256-128", "sha384": "SHA2-384-192", "sha512": "SHA2-512-256", "md5": "HMAC-MD5-96"}
ETH_P_ALL, ETH_P_IP, ETH_P_IPV6, PACKET_OUTGOING = 3, 0x0800, 0x86DD, 4


def algorithm(attr, kind):
    """Name and key of an algorithm attribute: name[64], key bits, [ICV bits], key."""
    name = attr[:64].split(b"\0")[0].decode()
    bits, = struct.unpack_from("=I", attr, 64)
    start = 72 if kind in (XFRMA_AEAD, XFRMA_AUTH_TRUNC) else 68
    return name, attr[start:start + bits // 8]


def address(raw, family):
    return socket.inet_ntop(family, raw[:4] if family == socket.AF_INET else raw)


def attributes(body):
    at = ATTRIBUTES
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        if length < 4:
            return
        yield kind, body[at + 4:at + length]
        at += (length + 3) & ~3


def association(body):
    """Of a state message: (destination, SPI), source, UDP ports, and scapy's association."""
    family, = struct.unpack_from("=H", body, 212)
    dst, src = address(body[56:72], family), address(body[80:96], family)
    spi, = struct.unpack_from(">I", body, 72)
    args, ports = {}, None
    if body[214] == 1:  # tunnel mode
        args["tunnel_header"] = (IP if family == socket.AF_INET else IPv6)(src=src, dst=dst)
    for kind, attr in attributes(body):
        if kind in (XFRMA_CRYPT, XFRMA_AEAD):
            name, args["crypt_key"] = algorithm(attr, kind)
            args["crypt_algo"] = CIPHERS[name]
        elif kind in (XFRMA_AUTH, XFRMA_AUTH_TRUNC):
            name, args["auth_key"] = algorithm(attr, kind)
            args["auth_algo"] = MACS[name]
        elif kind == XFRMA_ENCAP:
            ports = struct.unpack_from(">HH", attr, 2)
    proto = ESP if body[76] == socket.IPPROTO_ESP else AH
    return (dst, spi), (src, ports, SecurityAssociation(proto, spi=spi, **args))


def into_udp(packet, ports):
    """ESP in UDP: scapy's own way gets the lengths wrong."""
    udp = UDP(sport=ports[0], dport=ports[1], chksum=0) / Raw(bytes(packet[ESP]))
    return IP(src=packet.src, dst=packet.dst) / udp


def out_of_udp(packet):
    """What an IP packet with ESP in UDP would be without UDP; others as they are."""
    if UDP not in packet or 4500 not in (packet[UDP].sport, packet[UDP].dport):
        return packet, False
    data = bytes(packet[UDP].payload)
    if len(data) < 8 or data[:4] == b"\0\0\0\0":
        return packet, False
    return IP(bytes(IP(src=packet.src, dst=packet.dst, proto=socket.IPPROTO_ESP) / Raw(data))), True


class Plane:
    def __init__(self, log, local):
        self.log, self.local = open(log), local
        self.known = {}  # in the order of the log; each counts its own sequence
        self.rest = ""
        self.wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self.wire.bind(("wire", ETH_P_ALL))
        # Raw sockets keep the kernel from answering "protocol unreachable".
        self.quiet = [socket.socket(family, socket.SOCK_RAW, proto) for family in (socket.AF_INET, socket.AF_INET6)
                      for proto in (socket.IPPROTO_ESP, socket.IPPROTO_AH)]
        family = socket.AF_INET6 if ":" in local else socket.AF_INET
        self.out = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)

    def load(self):
        """Reads what the daemon has done since."""
        lines = (self.rest + self.log.read()).split("\n")
        self.rest = lines.pop()
        for line in lines:
            kind, _, body = line.partition(" ")
            body = bytes.fromhex(body)
            if int(kind) in (NEWSA, UPDSA):
                key, value = association(body)
                self.known[key] = value
            elif int(kind) == DELSA:
                family, = struct.unpack_from("=H", body, 20)
                self.known.pop((address(body[:16], family), struct.unpack_from(">I", body, 16)[0]), None)

    def send(self, packet):
        self.load()
        newest = [(dst, ports, sa) for (dst, _), (src, ports, sa) in self.known.items() if src == self.local]
        if newest:
            dst, ports, sa = newest[-1]
            sealed = sa.encrypt(packet)
            self.out.sendto(bytes(into_udp(sealed, ports) if ports else sealed), (dst, 0))

    def packets(self, timeout):
        """What the wire brings within a time."""
        deadline = time.monotonic() + timeout if timeout is not None else None
        while True:
            left = None if deadline is None else max(0, deadline - time.monotonic())
            if not select.select([self.wire], [], [], left)[0]:
                return
            data, (_, ethertype, kind, _, _) = self.wire.recvfrom(65535)
            if kind != PACKET_OUTGOING and ethertype in (ETH_P_IP, ETH_P_IPV6):
                yield (IP if ethertype == ETH_P_IP else IPv6)(data)

    def receive(self, timeout):
        """The next packet that opens under a known association, or None."""
        for packet in self.packets(timeout):
            self.load()
            packet, in_udp = out_of_udp(packet)
            for proto in (ESP, AH):
                if proto not in packet:
                    continue
                _, ports, sa = self.known.get((packet.dst, packet[proto].spi), (None, None, None))
                if sa is not None and in_udp == (ports is not None):
                    # scapy does not parse what a tunnel of AH carries.
                    return parse(bytes(sa.decrypt(packet, verify=True)))
        return None

    def answer(self, p):
        """Answers an echo request; p may be anything."""
        if p is not None and ICMP in p and p[ICMP].type == 8:
            head = IP(src=p.dst, dst=p.src) / ICMP(type=0, id=p[ICMP].id, seq=p[ICMP].seq)
            self.send(head / p[ICMP].payload)
        elif p is not None and ICMPv6EchoRequest in p:
            q = p[ICMPv6EchoRequest]
            self.send(IPv6(src=p.dst, dst=p.src) / ICMPv6EchoReply(id=q.id, seq=q.seq, data=q.data))

    def ping(self, source, to, count, interval):
        answers = 0
        for seq in range(count):
            sent = time.monotonic()
            self.send(echo(source, to, seq))
            while time.monotonic() < sent + 3:
                p = self.receive(sent + 3 - time.monotonic())
                if answered(p, seq):
                    answers += 1
                    break
                self.answer(p)
            while time.monotonic() < sent + interval:
                self.answer(self.receive(sent + interval - time.monotonic()))
        return answers


def parse(data):
    return (IPv6 if data[0] >> 4 == 6 else IP)(data)


def echo(source, to, seq):
    if ":" in to:
        return IPv6(src=source, dst=to) / ICMPv6EchoRequest(id=77, seq=seq, data=b"x" * 64)
    return IP(src=source, dst=to) / ICMP(id=77, seq=seq) / Raw(b"x" * 64)


def answered(p, seq):
    if p is None:
        return False
    if ICMPv6EchoReply in p:
        return (p[ICMPv6EchoReply].id, p[ICMPv6EchoReply].seq) == (77, seq)
    return ICMP in p and (p[ICMP].type, p[ICMP].id, p[ICMP].seq) == (0, 77, seq)


def main():
    log, local, source, to, count = sys.argv[1:6]
    interval = float(sys.argv[6]) if len(sys.argv) > 6 else 0.05
    plane = Plane(log, local)
    print("ready", flush=True)
    print("answers: %d" % plane.ping(source, to, int(count), interval), flush=True)
    while True:
        plane.answer(plane.receive(None))


main()
