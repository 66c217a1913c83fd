"""Setting part of the training data aside, the same part every time."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from .item import Item

DEV_SHARE = 0.15


def hold_out(sizes: Mapping[str, int], share: float) -> set[str]:
    """Choose groups that together hold about ``share`` of the whole.

    The choice depends on the groups' names and sizes only. At least one group is chosen where
    there are two or more, and never all.

    Args:
        sizes: Number of members of each group.
        share: Of all members, 0 to 1.
    """
    if len(sizes) < 2:
        return set()
    wanted = share * sum(sizes.values())
    order = sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest())
    chosen: set[str] = set()
    held = 0
    for name in order:
        nearer = 2 * held + sizes[name] <= 2 * wanted  # with this group than without it
        if nearer and len(chosen) < len(sizes) - 1:
            chosen.add(name)
            held += sizes[name]
    return chosen or {min(order, key=lambda name: sizes[name])}


def make_dev(items: Sequence[Item]) -> tuple[list[Item], str]:
    """Set about 15 % of train aside as dev, where there is a train and no dev.

    Whole speakers are set aside, and single utterances where an item has no speaker. Where train
    and test share speakers the corpus is about speakers, and dev takes part of each of them.

    Returns:
        The items, and a sentence that says what was done; empty where nothing was.
    """
    splits = {item.split for item in items}
    train = [item for item in items if item.split == "train"]
    if "dev" in splits or not train:
        return list(items), ""
    tested = {item.speaker for item in items if item.split == "test"} - {None}
    speakers = {item.speaker for item in train} - {None}
    if 2 * len(tested & speakers) > len(tested):
        held = _some_of_every_speaker(train)
        how = "some utterances of every speaker, because test shares its speakers with train"
    elif len(speakers) >= 2:
        sizes = Counter(_group(item) for item in train)
        chosen = hold_out(sizes, DEV_SHARE)
        held = {item.id for item in train if _group(item) in chosen}
        away = sorted(str(name) for name in speakers if f"speaker {name}" in chosen)
        how = f"speakers {', '.join(away[:5])}{', ...' if len(away) > 5 else ''}"
        how = how if away else "utterances without a speaker"
    else:
        held = hold_out({item.id: 1 for item in train}, DEV_SHARE)
        how = "single utterances, for want of speakers"
    if not held:
        return list(items), ""
    moved = [
        replace(item, split="dev") if item.split == "train" and item.id in held else item
        for item in items
    ]
    return moved, (
        f"There is no dev split: {len(held)} of {len(train)} training utterances were set aside "
        f"as dev ({how})."
    )


def _some_of_every_speaker(train: Sequence[Item]) -> set[str]:
    utterances: dict[str | None, dict[str, int]] = {}
    for item in train:
        utterances.setdefault(item.speaker, {})[item.id] = 1
    enough = [ids for ids in utterances.values() if len(ids) >= 4]
    held = set[str]().union(*(hold_out(ids, DEV_SHARE) for ids in enough))
    return held or hold_out({item.id: 1 for item in train}, DEV_SHARE)


def _group(item: Item) -> str:
    return f"utterance {item.id}" if item.speaker is None else f"speaker {item.speaker}"
