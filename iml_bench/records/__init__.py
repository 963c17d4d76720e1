"""The versioned result of a cell, and the folder that holds them."""

from iml_bench.records.attachments import Attachment, Attachments
from iml_bench.records.files import WriteError
from iml_bench.records.names import record_path
from iml_bench.records.provenance import CHECKPOINTING, Provenance, this_provenance
from iml_bench.records.reading import (
    LARGEST_ITEMS,
    LARGEST_RECORD,
    LONGEST_ANSWER,
    NewerRecordError,
    Stored,
    as_named,
    columns_of,
    damage_of,
    read_items,
    read_record,
    read_table,
    scores_of,
    written,
)
from iml_bench.records.record import (
    MOST_ROWS,
    SCHEMA_VERSION,
    Draft,
    Failure,
    ItemFile,
    Record,
    Timing,
)
from iml_bench.records.store import Store, in_order, iterate_done, latest_by_key

__all__ = [
    "CHECKPOINTING",
    "LARGEST_ITEMS",
    "LARGEST_RECORD",
    "LONGEST_ANSWER",
    "MOST_ROWS",
    "SCHEMA_VERSION",
    "Attachment",
    "Attachments",
    "Draft",
    "Failure",
    "ItemFile",
    "NewerRecordError",
    "Provenance",
    "Record",
    "Store",
    "Stored",
    "Timing",
    "WriteError",
    "as_named",
    "columns_of",
    "damage_of",
    "in_order",
    "iterate_done",
    "latest_by_key",
    "read_items",
    "read_record",
    "read_table",
    "record_path",
    "scores_of",
    "this_provenance",
    "written",
]
