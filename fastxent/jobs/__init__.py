"""What a command does with files: score, compare, calibrate, by several readers, workers or runs."""
