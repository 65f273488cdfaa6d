"""Python imports this at start when its folder is on PYTHONPATH: it watches what a run reaches for.

Every way out to a network raises and is written down; a Unix socket leads nowhere but to this machine. Whoever opens a
file of the embedded world's truth is written down.
"""

import os
import socket
import sys

REACHING = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname")


def note_truth(event, args):
    if event == "open" and "/truth/" in str(args[0]):
        with open(os.environ["TEMPER_TRUTH_LOG"], "a") as log:
            log.write(f"{os.path.basename(sys.argv[0])}\n")


def refuse(event, args):
    if event not in REACHING:
        return
    if isinstance(args[0], socket.socket) and args[0].family == socket.AF_UNIX:
        return
    with open(os.environ["TEMPER_OFFLINE_LOG"], "a") as log:
        log.write(f"{event} {args[1:] if isinstance(args[0], socket.socket) else args} by {sys.argv}\n")
    raise PermissionError(f"{event}: this run is offline")


if "TEMPER_OFFLINE_LOG" in os.environ:
    sys.addaudithook(refuse)
if "TEMPER_TRUTH_LOG" in os.environ:
    sys.addaudithook(note_truth)
