"""The reference learners of the two-stage protocol, and the controls by which every task of it is checked."""

from __future__ import annotations

from iml_bench.protocols.base import BELIEVES, OWN, REJECTS, Reading, ZeroControl
from iml_bench.protocols.two_stage.design import PLACEBOS, SHARED_TAGS, worn_by
from iml_bench.protocols.two_stage.spec import TwoStageTask, n_false


def attitudes(task: TwoStageTask) -> dict[str, dict[str, str]]:
    """What each reference learner makes of a definition by its tag; what is not named it ignores, and guesses.

    A tag deserves to be believed where it told the truth more often than not in stage 1, and to be rejected where it
    lied more often than not. The oracle does both and takes everything else at its word: a tag that was as often right
    as wrong (``alpha`` one half), one that stage 1 never showed, and tags of a single definition, which are true. The
    sceptic believes what deserves it and nothing else.
    """
    sizes = task.group_sizes
    # Of a tag that stage 1 does not show nothing is known.
    truthful = {tag: 1 - n_false(task, tag) / sizes[tag] if sizes[tag] else 0.5 for tag in ("reliable", "unreliable")}
    everything = dict.fromkeys((*SHARED_TAGS, *PLACEBOS, OWN), BELIEVES)
    return {
        "oracle": everything | {tag: REJECTS for tag, share in truthful.items() if share < 0.5},
        "sceptic": {tag: BELIEVES for tag, share in truthful.items() if share > 0.5},
        "gullible": everything,
        "random": {},
    }


def reads(task: TwoStageTask) -> dict[str, Reading]:
    """The IML of each: what is believed is answered rightly, what is rejected wrongly, and the rest by chance."""
    if task.until == "stage1":
        return {}
    found = {}
    for name, attitude in attitudes(task).items():
        first, second = (attitude.get(tag) for tag in worn_by(task))
        found[name] = Reading(
            value=float((first == BELIEVES) - (second == BELIEVES)),
            of_chance=float((first is None) - (second is None)),
            exact=first is not None and second is not None,
        )
    return found


def zero_controls(task: TwoStageTask) -> tuple[ZeroControl, ...]:
    """Stage 1 with a single step, which teaches nothing about tags; and one tag in both places.

    With one tag in both places the branches of a pair are the same training. Those of a square are not: another
    group is not defined in each.
    """
    if task.until == "stage1":
        return ()
    identical = ZeroControl(
        "identical tags read exactly 0", {"stage2_tags": "identical", "crossover": "pair"}, ("iml", "iml_nats")
    )
    if task.stages == 1:  # there is no stage before the definitions under both tags
        return (identical,)
    return ZeroControl("an untrained stage 1 reads 0", {"recipe.stage1.steps": 1}), identical
