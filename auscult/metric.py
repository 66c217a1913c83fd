"""Which way is better, by metric: what dev chooses by, tables star and existing tools ask for."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from auscult.record import Record

Direction = Literal["higher", "lower", ""]  # "": the metric describes, and knows no better

_HIGHER = (
    *("accuracy", "macro_accuracy", "balanced_accuracy", "slot_accuracy", "macro_f1"),
    *("slot_type_f1", "map", "mtwv", "selectivity"),
)
_LOWER = (
    *("per", "wer", "wer_lm", "cer", "slot_value_cer", "eer", "min_dcf", "der", "loss"),
    *("seconds", "codelength"),
)
DIRECTIONS: dict[str, Direction] = {
    **dict.fromkeys(_HIGHER, "higher"),
    **dict.fromkeys(_LOWER, "lower"),
    **dict.fromkeys(("jsd_same_head", "jsd_all_pairs", "jsd_next_layer"), ""),
}
SAID = "direction"  # the setting of a record that says it of a metric that is not ours


def direction_of(metric: str, unit: str = "", said: object = "") -> Direction:
    """Return which way is better.

    Args:
        metric: What is ours goes by :data:`DIRECTIONS`, whatever is said.
        unit: Of its values; a share of a metric that nobody knows is better the higher it is, a
            quantity is neither.
        said: ``higher`` or ``lower`` by the task that the metric is of.
    """
    if metric in DIRECTIONS:
        return DIRECTIONS[metric]
    declared: Direction = "higher" if said == "higher" else "lower" if said == "lower" else ""
    return declared or ("" if unit else "higher")


def direction_of_record(record: "Record") -> Direction:
    """Return which way a record's value is better; its task need not be installed."""
    return direction_of(record.metric, record.unit, record.config.get(SAID))
