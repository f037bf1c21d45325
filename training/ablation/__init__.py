"""Tables II to V of the paper, on a cohort of one's own.

Read in the order in which a row is made::

    rows         what there is to train, and in which tables it stands
    settings     how far it is scaled down
    max_pooling  the one head that is no part of the product
    footprint    seconds and memory
    study        train, read, keep
    row_result   what is kept
    figures      metrics, intervals, p-values
    published    the paper's own
    tables, document   written out
"""

from training.ablation.document import write_tables
from training.ablation.rows import ROWS, TABLES, chosen_rows
from training.ablation.settings import AblationSettings
from training.ablation.study import Study

__all__ = ["ROWS", "TABLES", "AblationSettings", "Study", "chosen_rows", "write_tables"]
