#!/usr/bin/env python3
"""Who answers, and who measures how long nobody does, for .ci/lab-mesh.

  serve NAME ADDR                 echo at port 7 of ADDR: UDP answers "NAME " + the datagram, TCP
                                  each line as it is
  udp   ADDR TEXT SECONDS         one question, sent again each 300 ms: prints the answer
  flood ADDR TEXT COUNT           COUNT datagrams of 800 bytes that begin with TEXT: prints how
                                  many were answered
  watch udp|tcp ADDR SECONDS LOG  questions each 20 ms, by one socket or one connection: a line of
                                  LOG for each answer, with the time it came; "end" if all went well
  silence LOG FROM TO             the longest time without an answer between two times, in ms
  first LOG FROM                  when the first answer after FROM came, in ms from there

Times are seconds of the clock of the day. Everything ends by itself, but for serve (SIGTERM).
"""
import socket
import sys
import threading
import time

PORT = 7
EVERY = 0.02


def serve(name, addr):
    def tcp_line(connection):
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    def tcp(listener):
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=quiet, args=(tcp_line, connection), daemon=True).start()

    listener = socket.create_server((addr, PORT), backlog=64)
    threading.Thread(target=tcp, args=(listener,), daemon=True).start()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((addr, PORT))
    while True:
        data, peer = sock.recvfrom(65535)
        try:
            sock.sendto(name.encode() + b" " + data, peer)
        except OSError:
            pass


def quiet(work, *arguments):
    try:
        work(*arguments)
    except OSError:
        pass  # who asked is gone


def udp(addr, text, seconds):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(0.3)
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        try:
            sock.sendto(text.encode(), (addr, PORT))
            return print(sock.recvfrom(65535)[0].decode())
        except OSError:
            time.sleep(0.02)  # an error that comes at once must not make this spin
    print("no answer")


def flood(addr, text, count):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(0.5)
    sock.connect((addr, PORT))
    answered = 0
    for i in range(int(count)):
        try:
            sock.send(f"{text} {i} ".encode().ljust(800, b"."))
            sock.recv(65535)
            answered += 1
        except OSError:
            time.sleep(0.02)
    print(answered)


def watch(kind, addr, seconds, log):
    end = time.time() + float(seconds)
    with open(log, "w", buffering=1) as out:
        try:
            (watch_udp if kind == "udp" else watch_tcp)(addr, end, out)
            out.write("end\n")
        except OSError as error:
            out.write(f"broken: {error}\n")


def watch_udp(addr, end, out):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(EVERY)
    number = 0
    while (now := time.time()) < end:
        number += 1
        try:
            sock.sendto(f"{number}".encode(), (addr, PORT))
            sock.recv(65535)
            out.write(f"{time.time():.4f}\n")
        except OSError:
            pass  # nothing came, or there is no way for the moment: that is what is measured
        time.sleep(max(0.0, now + EVERY - time.time()))


def watch_tcp(addr, end, out):
    # One line at a time: the answer to each is awaited as long as the connection lives.
    connection = socket.create_connection((addr, PORT), timeout=5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(60)
    number = 0
    while (now := time.time()) < end:
        number += 1
        line, heard = f"{number}\n".encode(), b""
        connection.sendall(line)
        while not heard.endswith(b"\n"):
            part = connection.recv(4096)
            if not part:
                raise OSError("closed by the other end")
            heard += part
        if heard != line:
            raise OSError(f"{heard!r} is not the answer to {line!r}")
        out.write(f"{time.time():.4f}\n")
        time.sleep(max(0.0, now + EVERY - time.time()))


def times(log):
    with open(log) as lines:
        return [float(line) for line in lines if line[:1].isdigit()]


def silence(log, start, end):
    start, end = float(start), float(end)
    seen = [start, *(t for t in times(log) if start < t < end), end]
    print(round(1000 * max(b - a for a, b in zip(seen, seen[1:]))))


def first(log, start):
    seen = [t for t in times(log) if t >= float(start)]
    print(round(1000 * (seen[0] - float(start))) if seen else "never")


COMMANDS = {"serve": serve, "udp": udp, "flood": flood, "watch": watch, "silence": silence,
            "first": first}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    try:
        COMMANDS[sys.argv[1]](*sys.argv[2:])
    except KeyboardInterrupt:
        pass
