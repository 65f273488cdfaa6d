"""Has a step run by the server, in this folder, with this environment and these standard streams, and ends as it ends.

The connection lives as long as this process: when it is killed, the server kills the step.
"""

import array
import json
import os
import signal
import socket
import sys

server = socket.socket(socket.AF_UNIX)
server.connect(os.environ["TEMPER_WARM"])
asked = json.dumps({"words": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
streams = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))
server.sendmsg([len(asked).to_bytes(8)], [streams])
server.sendall(asked)
step = int.from_bytes(server.recv(8, socket.MSG_WAITALL))
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda number, _: os.kill(step, number))
# Retried where a signal comes (PEP 475).
status = int.from_bytes(server.recv(8, socket.MSG_WAITALL) or (1).to_bytes(8))
if status < 256:
    sys.exit(status)
signal.signal(status - 256, signal.SIG_DFL)
os.kill(os.getpid(), status - 256)
