#!/usr/bin/env python3
"""Apps for the labs: each asks in one way and says in one line what came of it.

  region ADDR              the region that answers one HTTP request
  many COUNT ADDR...       so many HTTP requests, each on a connection of its own, in turn
  large ADDR COUNT         datagrams of 8,000 bytes echoed
  bulk ADDR BYTES [RATE]   a body over TCP, read at no more than RATE KiB a second
  closed ADDR              a datagram to a port nobody listens on
  refused ADDR             a connection that the host itself refuses, at once
  held ADDR                a connection that stays open, and how it ends
  traceroute ADDR          hops and last answer, by UDP
  server PORT              greets whoever connects
  greet ADDR PORT          what such a server says
"""
import collections
import errno
import json
import socket
import sys
import time


def family(addr):
    return socket.AF_INET6 if ":" in addr else socket.AF_INET


def connect(addr, port=80, wait=4):
    sock = socket.socket(family(addr), socket.SOCK_STREAM)
    sock.settimeout(wait)
    sock.connect((addr, port))
    return sock


def request(sock, path="/", last=True):
    close = "Connection: close\r\n" if last else ""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: site\r\n{close}\r\n".encode())


def region(addr):
    try:
        with connect(addr) as sock:
            request(sock)
            data = b""
            while chunk := sock.recv(4096):
                data += chunk
        return json.loads(data.split(b"\r\n\r\n", 1)[1])["region"]
    except (OSError, ValueError, KeyError, IndexError):
        return "none"


def tally(answers):
    return ", ".join(f"{n} {who}" for who, n in sorted(collections.Counter(answers).items()))


def many(count, *addrs):
    return tally(region(addrs[turn % len(addrs)]) for turn in range(int(count)))


def large(addr, count):
    payload = bytes(97 + i % 26 for i in range(8000))
    answers = []
    for _ in range(int(count)):
        with socket.socket(family(addr), socket.SOCK_DGRAM) as sock:
            sock.settimeout(1)
            sock.connect((addr, 7))
            answer = b"none "
            for _ in range(3):
                try:
                    sock.send(payload)
                    answer = sock.recv(65535)
                    break
                except OSError:
                    continue
            who, _, rest = answer.partition(b" ")
            answers.append(who.decode() if rest == payload else "none")
    return tally(answers)


def bulk(addr, count, rate="0"):
    got, begun = 0, time.monotonic()
    with connect(addr, wait=20) as sock:
        request(sock, f"/bytes/{count}")
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(1)
        while chunk := sock.recv(65536):
            got += len(chunk)
            if int(rate):
                time.sleep(max(0, got / (int(rate) * 1024) - (time.monotonic() - begun)))
    return got


def closed(addr):
    with socket.socket(family(addr), socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.connect((addr, 9999))
        sock.send(b"anybody?")
        try:
            sock.recv(64)
            return "answered"
        except ConnectionRefusedError:
            return "refused"
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, "silence")


def refused(addr):
    begun = time.monotonic()
    try:
        connect(addr, wait=2).close()
        return "connected"
    except OSError as error:
        if isinstance(error, socket.timeout) or time.monotonic() - begun > 0.5:
            return "late"
        return "unreachable"


def held(addr):
    with connect(addr, wait=60) as sock:
        request(sock, last=False)
        sock.recv(4096)
        try:
            while True:
                time.sleep(0.5)
                request(sock, last=False)
                if not sock.recv(4096):
                    return "closed"
        except ConnectionResetError:
            return "reset"
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, "silence")


def traceroute(addr):
    ip_recverr, msg_errqueue, unreachable = 11, 0x2000, 3
    for hop in range(1, 6):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, ip_recverr, 1)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hop)
            sock.connect((addr, 33433 + hop))
            sock.send(b"hop")
            for _ in range(20):
                time.sleep(0.05)
                try:
                    _, control, _, _ = sock.recvmsg(512, 512, msg_errqueue)
                except OSError:
                    continue
                for _, _, data in control:
                    # struct sock_extended_err, then who said so.
                    if len(data) >= 24 and data[5] == unreachable:
                        return f"{hop} {socket.inet_ntoa(data[20:24])}"
                break
    return "no end"


def server(port):
    listener = socket.create_server(("", int(port)))
    while True:
        sock, _ = listener.accept()
        with sock:
            sock.sendall(b"hello")


def greet(addr, port):
    try:
        with connect(addr, int(port), wait=1) as sock:
            return sock.recv(64).decode()
    except OSError:
        return "none"


if __name__ == "__main__":
    commands = (region, many, large, bulk, closed, refused, held, traceroute, server, greet)
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    for command in commands:
        if command.__name__ == name:
            print(command(*sys.argv[2:]))
            break
    else:
        sys.exit(__doc__)
