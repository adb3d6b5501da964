"""The worst rows: a short sorted list under a total order, so that lists merge in any order."""

from fastxent.kernels.jit import inline

WORST_USED = 5  # Tally.counts: how many rows the list has


@inline
def _worse(nll, row_id, label, other_nll, other_id, other_label):
    """A total order: larger NLL, then lower id, then lower label."""
    if nll != other_nll:
        return nll > other_nll
    if row_id != other_id:
        return row_id < other_id
    return label < other_label


@inline
def note_worst(counts, worst_nll, worst_id, worst_label, nll, row_id, label):
    """Keep the row if it is among the worst so far: an insertion into a short sorted list."""
    k = counts[WORST_USED]
    if k == worst_nll.size:
        if k == 0 or not nll >= worst_nll[k - 1]:
            return
        k -= 1
        if not _worse(nll, row_id, label, worst_nll[k], worst_id[k], worst_label[k]):
            return
    counts[WORST_USED] = k + 1
    while k > 0 and _worse(nll, row_id, label, worst_nll[k - 1], worst_id[k - 1], worst_label[k - 1]):
        worst_nll[k] = worst_nll[k - 1]
        worst_id[k] = worst_id[k - 1]
        worst_label[k] = worst_label[k - 1]
        k -= 1
    worst_nll[k] = nll
    worst_id[k] = row_id
    worst_label[k] = label
