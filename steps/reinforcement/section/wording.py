"""The wording of this section: `say("gained", …)` fills a macro of its sentences.j2."""

from pathlib import Path

from steps.report.sentences import Sentences

say = Sentences(Path(__file__).parent)
