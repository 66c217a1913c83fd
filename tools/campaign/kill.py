"""Kill every verb at random moments and type it again: it must end as if nothing had happened.

python tools/campaign/kill.py                        # every verb, 10 kills each
python tools/campaign/kill.py --verb probe run --runs 3 --seed 7
python tools/campaign/kill.py --executor local:2     # verbs that have one, against serial

Each run begins in empty folders, gets SIGKILL, SIGINT or SIGTERM at a moment drawn from the time
that an unbroken run takes (one in three is killed a second time), and is then typed again. It must
end with status 0, with the records, weights and files of the unbroken run, without a traceback and
without temporary files. With --executor the killed runs have several processes, and the unbroken
one has not: the numbers are equal all the same.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import verb as verbs  # noqa: E402

SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)


def kill_verb(
    name: str, runs: int, inputs: Path, folder: Path, chance: random.Random, executor: str
) -> list[str]:
    """Return one sentence for each run that did not end as the unbroken one."""
    verb = verbs.VERBS[name]
    log = folder / "log"
    several = ("--executor", executor, "--threads", 1) if executor else ()
    whole = verbs.run((*verb.words(inputs, folder / "whole"), *several[2:]), folder / "cache", log)
    if whole.status != 0:
        return [f"the unbroken run failed: {whole.said[-600:]}"]
    wanted = verbs.outcome(folder / "whole", verb.clocked)
    if executor:  # for how long it takes; another cache, so that all is done
        words = (*verb.words(inputs, folder / "several"), *several)
        whole = verbs.run(words, folder / "cache-of-several", log)
    problems = []
    for number in range(runs):
        out, cache = folder / f"out{number}", folder / f"cache{number}"
        words = (*verb.words(inputs, out), *several)
        told = []
        for _ in range(1 + (chance.random() < 1 / 3)):
            told.append(_killed(words, cache, log, chance, whole.seconds))
        ended = verbs.run(words, cache, log)
        how = f"run {number}, after {' and '.join(told)}"
        if ended.status != 0:
            problems.append(f"{how}: status {ended.status}: {ended.said[-600:]}")
        elif different := verbs.differing(wanted, verbs.outcome(out, verb.clocked)):
            problems.append(f"{how}: other results in {', '.join(different)}")
        elif ended.traceback or any("Traceback" in text for text in told):
            problems.append(f"{how}: a traceback")
        elif left := [*verbs.left_over(out), *verbs.left_over(cache)]:
            problems.append(f"{how}: temporary files are left: {', '.join(left)}")
        for used in (out, cache):
            shutil.rmtree(used, ignore_errors=True)
    return problems


def _killed(
    words: verbs.Words, cache: Path, log: Path, chance: random.Random, seconds: float
) -> str:
    """Start a command and kill it; return how."""
    number = chance.choice(SIGNALS)
    moment = chance.uniform(0, seconds)
    began = time.monotonic()
    process = verbs.start(words, cache, log)
    time.sleep(moment)
    os.kill(process, number)
    ended = verbs.wait(process, log, began)
    trace = f", Traceback: {ended.said[-1500:]}" if ended.traceback else ""
    return f"{number.name} at {moment:.2f} s (status {ended.status}{trace})"


def main() -> int:
    """Run the campaign; return 1 where something did not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--verb", nargs="*", choices=list(verbs.VERBS), help="all where none")
    parser.add_argument("--executor", default="", help="of the runs that are killed: local:N")
    parser.add_argument("--runs", type=int, default=10, help="of each verb")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    verbs.import_all()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs"
        verbs.make_inputs(inputs)
        having = verbs.EXECUTED if options.executor else verbs.VERBS
        for name in options.verb or having:
            place = Path(folder) / name.replace(" ", "-")
            place.mkdir()
            began = time.monotonic()
            chance = random.Random(f"{options.seed} {name}")
            problems = kill_verb(name, options.runs, inputs, place, chance, options.executor)
            failed += len(problems)
            held = options.runs - len(problems)
            print(f"{name:14} {held} of {options.runs} held, {time.monotonic() - began:.0f} s")
            for problem in problems:
                print(f"    {problem}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
