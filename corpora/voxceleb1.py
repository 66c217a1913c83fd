"""``voxceleb1:DIR``: VoxCeleb1 for speaker identification and, by ``veri_split``, verification.

The official list (``veri_test_class.txt`` or ``iden_split.txt``, the same format: 1, 2 or 3 for
train, dev or test and a path) splits each speaker's videos. Without it a split is made likewise:
no video stands in two splits.

For verification test is what the list of trials names (``1 PATH PATH`` where one speaker says both,
else 0), and train are the utterances of all speakers that it does not name. SUPERB's list is
OpenSLR's ``voxceleb1_test_v2.txt``, the publisher's first list ``veri_test.txt`` (37,720 trials)
with the speakers' numbers for their names. The cleaned ``veri_test2.txt`` (37,611) is taken where
neither is there; its scores are not SUPERB's.
"""

from pathlib import Path

from auscult.dataset import Trial
from auscult.errors import UserError
from auscult.text import read_lines
from auscult.tree import find

from .item import Item, Listing
from .splitting import DEV_SHARE, hold_out

PLACES = ("wav", "dev/wav", "test/wav")
LISTS = ("veri_test_class.txt", "iden_split.txt")
TRIALS = ("voxceleb1_test_v2.txt", "veri_test.txt", "veri_test2.txt")  # the cleaned one last
VERIFICATION = "veri_split"
SPLITS = {"1": "train", "2": "dev", "3": "test"}


def read(folder: Path, split: str | None) -> Listing:
    """List the utterances of ``folder``.

    Raises:
        UserError: Verification was asked for, and there is no list of trials.
    """
    files = {
        path.relative_to(folder / place).as_posix(): path
        for place in PLACES
        for path in find(folder / place, "id*/*/*.wav")
    }
    if split == VERIFICATION:
        listing, chosen = _verification(folder, list(files))
    else:
        listing, chosen = _identification(folder, list(files))
    meta = _meta(folder / "vox1_meta.csv")
    for name, part in chosen.items():
        speaker, video, _ = name.split("/")
        sex, nationality = meta.get(speaker, (None, None))
        listing.items.append(
            Item(
                id=_utterance(name),
                path=files.get(name, folder / PLACES[0] / name),
                split=part,
                speaker=speaker,
                sex=sex,
                labels={"video": video} | ({"nationality": nationality} if nationality else {}),
            )
        )
    return listing


def _identification(folder: Path, files: list[str]) -> tuple[Listing, dict[str, str]]:
    """Return an empty listing, and the split of each file that is used."""
    official = next((folder / name for name in LISTS if (folder / name).is_file()), None)
    listing = Listing([], expected=tuple(SPLITS.values()) if official else ("train",))
    if official is None:
        listing.notes.append(
            f"{folder} holds neither {' nor '.join(LISTS)}: train, dev and test were made by "
            "video within each speaker."
        )
        return listing, _made(files)
    chosen = {}
    for number, line in enumerate(read_lines(official), start=1):
        part, _, name = line.strip().partition(" ")
        if line.strip() and (part not in SPLITS or name.count("/") != 2):
            listing.problems.append(f"{official} line {number} reads {line!r}, not '1 PATH'")
        elif line.strip():
            chosen[name.strip()] = SPLITS[part]
    if left := len(set(files) - chosen.keys()):
        listing.notes.append(f"{left} files are not in {official} and are not used.")
    return listing, chosen


def _verification(folder: Path, files: list[str]) -> tuple[Listing, dict[str, str]]:
    """Return a listing with the trials only, and the split of each file that is used."""
    listed = next((folder / name for name in TRIALS if (folder / name).is_file()), None)
    if listed is None:
        raise UserError(
            f"{folder} holds no list of trials for --split {VERIFICATION}; put "
            f"{' or '.join(TRIALS)} into it."
        )
    listing = Listing([], split_column=VERIFICATION, expected=("train", "test"))
    chosen: dict[str, str] = {}
    for number, line in enumerate(read_lines(listed), start=1):
        target, *names = line.split() or [""]
        if target in ("0", "1") and [name.count("/") for name in names] == [2, 2]:
            first, second = map(_utterance, names)
            listing.trials.append(Trial(first, second, same=target == "1"))
            chosen |= dict.fromkeys(names, "test")
        elif target:
            listing.problems.append(f"{listed} line {number} reads {line!r}, not '1 PATH PATH'")
    tested = {name.split("/")[0] for name in chosen}
    unused = [name for name in files if name not in chosen and name.split("/")[0] in tested]
    chosen |= {name: "train" for name in files if name.split("/")[0] not in tested}
    listing.notes.append(
        f"Trials are those of {listed.name}; {len(unused)} utterances of its {len(tested)} "
        "speakers stand in none and are not used."
    )
    return listing, chosen


def _utterance(name: str) -> str:
    return name.removesuffix(".wav").replace("/", "-")


def _made(names: list[str]) -> dict[str, str]:
    """Split each speaker's videos into train, dev and test, as far as they reach."""
    videos: dict[str, dict[str, int]] = {}
    for name in names:
        speaker, video, _ = name.split("/")
        sizes = videos.setdefault(speaker, {})
        sizes[video] = sizes.get(video, 0) + 1
    split_of: dict[tuple[str, str], str] = {}
    for speaker, sizes in videos.items():
        test = hold_out(sizes, DEV_SHARE)
        rest = {video: size for video, size in sizes.items() if video not in test}
        dev = hold_out(rest, DEV_SHARE)
        for video in sizes:
            part = "test" if video in test else "dev" if video in dev else "train"
            split_of[speaker, video] = part
    return {name: split_of[name.split("/")[0], name.split("/")[1]] for name in names}


def _meta(path: Path) -> dict[str, tuple[str, str]]:
    """Return sex and nationality of each speaker in vox1_meta.csv, which has tabs."""
    if not path.is_file():
        return {}
    rows = [row for line in read_lines(path) if len(row := line.split("\t")) >= 4]
    return {row[0]: (row[2].strip(), row[3].strip()) for row in rows[1:]}
