"""Score cards: from a batch's rows to a state that merges, from a state to figures."""
