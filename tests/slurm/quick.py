"""Snakemake that looks at the queue once a second. The plugin pauses ten seconds longer after every look at which no
job has ended, which no setting limits: the tests would mostly wait."""

import asyncio
import signal

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


async def sleep(self) -> None:
    await asyncio.sleep(1)


if __name__ == "__main__":
    RemoteExecutor.sleep = sleep
    # Tests that a shell runs in the background would hand down that Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
