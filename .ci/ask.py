"""An app: asks the lab's site over and over, each time with a fresh socket, by every means in turn.

    ask.py ROUNDS SITE4 SITE6 RESOLVER      prints {"tcp": {"uk": 300}, "udp": ...}
"""

import collections
import json
import random
import socket
import struct
import sys

WAIT = 4.0


def tcp(site, family):
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(WAIT)
        s.connect((site, 80))
        s.sendall(b"GET / HTTP/1.0\r\nHost: site\r\n\r\n")
        answer = b""
        while piece := s.recv(4096):
            answer += piece
    return json.loads(answer.partition(b"\r\n\r\n")[2])["region"]


def udp(site, family):
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(WAIT)
        said = b"%d" % random.getrandbits(40)
        s.sendto(said, (site, 7))
        region, _, echo = s.recv(2048).partition(b" ")
    return region.decode() if echo == said else "garbled"


def dns(resolver):
    ident = random.getrandbits(16)
    name = b"".join(bytes([len(part)]) + part for part in (b"whoami", b"test")) + b"\0"
    question = name + struct.pack("!HH", 16, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(WAIT)
        s.sendto(struct.pack("!6H", ident, 0x0100, 1, 0, 0, 0) + question, (resolver, 53))
        answer = s.recv(2048)
    if struct.unpack("!H", answer[:2])[0] != ident:
        return "garbled"
    # One TXT record with one string behind the question: name, type, class, TTL, length, string.
    text = answer[12 + len(question) + 12 :]
    return text[1 : 1 + text[0]].decode()


def main():
    rounds, site4, site6, resolver = int(sys.argv[1]), *sys.argv[2:5]
    ways = {
        "tcp": lambda: tcp(site4, socket.AF_INET),
        "udp": lambda: udp(site4, socket.AF_INET),
        "dns": lambda: dns(resolver),
        "tcp6": lambda: tcp(site6, socket.AF_INET6),
        "udp6": lambda: udp(site6, socket.AF_INET6),
    }
    seen = {way: collections.Counter() for way in ways}
    for _ in range(rounds):
        for way, ask in ways.items():
            try:
                seen[way][ask()] += 1
            except (OSError, ValueError, IndexError) as error:
                seen[way][type(error).__name__] += 1
    print(json.dumps(seen))


main()
