"""Forks steps from a process that has imported what they import: at toy size nine tenths of what a step takes.

Nothing of `steps` is imported before a fork: every step reads the code as it is then. What a step leaves out of its own
imports and a library before it has loaded would not be noticed; the tests that start real processes do.

Run as: python tests/warm/server.py SOCKET
"""

import array
import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback

LIBRARIES = (
    "pandas", "scipy.stats", "matplotlib.pyplot", "datasets", "torch", "peft", "lm_eval.evaluator",
    "transformers.models.qwen3.modeling_qwen3", "trl.trainer.sft_trainer", "trl.trainer.dpo_trainer",
    "trl.trainer.grpo_trainer", "trl.trainer.reward_trainer", "torch.utils.tensorboard", "snakemake.cli", "dvc.cli",
    "dvc.repo", "jsonschema",
)  # fmt: skip
LAUNCHER = "steps.training.launch"


def serve(address: str) -> None:
    for library in LIBRARIES:
        importlib.import_module(library)
    assert threading.active_count() == 1, threading.enumerate()
    # A fork's collections neither look through the libraries nor copy their pages.
    gc.collect()
    gc.freeze()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(64)
    watched = selectors.DefaultSelector()
    watched.register(listening, selectors.EVENT_READ)
    while True:
        for key, _ in watched.select():
            if key.fileobj is listening:
                begin(listening, watched)
            elif isinstance(key.fileobj, socket.socket):
                if key.fileobj.fileno() < 0:
                    continue  # its step has just ended
                # Its other end says nothing more: it has been killed.
                watched.unregister(key.fileobj)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(key.data, signal.SIGKILL)
            else:
                end(key.fileobj, *key.data, watched)


def begin(listening: socket.socket, watched: selectors.BaseSelector) -> None:
    client, _ = listening.accept()
    text, streams = received(client)
    try:
        asked = json.loads(text)
    except ValueError:  # whoever asked was killed in the midst of it
        for stream in streams:
            os.close(stream)
        client.close()
        return
    process = os.fork()
    if not process:
        listening.close()
        watched.close()
        client.close()
        run(asked, streams)
    for stream in streams:
        os.close(stream)
    with contextlib.suppress(BrokenPipeError):  # it was killed since: its end is read next
        client.sendall(process.to_bytes(8))
    watched.register(client, selectors.EVENT_READ, process)
    watched.register(os.pidfd_open(process), selectors.EVENT_READ, (process, client))


def received(client: socket.socket) -> tuple[bytes, array.array]:
    """What is asked, as far as it came, and the standard streams."""
    text, streams = b"", array.array("i")
    with contextlib.suppress(ConnectionError):
        size, ancillary, *_ = client.recvmsg(8, socket.CMSG_LEN(3 * 4))
        for _, _, data in ancillary:
            streams.frombytes(data)
        text = client.recv(int.from_bytes(size), socket.MSG_WAITALL)
    return text, streams


def end(descriptor: int, process: int, client: socket.socket, watched: selectors.BaseSelector) -> None:
    watched.unregister(descriptor)
    os.close(descriptor)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with contextlib.suppress(KeyError):
        watched.unregister(client)
    with contextlib.suppress(OSError):
        client.sendall((code if code >= 0 else 256 - code).to_bytes(8))
    client.close()


def start(words: list[str]) -> None:
    """What `python` does with these words. A launcher that becomes its step stays the fork that it is."""
    _, module, *rest = words
    sys.argv, sys.orig_argv = [module, *rest], ["python", *words]
    become = os.execv
    if module == LAUNCHER:
        os.execv = lambda _, words: sys.exit(start(words[1:]))
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        os.execv = become


def run(asked: dict, streams: array.array) -> None:
    """In the fork: what `python -m module …` does."""
    code = 1
    try:
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        import torch

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        sys.path[0] = asked["folder"]
        importlib.invalidate_caches()
        start(asked["words"])
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
