"""Seals and opens ESP packets, plain and in UDP, and AH packets with scapy.

Reads a JSON list of jobs from standard input, writes the list of results:
{"packet": hex} or {"error": text}. Keys and packets are hexadecimal.

scapy 2.5 leaves the high half of an extended sequence number out of the ICV of
ESP with separate integrity (RFC 4303 2.2.1): that ICV is computed here.
"""
import hmac
import json
import logging
import sys
import warnings

warnings.filterwarnings("ignore")
logging.getLogger("scapy").setLevel(logging.ERROR)

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import AH, ESP, SecurityAssociation


def header(job):
    layer = IPv6 if ":" in job["src"] else IP
    return layer(src=job["src"], dst=job["dst"])


def parse(raw):
    return (IPv6 if raw[0] >> 4 == 6 else IP)(raw)


def association(job):
    if job["ah"]:
        return SecurityAssociation(
            AH,
            spi=job["spi"],
            auth_algo=job["auth"],
            auth_key=bytes.fromhex(job["integ"]),
            tunnel_header=header(job) if job["tunnel"] else None,
            esn_en=job["esn"],
            esn=job["seq"] >> 32,
            seq_num=job["seq"] & 0xFFFFFFFF,
        )
    return SecurityAssociation(
        ESP,
        spi=job["spi"],
        crypt_algo=job["crypt"],
        crypt_key=bytes.fromhex(job["enc"]),
        auth_algo=job["auth"] or None,
        auth_key=bytes.fromhex(job["integ"]),
        tunnel_header=header(job) if job["tunnel"] else None,
        nat_t_header=UDP(sport=job["sport"], dport=job["dport"]) if job["dport"] else None,
        esn_en=job["esn"],
        esn=job["seq"] >> 32,
        seq_num=job["seq"] & 0xFFFFFFFF,
    )


def strip(job, raw):
    """Takes the UDP header out: scapy opens ESP in UDP over IPv4 alone."""
    p = parse(raw)
    udp = p[UDP]
    total = p.plen if p.version == 6 else p.len - p.ihl * 4
    chain = p.version == 6 and p.nh != 17
    if udp.sport != job["sport"] or udp.dport != job["dport"] or not chain and udp.len != total:
        raise ValueError("UDP header is wrong: %r" % udp)
    if p.version == 4 and udp.chksum != 0:
        raise ValueError("UDP checksum over IPv4")
    if p.version == 6:
        again = p.copy()
        del again[UDP].chksum
        if parse(bytes(again))[UDP].chksum != udp.chksum:
            raise ValueError("UDP checksum over IPv6 is wrong")
    esp = bytes(udp.payload)
    under = udp.underlayer
    under.remove_payload()
    if p.version == 6:
        under.nh, p.plen = 50, p.plen - 8
    else:
        under.proto, p.len = 50, p.len - 8
        del p.chksum
    return bytes(p) + esp


def name_udp(raw):
    """Names UDP behind IPv6 extension headers, which scapy 2.5 forgets."""
    raw, at, end = bytearray(raw), 6, 40
    while raw[0] >> 4 == 6 and raw[at] in (0, 43, 60):
        at, end = end, end + (raw[end + 1] + 1) * 8
    if raw[0] >> 4 == 6:
        raw[at] = 17
    return bytes(raw)


ICVS = {
    "HMAC-MD5-96": ("md5", 12),
    "HMAC-SHA1-96": ("sha1", 12),
    "SHA2-256-128": ("sha256", 16),
    "SHA2-384-192": ("sha384", 24),
    "SHA2-512-256": ("sha512", 32),
}


def swap_icv(job, packet, before, after):
    """Checks the ICV over the packet and `before`, puts one over `after`."""
    name, size = ICVS[job["auth"]]
    key = bytes.fromhex(job["integ"])
    body, icv = packet[:-size], packet[-size:]
    p = parse(body)
    esp = bytes(p[UDP].payload if UDP in p else p[ESP])
    if hmac.new(key, esp + before, name).digest()[:size] != icv:
        raise ValueError("ICV over the extended sequence number is wrong")
    return body + hmac.new(key, esp + after, name).digest()[:size]


def run(job):
    raw = bytes.fromhex(job["packet"])
    high = (job["seq"] >> 32).to_bytes(4, "big")
    swap = job["esn"] and job["auth"] and not job["ah"]
    sa = association(job)
    if job["op"] == "open" and job["dport"]:
        raw = strip(job, raw)
    if job["op"] == "seal":
        sealed = bytes(sa.encrypt(parse(raw)))
        if job["dport"]:
            sealed = name_udp(sealed)
        return swap_icv(job, sealed, b"", high) if swap else sealed
    if swap:
        raw = swap_icv(job, raw, high, b"")
    return bytes(sa.decrypt(parse(raw)))


def result(job):
    try:
        return {"packet": run(job).hex()}
    except Exception as e:
        return {"error": "%s: %s" % (type(e).__name__, e)}


json.dump([result(job) for job in json.load(sys.stdin)], sys.stdout)
