"""Whether a chat template ends, in what memory, and with the same text each time. transformers runs it in a sandbox,
which bounds neither, and tells it the time."""

import multiprocessing
import re
import resource
from multiprocessing.connection import Connection
from typing import Any

from steps.models.files import one_line

# A template of the known families takes milliseconds and kilobytes.
CPU_SECONDS = 5
MEMORY = 2**29
# Seconds, for a machine on which others compute too.
WAIT = 60
ASKED = {"role": "user", "content": "What is 1 + 1?"}
TURN = [ASKED, {"role": "assistant", "content": "2"}]
# Conversations that every step renders, each with whether it is open for an answer.
NEEDED = ((TURN, False), ([ASKED], True))
# What some render: a template may refuse a system turn.
TRIED = ((TURN * 8, False), ([*TURN, ASKED], True), ([{"role": "system", "content": "Be brief."}, *TURN], False))
# What transformers alone knows; nothing stands in its place where only names matter.
GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
# How Python writes what has no text of its own: by where it lies in memory.
ADDRESS = re.compile(r" at 0x[0-9a-f]+>")
# Templates of this process that were found good.
good: set[str] = set()


def check_template(tokenizer: Any, where: str) -> None:
    """Render a few conversations in a child process that may compute for 5 seconds and allocate 512 MiB.

    Once for each template. One that ends on these may still not end on others: it can count turns and letters.

    Args:
        where: what an error calls the tokenizer.

    Raises:
        ValueError: the template does not end, takes too much memory, cannot render a user's turn and its answer, or
            would not write the same text in every run.
    """
    if tokenizer.chat_template is None or tokenizer.chat_template in good:
        return
    # Forked, it needs no import of transformers, which takes seconds.
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_render, args=(tokenizer, theirs), daemon=True)
    child.start()
    theirs.close()
    said = None
    if ours.poll(WAIT):
        try:
            said = ours.recv_bytes(2**16).decode()
        except EOFError:  # it was killed
            said = None
    child.kill()
    child.join()
    if said is None:
        said = f"computes for more than {CPU_SECONDS} seconds or takes more memory than a conversation can need"
    if said:
        raise ValueError(f"{where}: its chat template {said}; give it another chat_template.jinja")
    good.add(tokenizer.chat_template)


def parsed(template: str) -> Any:
    """A template as Jinja's tree of names and calls. Raises jinja2's TemplateError where it is none."""
    from jinja2 import Environment

    return Environment(extensions=["jinja2.ext.loopcontrols"]).parse(GENERATION.sub("", template))


def varies(template: str) -> str | None:
    """What a template goes by besides the conversation, so that a run that is repeated or resumed would have other
    tokens; None where that is nothing. The clock, of which `today.dated` makes one day, is no such thing."""
    from jinja2 import nodes

    tree = parsed(template)
    filters = [*tree.find_all(nodes.Filter)]
    by_name = {
        one.value for used in filters for one in used.args if used.name == "map" and isinstance(one, nodes.Const)
    }
    names = {name.name for name in tree.find_all(nodes.Name)}
    return "writes at random" if "lipsum" in names or "random" in {used.name for used in filters} | by_name else None


def _render(tokenizer: Any, answer: Connection) -> None:
    """Send what is wrong with the template, nothing where all is well."""
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    said = ""
    for conversation, is_open in (*NEEDED, *TRIED):
        try:
            text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=is_open)
            if ADDRESS.search(text):
                said = "writes where a thing lies in memory, which is elsewhere in every run"
                break
        except MemoryError:
            said = f"allocates more than {MEMORY // 2**20} MiB"
            break
        # A template may raise whatever its filters raise.
        except Exception as error:
            if (conversation, is_open) in NEEDED:
                said = f"cannot render a user's turn and its answer ({one_line(error)})"
                break
    answer.send_bytes((said or varies(tokenizer.chat_template) or "").encode())
