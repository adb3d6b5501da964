"""Linear cross-entropy: classes scored from hidden states and a classifier, the logits never all there."""
